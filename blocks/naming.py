"""How messages call a block, so that a person finds the one to mend."""

from __future__ import annotations

from prefect.blocks.core import Block


def name_of(block: Block) -> str:
    """Return `block <type>/<name>` as Prefect addresses a saved block, or the name of its type before it is saved."""
    saved = block._block_document_name  # pyright: ignore[reportPrivateUsage] - Prefect has no public one
    return f"block {block.get_block_type_slug()}/{saved}" if saved else f"block {block.get_block_type_name()}"

"""Which files are migrations, in which order they come, and what about them is ambiguous."""

from __future__ import annotations

from enum import StrEnum


class Irregularity(StrEnum):
    """What makes the order of migrations ambiguous; refused unless the environment's settings allow it."""

    SAME_VERSION = "same-version"
    OUT_OF_ORDER = "out-of-order"
    MIXED_VERSIONS = "mixed-versions"
    VARIANT = "variant"

"""Attestations from a terminal, in the name of who is logged in there."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import timedelta

import click

from deployments.runs import connect

_VALID = timedelta(days=1)


def attest(environment: str, git_ref: str, given: Sequence[str]) -> None:
    """Keep attestations given as `ITEM=NOTE`, all of them or, when one is not acceptable, none.

    Raises:
        InvalidInputError: no such item, or no note.
    """
    from runbook.errors import InvalidInputError
    from runbook.rules.manual_items import ManualItem
    from runbook.stages import manual_verification

    wanted: list[tuple[ManualItem, str]] = []
    for text in given:
        name, _, note = text.partition("=")
        if name not in list(ManualItem) or not note.strip():
            allowed = f"ITEM=NOTE with one of {', '.join(ManualItem)}"
            raise InvalidInputError("--attest", text, allowed, "The note says how you know; it is shown to everybody.")
        wanted.append((ManualItem(name), note))
    connections = connect(environment)
    for item, note in wanted:
        made = manual_verification.attest(connections, git_ref, item, by=getpass.getuser(), note=note, valid=_VALID)
        click.echo(f"{item.text}: attested by {made.by} until {made.until:%Y-%m-%d %H:%M} UTC")

"""Runbook, "Manual Verification" of the checklist: a person attests what no machine can know."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from pydantic import Field

from blocks.environment import load_environment
from runbook.rules.manual_items import ManualItem
from runbook.stages import manual_verification


@flow(name="attest", flow_run_name="attest-{environment}-{item}", retries=0)
def attest(
    environment: str,
    item: ManualItem,
    by: Annotated[str, Field(min_length=1)],
    git_ref: str,
    note: str = "",
    valid_h: Annotated[float, Field(gt=0, le=168)] = 24,
) -> State[Any]:
    """Attest an item of the checklist for a commit; the checklist names you, your words and until when they hold.

    Args:
        environment: name of a registered environment, for example `local` or `production`.
        item: what you answer for.
        by: your name.
        git_ref: branch, tag or commit that is about to be released; another commit needs another word.
        note: what you have seen, or where it is written.
        valid_h: hours for which it holds.
    """
    made = manual_verification.attest(
        load_environment(environment).connect(), git_ref, item, by=by, note=note, valid=timedelta(hours=valid_h)
    )
    return Completed(message=f"{made.item.text}: attested by {made.by} until {made.until:%Y-%m-%d %H:%M} UTC")

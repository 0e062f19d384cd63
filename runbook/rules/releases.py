"""Releases: which commits announce a breaking change, and which release a rollback goes back to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from runbook.errors import RefusedError

_BREAKING_HEADER = re.compile(r"[A-Za-z]+(?:\([^()]*\))?!:")
_BREAKING_FOOTER = re.compile(r"^BREAKING[ -]CHANGE(?:: | #)\s*\S", re.MULTILINE)


@dataclass(frozen=True)
class ReleaseRecord:
    """One time that a release received the public traffic, as recorded; `at` is aware UTC.

    `verified` says whether independent probes confirmed it afterwards; `backup_id` is the backup taken before it.
    """

    release_id: str
    git_sha: str
    version: str
    verified: bool
    marked_bad: bool
    backup_id: str | None
    at: datetime


def breaking_changes(messages: Sequence[str]) -> list[str]:
    """Return the first line of each commit message that announces a breaking change, in order.

    That is a `!` before the colon (`feat!:`, `fix(scope)!:`, any type) or a line `BREAKING CHANGE: ...` or
    `BREAKING-CHANGE: ...`, in upper case.

    Source: runbook, "Stage 1: Pre-Deployment Validation" ("Check for breaking changes"); Conventional Commits 1.0.0,
    rules 11 to 16.
    """
    found: list[str] = []
    for message in messages:
        text = message.strip()
        if _BREAKING_HEADER.match(text) or _BREAKING_FOOTER.search(text):
            found.append(text.split("\n", 1)[0].rstrip())
    return found


def choose_target(history: Sequence[ReleaseRecord], active_release_id: str) -> ReleaseRecord:
    """Return the release that a rollback from `active_release_id` goes back to; `history` is oldest first.

    It is the last one recorded verified before the active one last became active; not one that any record marks
    bad, and not the active one or another build of its commit. Never simply the one before.

    Raises:
        RefusedError: the active release is not in the history, or nothing before it qualifies.

    Source: runbook, "Rollback Types" ("Application reverted to previous version").
    """
    positions = [index for index, record in enumerate(history) if record.release_id == active_release_id]
    if not positions:
        raise RefusedError(
            f"The active release {active_release_id} is not among the {len(history)} recorded releases, so what came "
            "before it is unknown. Give the traffic to a recorded one in the host's console, or deploy."
        )
    active = history[positions[-1]]
    bad = {record.release_id for record in history if record.marked_bad}
    looked_at: list[str] = []
    for record in reversed(history[: positions[-1]]):
        objection = _objection(record, active, bad)
        if objection is None:
            return record
        looked_at.append(f"{record.release_id} ({objection})")
    raise RefusedError(
        f"No release before {active_release_id} can be gone back to. "
        f"Looked at: {', '.join(looked_at) or 'nothing, it is the first one recorded'}."
    )


def recorded_target(history: Sequence[ReleaseRecord], git_sha: str) -> ReleaseRecord | None:
    """Return the release of a commit that can be gone back to when what is active was never recorded.

    That is the commit which should be active by the records: the last one that a run has seen. None when it was not
    verified, or is marked bad.
    """
    records = [record for record in history if record.git_sha == git_sha]
    if not records or any(record.marked_bad for record in records):
        return None
    return next((record for record in reversed(records) if record.verified), None)


def _objection(record: ReleaseRecord, active: ReleaseRecord, bad: set[str]) -> str | None:
    if record.release_id == active.release_id:
        return "the active release"
    if record.git_sha == active.git_sha:
        return "same commit as the active release"
    if record.release_id in bad:
        return "marked bad"
    return None if record.verified else "not verified"

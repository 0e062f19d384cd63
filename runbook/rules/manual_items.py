"""The manual items of the checklist: answered by evidence where there is some, otherwise by a person who says so.

Source: runbook, "Manual Verification" of the checklist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from runbook.rules.checklist import MANUAL_ITEMS, Check, Outcome


class ManualItem(StrEnum):
    """One of the eight items, in the runbook's order."""

    TESTS = "tests"
    REVIEW = "review"
    SECURITY = "security"
    PERFORMANCE = "performance"
    MIGRATIONS = "migrations"
    ROLLBACK = "rollback"
    STAKEHOLDERS = "stakeholders"
    MAINTENANCE = "maintenance"

    @property
    def text(self) -> str:
        """The item, word for word."""
        return MANUAL_ITEMS[list(ManualItem).index(self)]


class Attestation(BaseModel):
    """A person says that an item holds for a commit; it ends at `until`, so that nothing old is believed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: ManualItem
    git_sha: str
    by: str = Field(min_length=1)
    note: str
    at: AwareDatetime
    until: AwareDatetime

    def holds(self, git_sha: str, now: datetime) -> bool:
        """Return whether it is about this commit and has not ended."""
        return self.git_sha == git_sha and now < self.until


def manual_checks(
    evidence: Mapping[ManualItem, Check], attestations: Iterable[Attestation], git_sha: str, now: datetime
) -> tuple[Check, ...]:
    """Return one check for each item.

    Evidence counts for more than words: what a machine has found to be wrong nobody can attest away. Without evidence,
    or when it could not be had, a person's word passes the item; without that it is a warning, which refuses a deploy
    in strict mode.

    Args:
        evidence: what is known of items, by whatever check.
        attestations: what people have said; those of other commits and those that have ended do not count.
        git_sha: the commit that is to be released.
        now: aware.
    """
    said = {one.item: one for one in attestations if one.holds(git_sha, now)}
    return tuple(_answer(item, evidence.get(item), said.get(item)) for item in ManualItem)


def _answer(item: ManualItem, known: Check | None, attestation: Attestation | None) -> Check:
    if known is not None and known.outcome is Outcome.PASSED:
        return Check(item.text, Outcome.PASSED, known.detail)
    if known is not None and known.outcome is not Outcome.COULD_NOT_RUN:
        return Check(item.text, Outcome.WARNING, known.detail, known.action)
    if attestation is not None:
        detail = f"attested by {attestation.by} until {attestation.until:%Y-%m-%d %H:%M} UTC"
        return Check(item.text, Outcome.PASSED, f"{detail}: {attestation.note}" if attestation.note else detail)
    action = f'Once it is so: `runbook deploy:checklist --attest "{item}=why"`, or the deployment `attest` in the UI.'
    return Check(item.text, Outcome.WARNING, "nobody has attested it for this commit", action)

"""Which rollbacks work after a release, by what evidence."""

from __future__ import annotations

import pytest

from runbook.reports import Legality, Rehearsal, RollbackScope, UndoEvidence, UndoOutcome
from runbook.rules.verdict import judge_rollbacks, undo_reason

FULL, APP, DB = RollbackScope.FULL, RollbackScope.APP_ONLY, RollbackScope.DB_ONLY
LEGAL, ILLEGAL, UNPROVEN = Legality.LEGAL, Legality.ILLEGAL, Legality.UNPROVEN


def rehearsal(*, compatible: bool | None, undo: UndoOutcome = UndoOutcome.RESTORES) -> Rehearsal:
    return Rehearsal(
        backup_id="b",
        restore_s=1,
        migrations=("2_b",),
        duration_s=1,
        wal_bytes=0,
        statements=(),
        blocked=(),
        call_rates="",
        schema_sha256_pre="",
        schema_sha256_post=None,
        undo=UndoEvidence(outcome=undo, detail="why"),
        compatible=compatible,
        compatible_at_end=compatible,
        compatibility=("what was seen",),
    )


@pytest.mark.parametrize(
    ("pending", "rules", "seen", "restore_s", "expected"),
    [
        pytest.param((), (), None, 1.0, {FULL: LEGAL, APP: LEGAL, DB: LEGAL}, id="no migrations"),
        pytest.param(("2_b",), (), True, 1.0, {FULL: LEGAL, APP: LEGAL, DB: ILLEGAL}, id="the earlier release works"),
        pytest.param(("2_b",), (), False, 1.0, {FULL: LEGAL, APP: ILLEGAL, DB: ILLEGAL}, id="it fails"),
        pytest.param(("2_b",), (), "untried", 1.0, {FULL: LEGAL, APP: UNPROVEN, DB: ILLEGAL}, id="it was not tried"),
        pytest.param(("2_b",), ("drop-column",), "untried", 1.0, {APP: ILLEGAL}, id="untried, and something goes"),
        pytest.param(("2_b",), ("drop-column",), True, 1.0, {APP: LEGAL}, id="tried, although something goes"),
        pytest.param(("2_b",), ("drop-in-use",), None, 1.0, {APP: ILLEGAL}, id="never rehearsed, and something goes"),
        pytest.param(("2_b",), (), None, 1.0, {APP: UNPROVEN}, id="never rehearsed"),
        pytest.param((), (), None, None, {FULL: UNPROVEN, APP: LEGAL}, id="a backup that was never restored"),
    ],
)
def test_a_rollback_is_judged_by_its_evidence(
    pending: tuple[str, ...],
    rules: tuple[str, ...],
    seen: bool | str | None,
    restore_s: float | None,
    expected: dict[RollbackScope, Legality],
) -> None:
    tried = None if seen is None else rehearsal(compatible=seen if isinstance(seen, bool) else None)
    verdict = judge_rollbacks(
        has_previous=True, pending=pending, rules_found=rules, rehearsal=tried, backup_id="b", restore_s=restore_s
    )
    found = {item.scope: item.legality for item in verdict}
    assert {scope: found[scope] for scope in expected} == expected
    assert all(item.evidence and item.cost for item in verdict)


def test_after_the_first_release_there_is_nothing_to_go_back_to() -> None:
    verdict = judge_rollbacks(
        has_previous=False, pending=(), rules_found=(), rehearsal=None, backup_id="b", restore_s=1.0
    )
    assert {item.scope: item.legality for item in verdict} == {FULL: ILLEGAL, APP: ILLEGAL, DB: LEGAL}


@pytest.mark.parametrize(
    ("outcome", "may"),
    [
        (UndoOutcome.RESTORES, True),
        (UndoOutcome.FAILS, False),
        (UndoOutcome.DIFFERS, False),
        (UndoOutcome.MISSING, False),
    ],
)
def test_down_scripts_are_used_when_the_rehearsal_showed_that_they_work(outcome: UndoOutcome, may: bool) -> None:
    reason = undo_reason(rehearsal(compatible=True, undo=outcome))
    assert (reason is None) is may
    assert undo_reason(None) is None

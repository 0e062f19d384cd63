"""Which rollbacks work after a release: decided by evidence, with its cost.

Source: runbook, "Rollback Types".
"""

from __future__ import annotations

from collections.abc import Sequence

from runbook.reports import Legality, Rehearsal, RollbackScope, RollbackVerdict, UndoOutcome

_CONTRACTING = frozenset(
    {
        "drop-table",
        "drop-schema",
        "drop-column",
        "drop-owned",
        "drop-in-use",
        "rename",
        "rename-in-use",
        "narrowing-type",
    }
)
_FIRST = "this is the first release; there is none to go back to"


def judge_rollbacks(
    *,
    has_previous: bool,
    pending: Sequence[str],
    rules_found: Sequence[str],
    rehearsal: Rehearsal | None,
    backup_id: str | None,
    restore_s: float | None,
) -> tuple[RollbackVerdict, ...]:
    """Return for each scope whether a rollback works after a release.

    Args:
        has_previous: another release had the traffic before.
        pending: names of the migrations that come with the release.
        rules_found: names of the lint rules that found something in them.
        rehearsal: what was tried beforehand; None when nothing was.
        backup_id: the backup made before.
        restore_s: seconds that restoring it took; None when it was never restored.

    Source: runbook, "Application-Only Rollback", "Database-Only Rollback", "Full Rollback".
    """
    took = f"{restore_s:.1f} s when it was last restored" if restore_s is not None else "an unmeasured time"
    cost = f"all data written since {backup_id}; restoring takes {took}"
    if not has_previous:
        nothing = (RollbackScope.FULL, RollbackScope.APP_ONLY)
        return (
            *(RollbackVerdict(scope=s, legality=Legality.ILLEGAL, evidence=(_FIRST,), cost="none") for s in nothing),
            _db_only(pending, cost),
        )
    full = RollbackVerdict(
        scope=RollbackScope.FULL,
        legality=Legality.LEGAL if restore_s is not None else Legality.UNPROVEN,
        evidence=(f"{backup_id} was restored and found equal" if restore_s is not None else "never restored",),
        cost=cost,
    )
    return full, _app_only(pending, rules_found, rehearsal), _db_only(pending, cost)


def _app_only(pending: Sequence[str], rules_found: Sequence[str], rehearsal: Rehearsal | None) -> RollbackVerdict:
    cost = "no data" if not pending else f"no data; {', '.join(pending)} stay applied"
    contracting = sorted(_CONTRACTING & set(rules_found))
    if not pending:
        legality, evidence = Legality.LEGAL, ("the release changes no schema",)
    elif rehearsal is not None and rehearsal.compatible_at_end is not None:
        legality = Legality.LEGAL if rehearsal.compatible_at_end else Legality.ILLEGAL
        evidence = rehearsal.compatibility
    elif contracting:
        legality = Legality.ILLEGAL
        evidence = (f"the migrations take away what the earlier release may use ({', '.join(contracting)})",)
    else:
        legality, evidence = Legality.UNPROVEN, ("the earlier release was not tried on the new schema",)
    return RollbackVerdict(scope=RollbackScope.APP_ONLY, legality=legality, evidence=tuple(evidence), cost=cost)


def _db_only(pending: Sequence[str], cost: str) -> RollbackVerdict:
    if pending:
        legality, why = Legality.ILLEGAL, f"the release needs {', '.join(pending)}, which the backup does not have"
    else:
        legality, why = Legality.LEGAL, "the release changes no schema"
    return RollbackVerdict(scope=RollbackScope.DB_ONLY, legality=legality, evidence=(why,), cost=cost)


def undo_reason(rehearsal: Rehearsal | None) -> str | None:
    """Return why the down scripts are not to be used, or None when they may be."""
    if rehearsal is None or rehearsal.undo.outcome is UndoOutcome.RESTORES:
        return None
    return f"the rehearsal showed that the down scripts do not undo it: {rehearsal.undo.detail}"

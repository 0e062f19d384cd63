"""May a rollback that nobody answers take the application back by itself?

Source: runbook, "Severity Levels" ("SEV1 - Critical (Immediate Action)") and "Application-Only Rollback".
"""

from __future__ import annotations

from runbook.reports import Legality, RollbackScope, RollbackVerdict
from runbook.rules.thresholds import Severity


def policy_objection(*, after_s: float | None, severity: Severity | None, scope: RollbackScope) -> str | None:
    """Return why the policy for an unattended SEV1 is not about a rollback at all; None when it may be.

    `after_s` is the policy: after so many seconds without an answer. A rollback of the database alone says that the
    database is the trouble; to take the application back is no answer to that.
    """
    if after_s is None:
        return "no policy is set (`rollback.unattended_sev1_after_s`)"
    if severity is not Severity.SEV1:
        return f"the policy is about {Severity.SEV1}, and this is {severity or 'without a severity'}"
    if scope is RollbackScope.DB_ONLY:
        return "the policy takes the application back, and only the database was to be"
    return None


def evidence_objection(verdict: RollbackVerdict | None, *, has_drifted: bool, unknown: tuple[str, ...]) -> str | None:
    """Return why what a deploy has shown is too little to take the application back unattended; None when it is not.

    Args:
        verdict: what the deploy of the active release found out about a rollback of the application alone.
        has_drifted: the active release is not the one that the records say.
        unknown: the migrations applied to the database that the active release does not bring.

    Only LEGAL is enough: a person may try what is merely unproven, a policy may not.
    """
    if has_drifted:
        return "the traffic was changed by hand"
    if verdict is None:
        return "the deploy of the active release did not look at a rollback of the application alone"
    if verdict.legality is not Legality.LEGAL:
        return f"a rollback of the application alone is {verdict.legality}: {'; '.join(verdict.evidence)}"
    if unknown:
        return f"the database has migrations that were not looked at: {', '.join(unknown)}"
    return None

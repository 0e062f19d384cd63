from __future__ import annotations

import pytest

from runbook.reports import Legality, RollbackScope, RollbackVerdict
from runbook.rules.thresholds import Severity
from runbook.rules.unattended import evidence_objection, policy_objection

FULL, APP_ONLY, DB_ONLY = RollbackScope.FULL, RollbackScope.APP_ONLY, RollbackScope.DB_ONLY


@pytest.mark.parametrize(
    ("after_s", "severity", "scope", "said"),
    [
        pytest.param(300, Severity.SEV1, FULL, None, id="SEV1, full"),
        pytest.param(300, Severity.SEV1, APP_ONLY, None, id="SEV1, app-only"),
        pytest.param(300, Severity.SEV1, DB_ONLY, "only the database", id="SEV1, db-only"),
        pytest.param(None, Severity.SEV1, FULL, "no policy is set", id="no policy"),
        pytest.param(300, Severity.SEV2, FULL, "this is SEV2", id="SEV2"),
        pytest.param(300, Severity.SEV4, APP_ONLY, "this is SEV4", id="SEV4"),
        pytest.param(300, None, APP_ONLY, "without a severity", id="nobody said how bad it is"),
    ],
)
def test_which_rollbacks_the_policy_is_about(
    after_s: float | None, severity: Severity | None, scope: RollbackScope, said: str | None
) -> None:
    objection = policy_objection(after_s=after_s, severity=severity, scope=scope)
    assert objection is None if said is None else said in (objection or "")


def verdict(legality: Legality) -> RollbackVerdict:
    return RollbackVerdict(scope=APP_ONLY, legality=legality, evidence=("as seen",), cost="no data")


@pytest.mark.parametrize(
    ("known", "has_drifted", "unknown", "said"),
    [
        pytest.param(verdict(Legality.LEGAL), False, (), None, id="shown to work"),
        pytest.param(verdict(Legality.UNPROVEN), False, (), "is unproven: as seen", id="merely unproven"),
        pytest.param(verdict(Legality.ILLEGAL), False, (), "is illegal: as seen", id="shown not to work"),
        pytest.param(None, False, (), "did not look", id="never looked at"),
        pytest.param(verdict(Legality.LEGAL), True, (), "changed by hand", id="somebody changed the traffic"),
        pytest.param(verdict(Legality.LEGAL), False, ("0009_drop",), "0009_drop", id="migrated since"),
    ],
)
def test_only_what_a_deploy_has_shown_to_work_is_done_unattended(
    known: RollbackVerdict | None, has_drifted: bool, unknown: tuple[str, ...], said: str | None
) -> None:
    objection = evidence_objection(known, has_drifted=has_drifted, unknown=unknown)
    assert objection is None if said is None else said in (objection or "")

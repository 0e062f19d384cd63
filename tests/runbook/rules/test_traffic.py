from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runbook.reports import DeployReport, FinalState, RollbackReport, RollbackScope
from runbook.rules.traffic import Recorded, Traffic, recorded_traffic

A, B = "a" * 40, "b" * 40
AT = datetime(2025, 1, 4, 12, tzinfo=UTC)
VERIFIED, DIVERGED = FinalState.VERIFIED, FinalState.DIVERGED
SAYS_A = Recorded(A, "v1", "deploy of 2025-01-04 12:00:00 UTC")
NOTHING = Recorded(None, "", "no run is recorded")


def traffic(
    served: str | None, *, is_down: bool = False, active: str | None = A, recorded: Recorded = SAYS_A
) -> Traffic:
    return Traffic(active, "v1" if active == A else "v2", "http://shop", served, is_down, "answers", recorded)


@pytest.mark.parametrize(
    ("seen", "unknown", "drifted", "found"),
    [
        pytest.param(traffic(A), False, False, [], id="all agree"),
        pytest.param(traffic(A, recorded=NOTHING), False, False, [], id="nothing recorded"),
        pytest.param(traffic(B), True, False, [], id="another release answers"),
        pytest.param(traffic(None), True, False, [], id="something answers without a name"),
        pytest.param(traffic(None, is_down=True), False, False, ["OUTAGE"], id="no answer: an outage"),
        pytest.param(traffic(B, active=B), False, True, ["DRIFT"], id="promoted by hand"),
        pytest.param(traffic(None, is_down=True, active=B), False, True, ["OUTAGE", "DRIFT"], id="both"),
        pytest.param(traffic(A, active=B), True, True, ["DRIFT"], id="the host says what neither of the others says"),
        pytest.param(traffic(None, active=None), False, True, ["DRIFT"], id="the host has nothing active"),
        pytest.param(traffic(A, active=None), True, True, ["DRIFT"], id="nothing active, yet something is served"),
        pytest.param(traffic(None, active=None, recorded=NOTHING), False, False, [], id="before the first deploy"),
    ],
)
def test_what_three_sources_amount_to(seen: Traffic, unknown: bool, drifted: bool, found: list[str]) -> None:
    assert (seen.is_unknown, seen.has_drifted) == (unknown, drifted)
    assert [finding.split(":")[0] for finding in seen.findings] == found


def deploy(
    sha: str = A, *, success: bool = True, state: FinalState = VERIFIED, environment: str = "test"
) -> DeployReport:
    return DeployReport(
        environment=environment,
        timestamp=AT,
        git_ref="main",
        git_sha=sha,
        version=f"v-{sha[0]}",
        reason="test",
        triggered_by="test",
        duration=1,
        success=success,
        state=state,
        steps=(),
    )


def rollback(to: str | None, *, success: bool = True, state: FinalState = VERIFIED) -> RollbackReport:
    return RollbackReport(
        environment="test",
        timestamp=AT,
        scope=RollbackScope.FULL if to else RollbackScope.DB_ONLY,
        reason="test",
        triggered_by="test",
        to_git_sha=to,
        to_version=f"v-{to[0]}" if to else None,
        duration=1,
        success=success,
        state=state,
        steps=(),
    )


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([deploy(A), deploy(B)], B, id="the last deploy"),
        pytest.param([deploy(A, state=FinalState.UNVERIFIED)], A, id="nobody could probe it: it has the traffic still"),
        pytest.param([deploy(A), deploy(B), rollback(A)], A, id="the last rollback"),
        pytest.param([deploy(A), deploy(B), rollback(None)], B, id="not one of the database alone"),
        pytest.param([deploy(A), deploy(B, success=False)], A, id="not a deploy that was taken back"),
        pytest.param([deploy(A), deploy(B), rollback(A, success=False)], B, id="not a rollback that was taken back"),
        pytest.param([deploy(A), deploy(B, success=False, state=DIVERGED)], None, id="it ended DIVERGED"),
        pytest.param([deploy(A), rollback(None, success=False, state=DIVERGED)], A, id="DIVERGED, but the database"),
        pytest.param([deploy(A, success=False, state=DIVERGED), deploy(B)], B, id="mended since"),
        pytest.param([deploy(A), deploy(B, environment="staging")], A, id="not one of another environment"),
    ],
)
def test_which_release_should_have_the_traffic(
    history: list[DeployReport | RollbackReport], expected: str | None
) -> None:
    found = recorded_traffic(history, "test")
    assert found.git_sha == expected
    assert ("do not say" in found.render()) is (expected is None)
    assert "12:00:00 UTC" in found.render() or not history

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.release_watch import Baseline, Judgement, Look, Probes, ReleaseJudge, Verdict
from runbook.rules.thresholds import Action, Severity

BEFORE = Baseline(18_000, 90, 0.2, "v1 before it")  # an hour at 5 requests a second, 0.5 % of them failed
URGENCY = list(Action)
LOOK = Look(elapsed_s=60, requests=300, errors=1, p95_s=0.2)


def judge(*looks: Look, baseline: Baseline | None = BEFORE) -> Judgement:
    judging = ReleaseJudge(baseline, 1800)
    return [judging.see(look) for look in looks][-1]


def test_a_release_like_the_one_before_is_healthy() -> None:
    found = judge(LOOK)
    assert (found.verdict, found.action) == (Verdict.HEALTHY, Action.MONITOR)
    assert found.detail == "1 of 300 requests failed (0.3 %), p95 200 ms"


@pytest.mark.parametrize(
    ("errors", "action", "severity"),
    [
        pytest.param(49, Action.MONITOR, Severity.SEV3, id="< 5 %: worse than before, and no reason to go back"),
        pytest.param(50, Action.CONSIDER, Severity.SEV2, id="5 %"),
        pytest.param(100, Action.CONSIDER, Severity.SEV2, id="10 %"),
        pytest.param(101, Action.ROLL_BACK, Severity.SEV2, id="> 10 %"),
        pytest.param(1000, Action.ROLL_BACK, Severity.SEV1, id="complete outage"),
    ],
)
def test_what_is_evidently_worse_is_degraded_and_the_runbook_says_what_to_do(
    errors: int, action: Action, severity: Severity
) -> None:
    found = judge(replace(LOOK, requests=1000, errors=errors))
    assert (found.verdict, found.action, found.severity) == (Verdict.DEGRADED, action, severity)
    assert "v1 before it: 90 of 18000 requests failed (0.5 %)" in found.detail


def test_no_data_is_its_own_verdict() -> None:
    assert judge(Look(60, 0, 0)).verdict is Verdict.NO_DATA


@pytest.mark.parametrize("errors", [0, 1, 2])
def test_few_requests_are_neither_good_nor_bad(errors: int) -> None:
    found = judge(Look(60, 20, errors))
    assert (found.verdict, found.action) == (Verdict.INCONCLUSIVE, Action.MONITOR)


def test_one_failed_request_of_one_takes_nothing_back() -> None:
    assert judge(Look(60, 1, 1)).action is Action.MONITOR


def test_a_tenth_of_few_requests_is_never_called_healthy() -> None:
    """Three requests a minute for half an hour, of which one in ten fails."""
    judging = ReleaseJudge(BEFORE, 1800)
    found = [judging.see(Look(60.0 * minute, 3 * minute, 3 * minute // 10)).verdict for minute in range(1, 31)]
    assert Verdict.HEALTHY not in found
    assert found[-1] is Verdict.DEGRADED


def test_what_goes_wrong_after_twenty_good_minutes_is_found_within_two() -> None:
    judging = ReleaseJudge(BEFORE, 1800)
    for minute in range(1, 21):
        assert judging.see(Look(60.0 * minute, 300 * minute, 0, 0.2)).verdict is Verdict.HEALTHY
    found = [judging.see(Look(60.0 * (20 + more), 300 * (20 + more), 45 * more, 0.2)) for more in (1, 2)]
    assert found[-1].action is Action.ROLL_BACK
    assert "90 of 600 requests failed (15.0 %)" in found[-1].detail


def test_a_release_no_worse_than_a_bad_one_before_is_asked_about_and_not_taken_back() -> None:
    bad = replace(BEFORE, errors=2700)  # 15 %
    found = judge(replace(LOOK, requests=3000, errors=450), baseline=bad)
    assert (found.verdict, found.action) == (Verdict.DEGRADED, Action.CONSIDER)
    assert "going back may not help" in found.detail
    assert judge(replace(LOOK, requests=3000, errors=900), baseline=bad).action is Action.ROLL_BACK


@pytest.mark.parametrize("baseline", [None, replace(BEFORE, requests=99, errors=0)])
def test_without_a_past_the_runbooks_own_numbers_decide(baseline: Baseline | None) -> None:
    assert judge(replace(LOOK, errors=60), baseline=baseline).action is Action.ROLL_BACK
    good = judge(LOOK, baseline=baseline)
    assert good.verdict is Verdict.HEALTHY
    assert "nothing to compare with" in good.detail


def test_three_times_as_slow_is_asked_about() -> None:
    found = judge(replace(LOOK, p95_s=0.6, timed=300, slow=45))
    assert (found.verdict, found.action, found.severity) == (Verdict.DEGRADED, Action.CONSIDER, Severity.SEV2)
    assert "p95 600 ms, before 200 ms" in found.detail


def test_somewhat_slower_is_not() -> None:
    assert judge(replace(LOOK, p95_s=0.38, timed=300, slow=12)).verdict is Verdict.HEALTHY


def test_where_the_host_counts_no_slow_requests_the_p95_of_each_look_has_to_do() -> None:
    judging = ReleaseJudge(BEFORE, 1800)
    found = [judging.see(Look(15.0 * look, 75 * look, 0, 0.61)) for look in range(1, 13)]
    assert found[0].verdict is Verdict.HEALTHY, "one slow look may be chance"
    assert found[-1].verdict is Verdict.DEGRADED, "within three minutes"


def test_nobody_can_log_in_is_an_outage_though_no_request_of_users_fails() -> None:
    found = judge(replace(LOOK, login=Probes(5, 5)))
    assert (found.action, found.severity) == (Action.ROLL_BACK, Severity.SEV1)
    assert "nobody can log in: it failed at 5 of 5 looks" in found.detail
    assert judge(replace(LOOK, login=Probes(1, 5))).verdict is Verdict.HEALTHY


def test_a_page_that_lies_is_found_by_what_it_says() -> None:
    found = judge(replace(LOOK, smoke=Probes(8, 9)))
    assert (found.verdict, found.action) == (Verdict.DEGRADED, Action.CONSIDER)
    assert "smoke tests fail: at 8 of 9 looks" in found.detail


@given(st.integers(1, 2000), st.integers(0, 2000), st.integers(0, 2000), st.sampled_from([BEFORE, None]))
def test_more_errors_never_lower_the_urgency(requests: int, a: int, b: int, baseline: Baseline | None) -> None:
    fewer, more = sorted(min(one, requests) for one in (a, b))
    better = judge(Look(60, requests, fewer), baseline=baseline)
    worse = judge(Look(60, requests, more), baseline=baseline)
    assert URGENCY.index(worse.action) >= URGENCY.index(better.action)
    if better.verdict is Verdict.DEGRADED:
        assert worse.verdict is Verdict.DEGRADED
    if worse.verdict is Verdict.HEALTHY:
        assert better.verdict is Verdict.HEALTHY


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=10))
def test_counts_of_a_host_that_began_anew_end_in_a_verdict(looks: list[tuple[int, int]]) -> None:
    judging = ReleaseJudge(BEFORE, 1800)
    for number, (requests, errors) in enumerate(looks, 1):
        assert judging.see(Look(60.0 * number, requests, errors)).verdict in Verdict

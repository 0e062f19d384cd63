from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.checklist import Outcome
from runbook.rules.ci import CiCheck, CiResult, judge_ci, of_check_run, of_status

NAMES = ("build", "lint", "unit", "e2e")
RANK = [Outcome.FAILED, Outcome.WARNING, Outcome.PASSED]

checks = st.builds(CiCheck, st.sampled_from(NAMES), st.sampled_from(CiResult), st.just("said"))
required = st.frozensets(st.sampled_from(NAMES))


def green(name: str) -> CiCheck:
    return of_check_run(name, "completed", "success")


@pytest.mark.parametrize(
    ("conclusion", "result"),
    [
        ("success", CiResult.PASSED),
        ("neutral", CiResult.SKIPPED),
        ("skipped", CiResult.SKIPPED),
        ("failure", CiResult.FAILED),
        ("cancelled", CiResult.FAILED),
        ("timed_out", CiResult.FAILED),
        ("action_required", CiResult.FAILED),
        ("stale", CiResult.FAILED),
        ("startup_failure", CiResult.FAILED),
        ("of a later version", CiResult.FAILED),
        (None, CiResult.FAILED),
    ],
)
def test_a_completed_run_is_what_it_concluded(conclusion: str | None, result: CiResult) -> None:
    assert of_check_run("build", "completed", conclusion).result is result


@pytest.mark.parametrize("status", ["queued", "in_progress", "waiting", "requested", "pending"])
def test_a_run_that_is_not_completed_is_not_over(status: str) -> None:
    assert of_check_run("build", status, None).result is CiResult.RUNNING


@pytest.mark.parametrize(
    ("state", "result"),
    [
        ("success", CiResult.PASSED),
        ("pending", CiResult.RUNNING),
        ("failure", CiResult.FAILED),
        ("error", CiResult.FAILED),
    ],
)
def test_a_commit_status_is_what_it_says(state: str, result: CiResult) -> None:
    assert of_status("ci/build", state).result is result


def test_zero_checks_are_not_green() -> None:
    check = judge_ci([], ())
    assert (check.outcome, check.detail) == (Outcome.FAILED, "no check has run for this commit")


def test_a_green_commit_says_how_many_checks_passed() -> None:
    check = judge_ci([green("build"), green("unit"), of_check_run("docs", "completed", "skipped")], {"build"})
    assert (check.outcome, check.detail) == (Outcome.PASSED, "2 checks passed, 1 skipped")


def test_a_required_check_that_is_not_there_is_not_green() -> None:
    check = judge_ci([green("build")], {"build", "e2e"})
    assert (check.outcome, check.detail) == (Outcome.FAILED, "required and not there: e2e")


def test_one_of_several_runs_with_a_name_is_enough_to_fail() -> None:
    assert (
        judge_ci([green("build"), of_check_run("build", "completed", "failure")], {"build"}).outcome is Outcome.FAILED
    )


def test_the_job_that_started_the_deploy_does_not_keep_it_waiting_for_itself() -> None:
    itself = of_check_run("runbook", "in_progress", None)
    assert judge_ci([green("build"), itself], (), {"runbook"}).outcome is Outcome.PASSED
    assert judge_ci([itself], (), {"runbook"}).outcome is Outcome.FAILED, "alone it is no evidence"
    assert judge_ci([itself, green("build")], {"runbook"}, {"runbook"}).detail == "not ended: runbook (in_progress)"


def test_what_failed_comes_before_what_runs() -> None:
    check = judge_ci([of_check_run("unit", "in_progress", None), of_status("build", "failure")], ())
    assert check.detail == "failed: build (failure)"


def test_a_check_that_is_not_required_only_warns() -> None:
    check = judge_ci([green("build"), of_check_run("nightly", "completed", "failure")], {"build"})
    assert (check.outcome, check.detail) == (Outcome.WARNING, "not required, and not green: nightly (failure)")


def test_a_commit_for_which_everything_was_skipped_was_not_tested() -> None:
    check = judge_ci([of_check_run("build", "completed", "skipped")], ())
    assert (check.outcome, check.detail) == (Outcome.WARNING, "all 1 checks were skipped")


def test_many_failures_are_counted_not_listed() -> None:
    check = judge_ci([of_status(f"check {number}", "failure") for number in range(7)], ())
    assert check.detail.endswith("check 4 (failure), 2 more")


@given(st.lists(checks), required)
def test_green_is_only_what_has_evidence_and_no_objection(found: list[CiCheck], needed: frozenset[str]) -> None:
    if judge_ci(found, needed).outcome is Outcome.PASSED:
        assert {CiResult.FAILED, CiResult.RUNNING}.isdisjoint(check.result for check in found)
        assert any(check.result is CiResult.PASSED for check in found)
        assert needed <= {check.name for check in found}


@given(st.lists(checks, min_size=1), required, st.sampled_from(NAMES))
def test_one_more_failure_never_helps(found: list[CiCheck], needed: frozenset[str], name: str) -> None:
    needed &= {check.name for check in found}
    before, after = judge_ci(found, needed), judge_ci([*found, CiCheck(name, CiResult.FAILED, "said")], needed)
    assert RANK.index(after.outcome) <= RANK.index(before.outcome)


@given(st.lists(checks).flatmap(lambda found: st.tuples(st.just(found), st.permutations(found))), required)
def test_the_order_of_the_checks_says_nothing(
    orders: tuple[list[CiCheck], list[CiCheck]], needed: frozenset[str]
) -> None:
    assert judge_ci(orders[0], needed) == judge_ci(orders[1], needed)


@given(st.lists(checks), required)
def test_what_is_not_green_says_what_to_do(found: list[CiCheck], needed: frozenset[str]) -> None:
    check = judge_ci(found, needed)
    assert check.name == "CI"
    assert bool(check.action) is (check.outcome is not Outcome.PASSED)

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.checklist import Check, Outcome
from runbook.rules.review import PullRequest, Review, judge_review, verdicts

HEAD, EARLIER, MERGED = "b" * 40, "a" * 40, "c" * 40
RANK = [Outcome.FAILED, Outcome.WARNING, Outcome.PASSED]

reviews = st.builds(
    Review,
    st.sampled_from(("ann", "ben", "author")),
    st.sampled_from(("APPROVED", "CHANGES_REQUESTED", "COMMENTED", "DISMISSED", "PENDING")),
    st.sampled_from((HEAD, EARLIER, None)),
)


def pull(*given: Review, head: str = HEAD, number: int = 7, is_merged: bool = False) -> PullRequest:
    return PullRequest(number, head, "author", is_merged, given)


def approval(reviewer: str = "ann", sha: str = HEAD) -> Review:
    return Review(reviewer, "APPROVED", sha)


def judged(*given: Review, required: int = 1) -> Check:
    return judge_review(HEAD, [pull(*given)], required)


def test_the_head_of_a_pull_request_is_approved() -> None:
    check = judged(approval())
    assert (check.outcome, check.detail) == (Outcome.PASSED, "#7: bbbbbbbbbbbb approved by ann")


def test_an_approval_of_an_earlier_commit_is_none() -> None:
    check = judged(approval(sha=EARLIER))
    assert check.outcome is Outcome.FAILED
    assert check.detail == "#7: 0 of 1 approvals of its head bbbbbbbbbbbb; ann approved an earlier commit"


def test_a_comment_after_an_approval_takes_nothing_back() -> None:
    assert judged(approval(), Review("ann", "COMMENTED", HEAD)).outcome is Outcome.PASSED


def test_an_approval_that_was_dismissed_is_none() -> None:
    assert judged(approval(), Review("ann", "DISMISSED", HEAD)).outcome is Outcome.FAILED


def test_changes_that_were_requested_stay_requested_whatever_was_pushed_since() -> None:
    check = judged(approval("ben"), Review("ann", "CHANGES_REQUESTED", EARLIER), required=0)
    assert (check.outcome, check.detail) == (Outcome.FAILED, "#7: changes requested by ann")


def test_who_requested_changes_may_approve_later() -> None:
    assert judged(Review("ann", "CHANGES_REQUESTED", EARLIER), approval()).outcome is Outcome.PASSED


def test_authors_do_not_approve_their_own_work() -> None:
    assert judged(approval("author")).outcome is Outcome.FAILED


def test_as_many_have_to_approve_as_the_branch_requires() -> None:
    assert judged(approval("ann"), approval("ann"), required=2).outcome is Outcome.FAILED
    assert judged(approval("ann"), approval("ben"), required=2).outcome is Outcome.PASSED


def test_where_the_branch_requires_no_approval_a_missing_one_warns() -> None:
    assert judged(required=0).outcome is Outcome.WARNING
    assert judge_review(HEAD, [], 0).outcome is Outcome.WARNING
    assert judge_review(HEAD, [], 1).outcome is Outcome.FAILED


def test_a_merged_pull_request_is_judged_by_its_head_not_by_the_merge() -> None:
    assert judge_review(MERGED, [pull(approval(), is_merged=True)], 1).outcome is Outcome.PASSED


def test_a_commit_in_the_middle_of_an_open_pull_request_was_not_reviewed() -> None:
    check = judge_review(EARLIER, [pull(approval())], 1)
    assert check.outcome is Outcome.FAILED
    assert check.detail == "this commit is not the head of its pull request: bbbbbbbbbbbb of #7"


@pytest.mark.parametrize("reverse", [False, True])
def test_one_approved_pull_request_of_several_is_enough_unless_another_has_an_objection(reverse: bool) -> None:
    approved, plain = pull(approval()), pull(number=8)
    objected = pull(Review("ben", "CHANGES_REQUESTED", HEAD), number=9)
    assert judge_review(HEAD, [approved, plain][:: -1 if reverse else 1], 1).outcome is Outcome.PASSED
    check = judge_review(HEAD, [approved, objected][:: -1 if reverse else 1], 1)
    assert check.detail == "#9: changes requested by ben"


@given(st.lists(reviews), st.integers(0, 3))
def test_passed_means_that_many_last_words_approve_exactly_the_head(found: list[Review], required: int) -> None:
    check = judged(*found, required=required)
    last = verdicts(pull(*found))
    approving = [name for name, review in last.items() if (review.state, review.git_sha) == ("APPROVED", HEAD)]
    objecting = [name for name, review in last.items() if review.state == "CHANGES_REQUESTED"]
    assert (check.outcome is Outcome.PASSED) is (len(approving) >= max(1, required) and not objecting)
    assert "author" not in last


@given(st.lists(reviews), st.integers(0, 3))
def test_requiring_more_never_lets_more_pass(found: list[Review], required: int) -> None:
    less, more = judged(*found, required=required), judged(*found, required=required + 1)
    assert RANK.index(more.outcome) <= RANK.index(less.outcome)

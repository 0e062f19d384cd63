"""Whether a commit was reviewed and approved.

Source: runbook, "Manual Verification" ("Code review approved"); https://docs.github.com/en/rest/pulls/reviews.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runbook.rules.checklist import Check, Outcome

NAME = "code review"
_NO_VERDICT = {"COMMENTED", "PENDING"}


@dataclass(frozen=True)
class Review:
    """One review; `state` is GitHub's: APPROVED, CHANGES_REQUESTED, COMMENTED, DISMISSED, PENDING."""

    reviewer: str
    state: str
    git_sha: str | None


@dataclass(frozen=True)
class PullRequest:
    """A pull request that a commit belongs to, and its reviews, oldest first."""

    number: int
    head_sha: str
    author: str
    is_merged: bool
    reviews: tuple[Review, ...]


def verdicts(pull: PullRequest) -> dict[str, Review]:
    """Return the last word of each reviewer: comments take no approval back, and the author has none."""
    said = [review for review in pull.reviews if review.state not in _NO_VERDICT and review.reviewer != pull.author]
    return {review.reviewer: review for review in said}


def judge_review(git_sha: str, pulls: Sequence[PullRequest], required: int) -> Check:
    """Return whether a commit was approved.

    The commit has to be the head of an open pull request, or to have come in by a merged one, and so many reviewers'
    last word, at least one, has to be an approval of exactly the head of that; an approval of an earlier commit says
    nothing about what was pushed since. `required` is how many approvals the branch requires: where it requires none,
    that they are missing only warns. Changes that somebody requests always fail.
    """
    lacking = Outcome.FAILED if required else Outcome.WARNING
    fitting = [pull for pull in pulls if pull.is_merged or pull.head_sha == git_sha]
    if not fitting and pulls:
        heads = ", ".join(f"{pull.head_sha[:12]} of #{pull.number}" for pull in pulls)
        return Check(NAME, lacking, f"this commit is not the head of its pull request: {heads}", "Release the head.")
    if not fitting:
        return Check(NAME, lacking, "no pull request has this commit", "Have it reviewed in a pull request.")
    objected = [pull for pull in fitting if _objections(pull)]
    answers = [_judge(pull, max(1, required), lacking) for pull in objected or fitting]
    return next((answer for answer in answers if answer.outcome is Outcome.PASSED), answers[0])


def _judge(pull: PullRequest, needed: int, lacking: Outcome) -> Check:
    if objections := _objections(pull):
        detail = f"#{pull.number}: changes requested by {', '.join(objections)}"
        return Check(NAME, Outcome.FAILED, detail, "Settle it with them; they approve, or dismiss their review.")
    approved = [review for review in verdicts(pull).values() if review.state == "APPROVED"]
    current = sorted(review.reviewer for review in approved if review.git_sha == pull.head_sha)
    if len(current) >= needed:
        return Check(NAME, Outcome.PASSED, f"#{pull.number}: {pull.head_sha[:12]} approved by {', '.join(current)}")
    stale = sorted(review.reviewer for review in approved if review.git_sha != pull.head_sha)
    earlier = f"; {', '.join(stale)} approved an earlier commit" if stale else ""
    detail = f"#{pull.number}: {len(current)} of {needed} approvals of its head {pull.head_sha[:12]}{earlier}"
    return Check(NAME, lacking, detail, "Have the head of the pull request approved.")


def _objections(pull: PullRequest) -> list[str]:
    return sorted(name for name, review in verdicts(pull).items() if review.state == "CHANGES_REQUESTED")

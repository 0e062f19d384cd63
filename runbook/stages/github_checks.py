"""What GitHub says of a commit that is to be released: CI, code review, and how it stands to what runs.

Source: runbook, "Manual Verification" of the checklist.
"""

from __future__ import annotations

from collections.abc import Callable

from runbook.clients.github import GitHub
from runbook.connections import Connections
from runbook.errors import ServiceError, TransientError
from runbook.rules import ci, review
from runbook.rules.checklist import Check, Outcome

_HISTORY = "history"


def github_checks(connections: Connections, git_sha: str, *, strict: bool) -> list[Check]:
    """Return whether CI is green for exactly this commit, and whether it was approved.

    Where GitHub is not set up both could not run, and a person has to look; that stops nothing. That GitHub does not
    answer stops a deploy only in strict mode: its outage must not keep a repair from production.
    """
    github = connections.github
    if github is None:
        action = "Look yourself, or add a GitHub repository to the environment."
        return [
            Check(name, Outcome.COULD_NOT_RUN, "GitHub is not set up for this environment", action, is_needed=False)
            for name in (ci.NAME, review.NAME)
        ]
    return [
        _ask(ci.NAME, lambda: _ci(github, git_sha), strict=strict),
        _ask(review.NAME, lambda: _review(github, git_sha), strict=strict),
    ]


def history_check(connections: Connections, running: str | None, git_sha: str, *, strict: bool) -> list[Check]:
    """Return whether a commit has all that is in the one that runs; nothing without GitHub, or when nothing runs."""
    github = connections.github
    if github is None or running is None:
        return []
    return [_ask(_HISTORY, lambda: _history(github, running, git_sha), strict=strict)]


def _ci(github: GitHub, git_sha: str) -> Check:
    return ci.judge_ci(github.ci_checks(git_sha), github.required_checks(), github.ignored_checks)


def _review(github: GitHub, git_sha: str) -> Check:
    return review.judge_review(git_sha, github.pull_requests(git_sha), github.required_approvals())


def _history(github: GitHub, running: str, git_sha: str) -> Check:
    found = github.compare(running, git_sha)
    if found.behind_by:
        detail = f"commits of the running release that are not in this one: {found.behind_by} ({found.status})"
        return Check(_HISTORY, Outcome.WARNING, detail, "Make sure that none of them is a repair that would be lost.")
    return Check(_HISTORY, Outcome.PASSED, f"commits since the running release: {found.ahead_by}")


def _ask(name: str, question: Callable[[], Check], *, strict: bool) -> Check:
    try:
        return question()
    except TransientError as error:
        return Check(name, Outcome.COULD_NOT_RUN, str(error), "Try again.", is_needed=strict)
    except ServiceError as error:
        return Check(name, Outcome.FAILED, str(error))

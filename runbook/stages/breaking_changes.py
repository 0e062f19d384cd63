"""What a release breaks for others: by its commit messages, by its migrations, and by its API document.

Source: runbook, "Stage 1: Pre-Deployment Validation" ("Check for breaking changes").
"""

from __future__ import annotations

from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.rules import releases
from runbook.rules.api_changes import breaking_api_changes, read_api
from runbook.rules.checklist import Check, Outcome
from runbook.rules.lint import TAKES_AWAY
from runbook.stages.migration_plan import MigrationPlan

_NAME = "breaking changes"
_SHOWN = 10


def breaking_changes(connections: Connections, running_git_sha: str | None, plan: MigrationPlan) -> Check:
    """Return what breaks those who call the application or read its database.

    Args:
        connections: the environment.
        running_git_sha: the commit that runs now; None when none does.
        plan: of the release's migrations.
    """
    try:
        messages = connections.repository.messages(running_git_sha, plan.git_sha)
        found = releases.breaking_changes(messages)
        found += [f"{one.path}:{one.line} {one.message}" for one in plan.findings if one.rule in TAKES_AWAY]
        found += _api(connections, running_git_sha, plan.git_sha)
    except RunbookError as error:
        # Not a refusal: the commit that runs now may be gone, after a forced push or in a shallow clone.
        return Check(_NAME, Outcome.WARNING, f"not known: {error}", "Read the commits since the last one.")
    if found:
        more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
        said = "; ".join(dict.fromkeys([*found[:_SHOWN], *more]))
        return Check(_NAME, Outcome.WARNING, said, "Tell those who call this application or read its database.")
    sources = [f"{len(messages)} commit messages", f"{len(plan.pending)} migrations"]
    if connections.settings.api_document:
        sources.append(connections.settings.api_document)
    return Check(_NAME, Outcome.PASSED, f"none in {', '.join(sources)}")


def _api(connections: Connections, running_git_sha: str | None, git_sha: str) -> list[str]:
    name = connections.settings.api_document
    if not name or running_git_sha is None:
        return []
    before, after = (connections.repository.text(sha, name) for sha in (running_git_sha, git_sha))
    if before is None:
        return []
    if after is None:
        return [f"{name} is gone"]
    return breaking_api_changes(read_api(before, name), read_api(after, name))

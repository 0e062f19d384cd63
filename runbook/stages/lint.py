"""Linting migrations before anything runs: squawk's rules, and what destroys rows or breaks the running release.

Source: runbook, "Stage 1: Pre-Deployment Validation" ("Check for breaking changes").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from runbook.clients.catalogue import read_catalogue
from runbook.clients.squawk import lint_files
from runbook.connections import Connections
from runbook.rules.lint import SAFER, Finding, check_rules, destructive, settled
from runbook.rules.migration_files import Migration
from runbook.rules.migration_steps import why_alone
from runbook.rules.sql import statements

_IN_USE = {"rename": "rename-in-use", "drop-table": "drop-in-use", "drop-column": "drop-in-use"}


def lint_migrations(
    connections: Connections,
    migrations: Sequence[Migration],
    scripts: Mapping[str, str],
    *,
    running_git_sha: str | None,
) -> tuple[Finding, ...]:
    """Return what is unsafe in migrations, with the severities of the settings, by file and line.

    Args:
        connections: the environment.
        migrations: what is pending.
        scripts: text of each file by its path.
        running_git_sha: commit of the running release, whose files are searched for names that are taken away.

    Raises:
        InvalidInputError: the settings name a rule that there is not.
        ServiceError: the database or squawk does not answer.
    """
    settings = connections.settings.migrations
    check_rules(settings.lint)
    if not migrations:
        return ()
    files = {migration.path: scripts[migration.path] for migration in migrations}
    parsed = {path: statements(text) for path, text in files.items()}
    catalogue, server_major = read_catalogue(connections.database)
    found = lint_files(
        files, server_major=server_major, transactional=[path for path in files if why_alone(parsed[path]) is None]
    )
    for path, text in files.items():
        found += destructive(path, text, parsed[path], catalogue)
    found += _in_use(connections, found, running_git_sha)
    return tuple(settled(found, settings.lint))


def _in_use(connections: Connections, found: Sequence[Finding], running_git_sha: str | None) -> list[Finding]:
    """Return a finding for each name that is taken away and that the running release's files still have."""
    if running_git_sha is None:
        return []
    more: list[Finding] = []
    for finding in found:
        rule = _IN_USE.get(finding.rule)
        if rule is None or not finding.subject:
            continue
        outside = connections.settings.migrations.directory
        places = connections.repository.mentions(running_git_sha, finding.subject.lower(), outside=outside)
        if places:
            message = f"{finding.message}; the running release still mentions it: {', '.join(places)}"
            more.append(replace(finding, rule=rule, message=message, safer=SAFER[rule]))
    return more

"""What tests of migrations do: commit files, plan them, apply them, look at what is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from runbook.clients.fingerprint import applied_migrations, fingerprint
from runbook.connections import Connections
from runbook.manifest import Fingerprint
from runbook.stages.migration import apply_migrations
from runbook.stages.migration_plan import MigrationPlan, plan_migrations
from tests.runbook.helpers import commit, query


def plan_of(connections: Connections, scripts: Mapping[str, str | bytes]) -> MigrationPlan:
    """Commit scripts as `migrations/<name>.sql` and plan the migration to that commit."""
    files = {f"migrations/{name}.sql": text for name, text in scripts.items()}
    return plan_migrations(connections, commit(connections.repository.path, files), running_git_sha=None)


def apply(connections: Connections, scripts: Mapping[str, str | bytes]) -> tuple[str, ...]:
    """Commit scripts, plan and apply them; return their names."""
    return apply_migrations(connections, plan_of(connections, scripts))


def with_settings(connections: Connections, **changes: object) -> Connections:
    """Return connections of an environment with other settings of its migrations."""
    migrations = connections.settings.migrations.model_copy(update=changes)
    return replace(connections, settings=connections.settings.model_copy(update={"migrations": migrations}))


def done(connections: Connections) -> list[str]:
    """Return the names that the history lists as applied."""
    with connections.database.connect() as connection:
        return applied_migrations(connection, connections.settings.migrations.history_table)


def now(connections: Connections) -> Fingerprint:
    """Return what the live database holds."""
    return fingerprint(connections.database, connections.settings.migrations.history_table)


def tables(connections: Connections) -> list[str]:
    """Return the tables and indexes that are not the history's."""
    rows = query(connections.database.url, "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    return sorted(str(row[0]) for row in rows if "schema_migrations" not in str(row[0]))

"""What undoing the last rollback would do, decided and shown before anything happens.

Source: runbook, "Rollback Procedures"; docs/decisions/0015-undoing-a-rollback.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from runbook.clients.application_host import Release, ReleaseState
from runbook.clients.difference_replay import written_since
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.reports import DeployReport, MigrateReport, RollbackReport, RollbackScope, TableWritten
from runbook.stages.checklist import smoke_tests
from runbook.stages.kept import KeptDatabase, kept_databases, may_carry, swapped_at
from runbook.stages.replay import own_tables
from runbook.stages.rollback import RollbackPlan


@dataclass(frozen=True)
class UndoRequest:
    """What a person asked for; the options of `runbook deploy:rollback:undo`."""

    reason: str
    yes: bool
    triggered_by: str


@dataclass(frozen=True)
class UndoPlan(RollbackPlan):
    """What undoing a rollback would do. `carries` says whether the rows written since it come along."""

    carries: bool = False

    def render(self) -> str:
        """Return the plan in words, with what would be left behind in rows."""
        lines = [
            f"Undo of the rollback of {self.undoes:%Y-%m-%d %H:%M:%S} UTC, scope {self.scope}. "
            f"{self.active.version} ({self.active.git_sha[:12]}) has the traffic."
        ]
        if self.target is not None:
            lines.append(
                f"- Application: {self.target.version} ({self.target.git_sha[:12]}) gets the traffic back, without a "
                "rebuild."
            )
        if self.kept is not None:
            lines.append(
                f"- Database: {self.kept.name} is swapped back; the one that is live now is kept, closed, and can be "
                "swapped back in the same way."
            )
            lines += self._rows()
        return "\n".join([*lines, "- Nothing is deployed afterwards until `runbook deploy:release`."])

    def _rows(self) -> list[str]:
        """Say what becomes of the rows written since the rollback."""
        if not self.written:
            return ["- No row was added or changed since that rollback; what was deleted since comes back."]
        if not self.carries:
            head = "- What was written since that rollback is then only in the database that is kept:"
            return [head, *(f"  - {one.table}: {one.rows} rows added or changed" for one in self.written)]
        lines = ["- What was added or changed since that rollback is carried along; what was deleted since comes back:"]
        for one in self.written:
            left = "" if one.has_key else ", LEFT in the database that is kept: nothing tells its rows apart"
            lines.append(f"  - {one.table}: {one.rows} rows{left}")
        return [*lines, "  - rows of tables and columns that the other schema lacks stay where they are as well"]


def plan_undo(connections: Connections, _request: UndoRequest) -> UndoPlan:
    """Choose the last rollback of the environment, be it the undoing of one, and refuse what could not work.

    Raises:
        RefusedError: there is none, the environment was changed since, or what it replaced is gone.
    """
    undone = _last_rollback(connections)
    _require_unchanged(connections, undone)
    active = connections.host.active()
    if active is None:
        raise RefusedError("no release has the traffic; there is no rollback to undo")
    target = _release_before(connections, undone, active)
    kept = _kept_by(connections, undone)
    tests = smoke_tests(connections, (target or active).git_sha)
    return UndoPlan(
        scope=undone.scope,
        active=active,
        target=target,
        smoke_tests=tests,
        backup=None,
        data_loss=(),
        kept=kept,
        undoes=undone.timestamp,
        written=_written(connections, undone, kept) if kept else (),
        carries=kept is not None and may_carry(connections, kept),
    )


def _last_rollback(connections: Connections) -> RollbackReport:
    name = connections.settings.name
    for report in reversed(connections.store.history()):
        if isinstance(report, RollbackReport) and report.environment == name and (report.success or report.passed):
            return report
    raise RefusedError(f"no rollback of {name} is on record; there is nothing to undo")


def _require_unchanged(connections: Connections, undone: RollbackReport) -> None:
    later = [
        f"the deploy of {report.version}"
        for report in connections.store.history()
        if isinstance(report, DeployReport) and report.success and _is_later(connections, report, undone)
    ]
    later += [
        f"the migration {', '.join(report.migrations)}"
        for report in connections.store.migrates()
        if report.success and report.migrations and not report.dry_run and _is_later(connections, report, undone)
    ]
    if later:
        raise RefusedError(
            f"{', '.join(later)} came after the rollback of {undone.timestamp:%Y-%m-%d %H:%M:%S} UTC, which can not be "
            "undone any more. Deploy the release that you want, or roll back from the one that runs."
        )


def _is_later(connections: Connections, report: DeployReport | MigrateReport, undone: RollbackReport) -> bool:
    return report.environment == connections.settings.name and report.timestamp > undone.timestamp


def _release_before(connections: Connections, undone: RollbackReport, active: Release) -> Release | None:
    """Return the release that the rollback took the traffic from; None when it left the application alone."""
    if undone.to_git_sha is None:
        return None
    if active.git_sha != undone.to_git_sha:
        raise RefusedError(
            f"{active.version} has the traffic, not {undone.to_version or undone.to_git_sha[:12]}, which the rollback "
            "gave it to: somebody has changed it since. Give that one the traffic first, or deploy."
        )
    for release in connections.host.releases():
        if release.git_sha == undone.from_git_sha and release.promoted_at and release.state is not ReleaseState.FAILED:
            return release
    raise RefusedError(
        f"the host does not know a release of {(undone.from_git_sha or 'no commit')[:12]} any more, from which the "
        "rollback took the traffic. Deploy that commit instead."
    )


def _kept_by(connections: Connections, undone: RollbackReport) -> KeptDatabase | None:
    """Return the database that the rollback replaced; None when it left the database alone."""
    if undone.scope is RollbackScope.APP_ONLY:
        return None
    for kept in kept_databases(connections):
        if kept.name == undone.kept_database:
            return kept
    raise RefusedError(
        f"{undone.kept_database or 'the database that the rollback replaced'} is gone. What was in it is in the "
        "backups: `runbook db:backups`, then `runbook deploy:rollback --db-only --backup-id=...`."
    )


def _written(connections: Connections, undone: RollbackReport, kept: KeptDatabase) -> tuple[TableWritten, ...]:
    """Return what the application has written since; refuse when migrations were applied."""
    with connections.database.connect() as live:
        written = written_since(live, swapped_at(connections, undone, kept.name))
    if any(table in written for table in own_tables(connections)):
        raise RefusedError(
            f"migrations were applied or marked since the rollback of {undone.timestamp:%Y-%m-%d %H:%M:%S} UTC; it can "
            f"not be undone any more. {kept.name} stays until `runbook db:kept:drop`."
        )
    return tuple(written.values())

"""What an environment is at: its release, who changes it, what holds it, what is kept, and how runs ended.

Source: runbook, "SEV1: Complete Outage" ("Check system status", "Check recent deployments").
"""

from __future__ import annotations

from collections.abc import Sequence

from runbook.clients.application_host import Release
from runbook.connections import Connections
from runbook.procedures.changing import hold_of, lock_of
from runbook.reports import DeployReport
from runbook.stages.kept import kept_databases
from runbook.stages.preparation import preparations

_REPORTS = 10


def status_lines(connections: Connections) -> list[str]:
    """Return the state of an environment, line by line.

    Raises:
        ServiceError: host, store or database does not answer.
    """
    name, active = connections.settings.name, connections.host.active()
    lines = [f"{name}: no release has the traffic"]
    if active is not None:
        lines = [f"{name}: {active.version} ({active.git_sha[:12]}) at {connections.host.public_url}"]
    lines += _lock(connections)
    hold = hold_of(connections).current()
    lines.append(f"held: {hold.render()}" if hold else "held: no")
    lines += [f"kept ready for a rollback: {preparation.render()}" for preparation in preparations(connections)]
    lines += [f"kept database: {kept.render()}" for kept in kept_databases(connections)]
    for report in list(connections.store.history())[-_REPORTS:]:
        what = f"deploy {report.version}" if isinstance(report, DeployReport) else report.what
        how = "ok" if report.success else "failed"
        lines.append(
            f"  {report.timestamp:%Y-%m-%d %H:%M:%S} UTC  {what:<18} {how:<7} {report.state:<11} {report.reason}"
        )
    return lines


def release_lines(releases: Sequence[Release], active: Release | None) -> list[str]:
    """Return releases line by line; the one with the traffic is marked."""
    lines: list[str] = []
    for release in releases:
        mark = "*" if active is not None and release.release_id == active.release_id else " "
        promoted = f"{release.promoted_at:%Y-%m-%d %H:%M:%S}" if release.promoted_at else "never"
        lines.append(
            f"{mark} {release.created_at:%Y-%m-%d %H:%M:%S} UTC  {release.version:<16} {release.git_sha[:12]:<12}  "
            f"{release.state:<8} traffic: {promoted:<19}  {release.url}  {release.release_id}"
        )
    return lines


def _lock(connections: Connections) -> list[str]:
    lock = lock_of(connections)
    state = lock.state()
    if state is None or not state.unfinished:
        return ["lock: free"]
    if state.freed:
        return [
            f"lock: free, opened by {state.freed.by}: {state.freed.reason}",
            f"  {state.owner.run} may have left work; `runbook recover` looks",
        ]
    seconds = state.silent_for.total_seconds()
    life = "it has died; `runbook recover`" if lock.is_dead(state) else f"last sign of life {seconds:.0f} s ago"
    return [f"lock: token {state.token}, {state.owner.render()}; {life}"]

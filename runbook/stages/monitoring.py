"""Measuring an environment: application, database, infrastructure; what is normal; what the numbers mean.

Source: runbook, "Monitoring and Alerts", "SEV2: High Error Rates", "SEV3: Performance Degradation".
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from runbook.clients.application_host import LogLine, Release, ShowsResources
from runbook.clients.database_diagnostics import count_sessions, read_state
from runbook.clients.sample_history import SampleHistory
from runbook.connections import Connections
from runbook.errors import ServiceError
from runbook.rules.application_health import application_findings
from runbook.rules.database_health import database_findings, unreachable
from runbook.rules.database_samples import database_samples
from runbook.rules.database_state import Missing
from runbook.rules.error_signatures import ErrorGroup, group_errors, is_error
from runbook.rules.health_findings import Finding, Health, actions_where_needed, by_runbook, overall
from runbook.rules.infrastructure import Resources, resource_samples
from runbook.rules.normal import SAME_HOURS, Normal, normal, rates
from runbook.rules.samples import METRICS, TOTAL, Sample, sample
from runbook.rules.spans import Piece, pieces

_LINES = 2000
_PAUSE_S = 1.0
_PIECES = 10


class Source(StrEnum):
    """What is measured. Source: runbook, "Key Metrics to Monitor"."""

    APPLICATION = "application"
    DATABASE = "database"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Measurement:
    """All that was measured of an environment at one moment, and what it means.

    `missing` says what could not be measured and why; `release` is the version that has the traffic.
    """

    environment: str
    at: datetime
    window_s: float
    release: str | None
    samples: Mapping[str, Sample]
    normals: Mapping[str, Normal]
    findings: tuple[Finding, ...]
    missing: tuple[Missing, ...]
    errors: tuple[ErrorGroup, ...] = ()

    @property
    def health(self) -> Health:
        """The most urgent of the findings."""
        return overall(self.findings)


@dataclass
class _Found:
    """What was found so far."""

    samples: list[Sample] = field(default_factory=list[Sample])
    missing: list[Missing] = field(default_factory=list[Missing])
    findings: list[Finding] = field(default_factory=list[Finding])
    errors: list[ErrorGroup] = field(default_factory=list[ErrorGroup])

    def lacks(self, what: str, error: Exception | str, action: str = "") -> None:
        """Note what could not be measured, as a finding too."""
        self.missing.append(Missing(what, str(error), action))
        self.findings.append(Finding(what, Health.COULD_NOT_RUN, str(error), action))


def history_of(connections: Connections) -> SampleHistory:
    """Return where the samples of an environment are kept."""
    settings = connections.settings
    return SampleHistory(connections.store.objects, settings.name, keep_days=settings.monitoring.history_days)


def measure(
    connections: Connections,
    *,
    window: timedelta | None = None,
    sources: Sequence[Source] = tuple(Source),
    pause_s: float = _PAUSE_S,
) -> Measurement:
    """Measure application, database and infrastructure now.

    What cannot be measured stops nothing: it is a finding. A database that does not answer is critical.

    Args:
        connections: the environment.
        window: how far to look back for requests and errors in the log; as the settings say by default.
        sources: what to measure.
        pause_s: at least so long lies between two looks at CPU, disk and network.
    """
    settings = connections.settings
    window = window or timedelta(seconds=settings.monitoring.window_s)
    at, found = datetime.now(UTC), _Found()
    release = _active(connections, found)
    before, began = None, time.monotonic()
    if Source.INFRASTRUCTURE in sources:
        before = _resources(connections, release, found)
    if release is not None and Source.APPLICATION in sources:
        _measure_application(connections, release, window, at, found)
    if Source.DATABASE in sources:
        _measure_database(connections, found)
    if before is not None:
        time.sleep(max(0.0, pause_s - (time.monotonic() - began)))
        after = _resources(connections, release, found)
        _add_resources(before, after, found)
    found.samples = _fullest_disk(found.samples)
    normals = _measure_against_history(connections, at, found)
    samples = {one.metric: one for one in found.samples}
    findings = actions_where_needed([*application_findings(samples, normals), *found.findings])
    return Measurement(
        environment=settings.name,
        at=at,
        window_s=window.total_seconds(),
        release=release.version if release else None,
        samples=samples,
        normals=normals,
        findings=tuple(findings),
        missing=tuple(found.missing),
        errors=tuple(found.errors),
    )


def record(connections: Connections, measurement: Measurement) -> None:
    """Keep what was measured in the history. Once for each measurement.

    Raises:
        ServiceError: the store does not answer.
    """
    at = measurement.at
    history_of(connections).add(sample(at, one.metric, one.value) for one in measurement.samples.values())


def as_record(measurement: Measurement) -> dict[str, Any]:
    """Return a measurement as JSON can hold it: each metric with its value, its unit and what is normal."""

    def one(metric: str, found: Sample) -> dict[str, Any]:
        known = measurement.normals.get(metric)
        times = known.times(found.value) if known else None
        return {
            "value": found.value,
            "unit": found.unit,
            "normal": asdict(known) if known else None,
            "times_normal": times if times is not None and math.isfinite(times) else None,
        }

    return {
        "at": measurement.at.isoformat(),
        "window_s": measurement.window_s,
        "release": measurement.release,
        "samples": {metric: one(metric, found) for metric, found in measurement.samples.items()},
        "missing": [asdict(missing) for missing in measurement.missing],
        "errors": [asdict(group) for group in measurement.errors],
    }


def recent(connections: Connections, window: timedelta, *, until: datetime) -> list[Piece]:
    """Return what the history holds of a span, in ten pieces, oldest first; nothing when the store does not answer."""
    try:
        samples = history_of(connections).read(since=until - window, until=until)
    except ServiceError:
        return []
    return pieces(samples, since=until - window, until=until, count=_PIECES)


def normals_at(history: SampleHistory, metrics: Sequence[str], at: datetime, *, keep_days: int) -> dict[str, Normal]:
    """Return what is normal for metrics at a time, by metric: of the same hours, where too few of all.

    Raises:
        ServiceError: the store does not answer.
    """
    since = at - timedelta(days=keep_days)
    near = {(at + part * SAME_HOURS).astimezone(UTC).hour for part in (-1, 0, 1)}
    samples = history.read(since=since, until=at, hours=near.__contains__)
    found = {metric: normal(metric, samples, at=at) for metric in metrics}
    if any(one.median is None for one in found.values()):
        samples = history.read(since=since, until=at)
        found = {metric: normal(metric, samples, at=at) for metric in metrics}
    return found


def _active(connections: Connections, found: _Found) -> Release | None:
    try:
        release = connections.host.active()
    except ServiceError as error:
        found.lacks("application host", error, "Check the host's status page.")
        return None
    if release is None:
        found.lacks("application", "no release has the traffic", "Deploy one.")
    return release


def _measure_application(
    connections: Connections, release: Release, window: timedelta, at: datetime, found: _Found
) -> None:
    since = at - window
    found.samples.append(sample(at, "window_s", window.total_seconds()))
    try:
        counted = connections.host.metrics(release.release_id, since=since)
    except ServiceError as error:
        found.lacks("requests", error)
    else:
        values: dict[str, float] = {
            "requests": counted.requests,
            "errors": counted.errors,
            "requests_per_s": counted.requests / window.total_seconds(),
        }
        if counted.requests:
            values["error_rate_pct"] = counted.error_rate_pct
            times = {"p50": counted.p50_s, "p95": counted.p95_s, "p99": counted.p99_s}
            values |= {f"response_time_{name}_s": value for name, value in times.items() if value > 0}
        found.samples += [sample(at, metric, value) for metric, value in values.items()]
    try:
        lines = connections.host.logs(release.release_id, since=since, limit=_LINES)
    except ServiceError as error:
        found.lacks("error log", error)
    else:
        _add_errors(lines, window, at, found)


def _add_errors(lines: Sequence[LogLine], window: timedelta, at: datetime, found: _Found) -> None:
    if len(lines) >= _LINES:
        window = max(timedelta(seconds=1), at - lines[0].at)  # those before were not read
    errors = sum(is_error(line.level) for line in lines)
    found.samples.append(sample(at, "error_log_lines_per_min", errors / (window.total_seconds() / 60)))
    found.errors += group_errors((line.at, line.level, line.message) for line in lines)


def _measure_database(connections: Connections, found: _Found) -> None:
    try:
        state = read_state(connections.database, limit=5)
    except ServiceError as error:
        found.findings += unreachable(error)
        return
    found.samples += database_samples(state)
    found.findings += database_findings(state)
    found.missing += state.missing
    query = connections.settings.monitoring.active_sessions_query
    if not query:
        action = "Set monitoring.active_sessions_query."
        found.missing.append(Missing("active sessions", "nobody counts the sessions of users", action))
        return
    try:
        found.samples.append(sample(state.at, "active_sessions", count_sessions(connections.database, query)))
    except ServiceError as error:
        found.lacks("active sessions", error, "Mend monitoring.active_sessions_query.")


def _resources(connections: Connections, release: Release | None, found: _Found) -> Resources | None:
    host = connections.host
    if release is None:
        return None
    if not isinstance(host, ShowsResources):
        why = "this application host shows no CPU, memory, disk or network"
        if not any(one.what == "infrastructure" for one in found.missing):
            found.missing.append(Missing("infrastructure", why, "Look in the provider's console."))
        return None
    try:
        return host.resources(release.release_id)
    except ServiceError as error:
        found.missing.append(Missing("infrastructure", str(error)))
        return None


def _add_resources(before: Resources, after: Resources | None, found: _Found) -> None:
    if after is None:
        return
    found.samples += resource_samples(before, after)
    health = by_runbook("disk_usage_pct", after.disk_usage_pct)
    detail = f"{after.disk_usage_pct:.0f} % in use"
    found.findings.append(Finding("disk of the application host", health, detail, "Make room, or enlarge it."))
    if after.processes == 0:
        found.findings.append(
            Finding("processes", Health.CRITICAL, "no process of the active release runs", "`runbook deploy:status`")
        )


def _fullest_disk(samples: Sequence[Sample]) -> list[Sample]:
    """Keep of the disks of application and database the one that is fuller."""
    disks = [one for one in samples if one.metric == "disk_usage_pct"]
    others = [one for one in samples if one.metric != "disk_usage_pct"]
    return others + ([max(disks, key=lambda one: one.value)] if disks else [])


def _measure_against_history(connections: Connections, at: datetime, found: _Found) -> dict[str, Normal]:
    """Add the rates since the last sampling, and return what is normal; a history that is gone stops nothing."""
    history, keep_days = history_of(connections), connections.settings.monitoring.history_days
    try:
        found.samples += rates(history.last(), {one.metric: one for one in found.samples})
        wanted = [metric for metric in {one.metric for one in found.samples} if METRICS[metric] != TOTAL]
        return normals_at(history, wanted, at, keep_days=keep_days)
    except ServiceError as error:
        found.lacks("history", error, "Without it nobody can say what is normal.")
        return {}

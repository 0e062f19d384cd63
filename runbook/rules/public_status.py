"""What users may see of an environment: components, incidents in the words that somebody approved, maintenance, uptime.

Source: runbook, "Incident Response Process" ("Update status page").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict

from runbook.rules.alerting import Silence
from runbook.rules.incident_messages import PUBLIC_STATUS, PublicIncidentStatus
from runbook.rules.incidents import EventKind, Incident, IncidentStatus
from runbook.rules.samples import Sample
from runbook.rules.thresholds import Severity

SHOWN_DAYS = 90
_AHEAD = timedelta(days=14)
_SILENT = timedelta(minutes=15)
"""So long without a sampling nobody knows how the application does."""


class ComponentState(StrEnum):
    """How a component does, from the best to the worst; what nobody has looked at is not known to work."""

    OPERATIONAL = "operational"
    UNDER_MAINTENANCE = "under_maintenance"
    UNKNOWN = "unknown"
    DEGRADED_PERFORMANCE = "degraded_performance"
    PARTIAL_OUTAGE = "partial_outage"
    MAJOR_OUTAGE = "major_outage"


class PublicUpdate(BaseModel):
    """What users were told at a time."""

    model_config = ConfigDict(frozen=True)

    at: AwareDatetime
    status: PublicIncidentStatus
    text: str


class PublicIncident(BaseModel):
    """An incident as users see it, the newest update first; `ended` None while it is open."""

    model_config = ConfigDict(frozen=True)

    id: str
    title: str
    impact: ComponentState
    began: AwareDatetime
    ended: AwareDatetime | None
    updates: tuple[PublicUpdate, ...]

    @property
    def status(self) -> PublicIncidentStatus:
        """What users were told last."""
        return self.updates[0].status


class PublicMaintenance(BaseModel):
    """Maintenance that is on, or planned."""

    model_config = ConfigDict(frozen=True)

    id: str
    start: AwareDatetime
    end: AwareDatetime
    text: str


class UptimeDay(BaseModel):
    """How much of a day, in UTC, the application worked, in percent; None without data, which is its own verdict."""

    model_config = ConfigDict(frozen=True)

    day: date
    uptime_pct: float | None


class PublicStatus(BaseModel):
    """All that the page shows."""

    model_config = ConfigDict(frozen=True)

    name: str
    at: AwareDatetime
    components: tuple[tuple[str, ComponentState], ...]
    incidents: tuple[PublicIncident, ...] = ()
    maintenance: tuple[PublicMaintenance, ...] = ()
    uptime: tuple[UptimeDay, ...] = ()

    @property
    def overall(self) -> ComponentState:
        """The state of the component that does worst; unknown without any."""
        order = list(ComponentState)
        return max((state for _, state in self.components), key=order.index, default=ComponentState.UNKNOWN)


def public_incidents(incidents: Iterable[Incident], title: str) -> tuple[PublicIncident, ...]:
    """Return what users were told of, the newest first. An incident that nobody has published is none for them."""
    found: list[PublicIncident] = []
    for incident in incidents:
        told = [one for one in incident.events if one.kind is EventKind.PUBLISHED]
        if told:
            updates = [
                PublicUpdate(at=one.at, status=PUBLIC_STATUS[_status_at(incident, one.at)], text=one.text)
                for one in reversed(told)
            ]
            ended = incident.resolved_at if updates[0].status is PublicIncidentStatus.RESOLVED else None
            impact = _IMPACTS[incident.severity]
            about = {"id": incident.id, "title": title, "impact": impact, "began": incident.began_at}
            found.append(PublicIncident.model_validate({**about, "ended": ended, "updates": tuple(updates)}))
    return tuple(reversed(found))


_IMPACTS = {
    Severity.SEV1: ComponentState.MAJOR_OUTAGE,
    Severity.SEV2: ComponentState.PARTIAL_OUTAGE,
    Severity.SEV3: ComponentState.DEGRADED_PERFORMANCE,
    Severity.SEV4: ComponentState.OPERATIONAL,
}


def component_state(
    incidents: Sequence[PublicIncident], windows: Sequence[Silence], last_seen: datetime | None, at: datetime
) -> ComponentState:
    """Return how the application does: by incidents that users know of, maintenance that is on, and what was measured.

    Args:
        incidents: as users see them.
        windows: of maintenance.
        last_seen: when it was measured last; None when never.
        at: now, aware.
    """
    states = [one.impact for one in incidents if one.ended is None]
    if any(window.covers(at) for window in windows):
        states.append(ComponentState.UNDER_MAINTENANCE)
    if last_seen is None or at - last_seen > _SILENT:
        states.append(ComponentState.UNKNOWN)
    return max(states, key=list(ComponentState).index, default=ComponentState.OPERATIONAL)


def planned(windows: Iterable[Silence], at: datetime) -> tuple[PublicMaintenance, ...]:
    """Return maintenance that is on or begins within two weeks, the next one first."""
    soon = sorted((one for one in windows if one.end > at and one.start < at + _AHEAD), key=lambda one: one.start)
    return tuple(
        PublicMaintenance(id=f"{one.start:%Y%m%dT%H%M}", start=one.start, end=one.end, text=one.reason) for one in soon
    )


def uptime_days(samples: Iterable[Sample]) -> dict[date, float]:
    """Return, by day in UTC, in percent of samplings, how often the application worked.

    It worked when fewer than half of the requests failed and the database was reached. Days without a sampling are left
    out.
    """
    seen: dict[datetime, set[str]] = {}
    for one in samples:
        names = seen.setdefault(one.at, set())
        if one.metric in ("requests", "database_connections"):
            names.add(one.metric)
        if one.metric == "error_rate_pct" and one.value >= 50:
            names.add("failing")
    days: dict[date, list[bool]] = {}
    for at, names in seen.items():
        if names & {"requests", "failing"}:
            is_up = "database_connections" in names and "failing" not in names
            days.setdefault(at.astimezone(UTC).date(), []).append(is_up)
    return {day: round(100 * sum(ups) / len(ups), 3) for day, ups in sorted(days.items())}


def last_days(known: dict[date, float], today: date) -> tuple[UptimeDay, ...]:
    """Return the last ninety days, the oldest first; those without data are marked as such."""
    days = [today - timedelta(days=back) for back in range(SHOWN_DAYS - 1, -1, -1)]
    return tuple(UptimeDay(day=day, uptime_pct=known.get(day)) for day in days)


def _status_at(incident: Incident, at: datetime) -> IncidentStatus:
    found = [one.status for one in incident.events if one.status is not None and one.at <= at]
    return found[-1] if found else incident.status

"""An incident: what happened, in order, and what follows from it: its severity, status, phases, and who is called.

An incident is nothing but its events. Whoever has something to say adds one; what is true now is what they add up to:
people and runs that write at the same time lose nothing of each other's.

Source: runbook, "Incident Response", "Severity Levels", "Support Contacts" ("Escalation Path").
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from runbook.rules.thresholds import Severity


class IncidentStatus(StrEnum):
    """How far an incident is, as the template calls it. Source: runbook, "Incident Communication Template"."""

    INVESTIGATING = "Investigating"
    IDENTIFIED = "Identified"
    MITIGATING = "Mitigating"
    RESOLVED = "Resolved"


class IncidentPhase(StrEnum):
    """The six phases, in order. Source: runbook, "Incident Response Process"."""

    DETECTION = "Detection"
    ASSESSMENT = "Assessment"
    COMMUNICATION = "Communication"
    MITIGATION = "Mitigation"
    RESOLUTION = "Resolution"
    POST_MORTEM = "Post-Mortem"


LIMITS = {
    IncidentPhase.DETECTION: timedelta(minutes=5),
    IncidentPhase.ASSESSMENT: timedelta(minutes=10),
    IncidentPhase.COMMUNICATION: timedelta(minutes=15),
    IncidentPhase.MITIGATION: timedelta(minutes=60),
    IncidentPhase.POST_MORTEM: timedelta(hours=48),
}
"""Until when a phase has to be over: since the incident began; the post-mortem since it was resolved.

Source: runbook, "Incident Response Process" ("0-5 min", "5-10 min", "10-15 min", "15-60 min", "varies", "within 48
hours"). Resolution has no limit.
"""


class EventKind(StrEnum):
    """What one event says."""

    OPENED = "opened"
    SIGNAL = "signal"  # an alert, or what a run has measured
    NOTE = "note"
    SEVERITY = "severity"
    STATUS = "status"
    IMPACT = "impact"
    CURRENT = "current status"
    ACTION = "action"
    NEXT_STEPS = "next steps"
    ETA = "ETA"
    ASSESSED = "assessed"
    TOLD = "told"
    ESCALATED = "escalated"
    ACKNOWLEDGED = "acknowledged"
    PUBLISHED = "published"
    RESOLVED = "resolved"
    REOPENED = "reopened"
    CAUSE = "cause"
    LESSON = "lesson"
    ACTION_ITEM = "action item"
    ITEM_DONE = "action item done"
    POST_MORTEM = "post-mortem"


class IncidentEvent(BaseModel):
    """One thing that happened or was said: when, by whom, and what, as far as the kind has it.

    `began` is when the trouble began, for OPENED; `level` that of the escalation path; `key` tells alerts and action
    items apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: AwareDatetime
    by: str = Field(min_length=1)
    kind: EventKind
    text: str = ""
    severity: Severity | None = None
    status: IncidentStatus | None = None
    began: AwareDatetime | None = None
    level: int | None = None
    key: str = ""
    owner: str = ""
    due: AwareDatetime | None = None


class ActionItem(BaseModel):
    """What is to be done so that it does not happen again."""

    model_config = ConfigDict(frozen=True)

    key: str
    text: str
    owner: str
    due: datetime | None
    is_done: bool


class Incident(BaseModel):
    """An incident by its events, oldest first; the first one opened it."""

    model_config = ConfigDict(frozen=True)

    id: str
    environment: str
    events: tuple[IncidentEvent, ...] = Field(min_length=1)

    @property
    def title(self) -> str:
        """What is wrong, in a line."""
        return self.events[0].text

    @property
    def detected_at(self) -> datetime:
        """When somebody or something noticed it."""
        return self.events[0].at

    @property
    def began_at(self) -> datetime:
        """When the trouble began, as far as known."""
        return self.events[0].began or self.events[0].at

    @property
    def severity(self) -> Severity:
        """How bad it is by the last word on it."""
        return next((one.severity for one in reversed(self.events) if one.severity is not None), Severity.SEV4)

    @property
    def status(self) -> IncidentStatus:
        """How far it is by the last word on it."""
        return next((one.status for one in reversed(self.events) if one.status), IncidentStatus.INVESTIGATING)

    @property
    def is_open(self) -> bool:
        """Whether it is not resolved, or was opened again."""
        return self.status is not IncidentStatus.RESOLVED

    @property
    def resolved_at(self) -> datetime | None:
        """When it was resolved; None while it is open."""
        return None if self.is_open else self._last(EventKind.RESOLVED).at

    @property
    def acted_at(self) -> datetime | None:
        """When the first action was taken."""
        return next((one.at for one in self.events if one.kind is EventKind.ACTION), None)

    @property
    def acknowledged_at(self) -> datetime | None:
        """When the first person took it."""
        return next((one.at for one in self.events if one.kind is EventKind.ACKNOWLEDGED), None)

    @property
    def action_items(self) -> tuple[ActionItem, ...]:
        """What is to be done afterwards, in the order in which it was said."""
        done = {one.key for one in self.events if one.kind is EventKind.ITEM_DONE}
        return tuple(
            ActionItem(key=one.key, text=one.text, owner=one.owner, due=one.due, is_done=one.key in done)
            for one in self.events
            if one.kind is EventKind.ACTION_ITEM
        )

    def texts(self, kind: EventKind) -> list[str]:
        """Return what events of a kind say, oldest first."""
        return [one.text for one in self.events if one.kind is kind and one.text]

    def latest(self, kind: EventKind) -> str:
        """Return what the last event of a kind says; empty when there is none."""
        return (self.texts(kind) or [""])[-1]

    def signals(self) -> set[str]:
        """Return the keys of the alerts that belong to it."""
        return {one.key for one in self.events if one.kind in (EventKind.OPENED, EventKind.SIGNAL) and one.key}

    def ended(self, phase: IncidentPhase) -> datetime | None:
        """Return when a phase was over, None while it is not.

        Detection is over when the incident is opened. Assessment: when somebody has said what is affected or how bad it
        is, or a run has investigated. Communication: when a channel took a message. Mitigation: when something was done
        about it, or it is resolved.
        """
        ends = {
            IncidentPhase.DETECTION: {EventKind.OPENED},
            IncidentPhase.ASSESSMENT: {EventKind.ASSESSED, EventKind.IMPACT, EventKind.SEVERITY, EventKind.RESOLVED},
            IncidentPhase.COMMUNICATION: {EventKind.TOLD},
            IncidentPhase.MITIGATION: {EventKind.ACTION, EventKind.RESOLVED},
            IncidentPhase.RESOLUTION: {EventKind.RESOLVED},
            IncidentPhase.POST_MORTEM: {EventKind.POST_MORTEM},
        }[phase]
        if phase is IncidentPhase.RESOLUTION:
            return self.resolved_at
        return next((one.at for one in self.events if one.kind in ends), None)

    def deadline(self, phase: IncidentPhase) -> datetime | None:
        """Return until when a phase has to be over; None where there is no limit, or not yet."""
        limit = LIMITS.get(phase)
        since = self.resolved_at if phase is IncidentPhase.POST_MORTEM else self.began_at
        return None if limit is None or since is None else since + limit

    def overdue(self, now: datetime) -> tuple[IncidentPhase, ...]:
        """Return the phases whose limit has passed and that are not over."""
        found: list[IncidentPhase] = []
        for phase in IncidentPhase:
            deadline = self.deadline(phase)
            if deadline is not None and now > deadline and self.ended(phase) is None:
                found.append(phase)
        return tuple(found)

    def _last(self, kind: EventKind) -> IncidentEvent:
        return next(one for one in reversed(self.events) if one.kind is kind)


class EscalationLevel(BaseModel):
    """Who is called at one level of the escalation path, and how long they have to answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="Who it is, by their role.")
    contacts: tuple[str, ...] = Field(default=(), description="How they are reached: addresses, telephone numbers.")
    acknowledge_within_s: float = Field(
        default=900, gt=0, le=86_400, description="Seconds until the next level is called when nobody has answered."
    )


ESCALATION_PATH = (
    EscalationLevel(name="Development Team Lead"),
    EscalationLevel(name="CTO / Technical Director"),
    EscalationLevel(
        name="External Support (Vercel, Neon)",
        contacts=("support@vercel.com", "support@neon.tech", "support@github.com"),
        acknowledge_within_s=86_400,
    ),
)
"""Source: runbook, "Support Contacts"."""


class Escalation(BaseModel):
    """A level that has to be called now, and why; `phase` when it is that one of the incident is overdue."""

    model_config = ConfigDict(frozen=True)

    level: int
    why: str
    phase: IncidentPhase | None = None


def due_escalation(incident: Incident, path: Sequence[EscalationLevel], now: datetime) -> Escalation | None:
    """Return the next level to be called, or None.

    The first level is called at once for SEV1 and SEV2, otherwise when half of the time to act in has passed. The next
    one when nobody of the level that was called last has answered in time, or, once for each, when a phase is overdue.
    Nobody is called for what is resolved, except for a post-mortem that is overdue.

    Args:
        incident: as it is now.
        path: levels, the first to be called first.
        now: aware.
    """
    called = [one for one in incident.events if one.kind is EventKind.ESCALATED and one.level is not None]
    level = max((one.level or 0 for one in called), default=0)
    if level >= len(path):
        return None
    if not called:
        if not incident.is_open:
            return _for_phase(incident, 1, set(), now)
        at_once = incident.severity in (Severity.SEV1, Severity.SEV2)
        due = incident.detected_at + (timedelta(0) if at_once else incident.severity.respond_within / 2)
        return Escalation(level=1, why=f"{incident.severity}: {incident.title}") if now >= due else None
    last, answered = called[-1], [one.at for one in incident.events if one.kind is EventKind.ACKNOWLEDGED]
    patience = timedelta(seconds=path[level - 1].acknowledge_within_s)
    if incident.is_open and not any(at >= last.at for at in answered) and now >= last.at + patience:
        return Escalation(level=level + 1, why=f"nobody of level {level} has acknowledged within {patience}")
    if now < last.at + patience:
        return None
    return _for_phase(incident, level + 1, {one.key for one in called}, now)


def _for_phase(incident: Incident, level: int, known: Collection[str], now: datetime) -> Escalation | None:
    """Return the call for an overdue phase that nobody was called for; of what is resolved the post-mortem alone."""
    for phase in incident.overdue(now):
        if phase not in known and (incident.is_open or phase is IncidentPhase.POST_MORTEM):
            why = f"{phase} was due at {incident.deadline(phase):%Y-%m-%d %H:%M} UTC"
            return Escalation(level=level, why=why, phase=phase)
    return None


def joins(incident: Incident, key: str, now: datetime, *, reopen_within: timedelta) -> bool:
    """Return whether an alert belongs to an incident that there is.

    To one that is open every alert of its environment does: what fails together mostly has one cause, and people who
    mend one thing need one place. One that was resolved is opened again when the same alert fires again soon.
    """
    if incident.is_open:
        return True
    resolved = incident.resolved_at
    return resolved is not None and key in incident.signals() and now - resolved <= reopen_within


def worst(severities: Iterable[Severity | None]) -> Severity:
    """Return the highest of several severities; SEV4 without any."""
    return min((one for one in severities if one is not None), default=Severity.SEV4)

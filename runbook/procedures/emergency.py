"""An emergency, in the runbook's order: assess, begin the response, communicate, act, document.

Plain Python: the flow `emergency` hands in the same stages as Prefect tasks. No lock is held: the rollback that comes
of it takes its own, and a person who has to consent is asked by a run of its own.

Source: runbook, "Emergency Contact Protocol", "SEV1: Complete Outage", "Decision Tree".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from runbook.connections import Connections
from runbook.errors import RefusedError, RunbookError
from runbook.procedures import investigation
from runbook.procedures.changing import hold_of
from runbook.procedures.investigation import Evidence
from runbook.procedures.rollback import rollback
from runbook.reports import RollbackReport, RollbackScope
from runbook.rules.checklist import Check, Outcome
from runbook.rules.drills import duration_in_words
from runbook.rules.emergency import Classified, Proposal, Situation, classify, propose
from runbook.rules.incidents import EventKind, Incident, IncidentEvent, IncidentStatus
from runbook.rules.thresholds import Action, Severity
from runbook.stages import incidents, verification
from runbook.stages.incidents import Opening
from runbook.stages.relief import relief
from runbook.stages.rollback import RollbackPlan, RollbackRequest, plan_rollback
from runbook.stages.unattended import objection_to_acting

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmergencyRequest:
    """What somebody, or an alert, says; nothing has to be said.

    `severity` counts when it is higher than what is measured. `key` names the alert, `detected_at` is when it fired.
    With `yes` whoever asks consents to the rollback that comes of it; without `act` nothing is done but looking and
    telling.
    """

    triggered_by: str
    severity: Severity | None = None
    reason: str = ""
    key: str = ""
    detected_at: datetime | None = None
    yes: bool = False
    act: bool = True


@dataclass(frozen=True)
class EmergencyReport:
    """What was found, what the runbook says, and what was done; `incident` is None when there is no emergency."""

    classified: Classified
    situation: Situation
    evidence: tuple[Evidence, ...] = ()
    proposal: Proposal | None = None
    quote: str = ""
    incident: Incident | None = None
    done: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()


def _ask(_connections: Connections, _request: RollbackRequest) -> str:
    """Return how a person is asked: where nobody is led through a consent, by the message alone."""
    return "nobody was asked in the UI"


@dataclass(frozen=True)
class EmergencyStages:
    """The stages that an emergency calls; by default the plain functions. `ask` begins a rollback that waits."""

    look: Callable[[Connections], Situation] = investigation.look
    open_or_join: Callable[[Connections, Opening], Incident] = incidents.open_or_join
    investigate: Callable[[Connections, Severity], tuple[Evidence, ...]] = investigation.investigate
    plan_rollback: Callable[[Connections, RollbackRequest], RollbackPlan] = plan_rollback
    roll_back: Callable[[Connections, RollbackRequest], RollbackReport] = rollback
    ask: Callable[[Connections, RollbackRequest], str] = _ask
    verify: Callable[[Connections], tuple[Check, ...]] = verification.verify
    say: Callable[..., Incident] = incidents.say


def emergency(
    connections: Connections, request: EmergencyRequest, stages: EmergencyStages | None = None
) -> EmergencyReport:
    """Assess an emergency, tell everybody, investigate, and do what the runbook says, as far as a run may.

    Without a severity that somebody says, and with nothing wrong by what is measured, no incident is opened.

    Raises:
        ServiceError: the store does not answer, so that nothing could be written down.
    """
    stages = stages or EmergencyStages()
    situation = stages.look(connections)
    classified = classify(situation, request.severity)
    level, name = classified.severity, connections.settings.name
    if level is Severity.SEV4 and request.severity is None and not request.key:
        return EmergencyReport(classified, situation)
    title = request.reason.strip() or classified.why[0]
    opening = Opening(
        title, level, request.triggered_by, began=request.detected_at, key=request.key or f"said: {title}"
    )
    incident = stages.open_or_join(connections, opening)
    evidence = stages.investigate(connections, level)
    proposal = propose(situation, level, name)
    consent = _rollback_request(request, proposal, level, title)
    quote, can_go_back = _quote(connections, stages, consent)
    steps = (*proposal.steps, *(relief(connections) if level is Severity.SEV3 else ()))
    assessed = [
        _event(request, EventKind.ASSESSED, "; ".join(classified.why)),
        _event(request, EventKind.CURRENT, f"{proposal.what}; it seems to come from {situation.cause}"),
        _event(request, EventKind.NEXT_STEPS, "; ".join(steps)),
    ]
    incident = stages.say(connections, incident.id, *assessed)
    done, checks = _act(connections, stages, request, proposal, consent if can_go_back else None, incident)
    incident = incidents.records_of(connections).incident(incident.id)
    return EmergencyReport(classified, situation, evidence, proposal, quote, incident, done, checks)


def render_report(report: EmergencyReport, environment: str) -> str:
    """Return what was found, what was done and what is left, as text."""
    lines = [f"{report.classified.severity} on {environment}", *(f"- {why}" for why in report.classified.why)]
    if report.incident is None:
        return "\n".join([*lines, "", "no incident: monitor normally"])
    lines += ["", f"It seems to come from {report.situation.cause}."]
    if report.proposal is not None:
        lines += [f"The runbook says: {report.proposal.what}.", *(f"  {step}" for step in report.proposal.steps)]
    lines += ["", *report.quote.splitlines()] if report.quote else []
    lines += ["", *(f"Done: {done}" for done in report.done or ("nothing, a person decides",))]
    lines += [f"  {check.outcome} {check.name}: {check.detail}" for check in report.checks]
    incident = report.incident
    took = f", first action after {_after(incident, incident.acted_at)}" if incident.acted_at else ""
    lines += ["", f"{incident.id}: detected after {_after(incident, incident.detected_at)}{took}"]
    for one in report.evidence:
        lines += ["", f"## {one.title}  ({one.command})", *one.lines]
    return "\n".join(lines)


def _act(
    connections: Connections,
    stages: EmergencyStages,
    request: EmergencyRequest,
    proposal: Proposal,
    consent: RollbackRequest | None,
    incident: Incident,
) -> tuple[tuple[str, ...], tuple[Check, ...]]:
    """Do what is proposed when somebody or the policy allows it, or ask; return what was done and how it is now."""
    if consent is None or not request.act:
        return (), ()
    if not request.yes and (incident.acted_at is not None or hold_of(connections).current() is not None):
        looked = "something was rolled back already; what runs now is not taken back as well. A person has to look"
        stages.say(connections, incident.id, _event(request, EventKind.NOTE, looked))
        return (looked,), ()
    objection = _objection(connections, stages, request, proposal, consent)
    if objection is not None:
        try:
            where = stages.ask(connections, consent)
        except Exception as error:  # noqa: BLE001 - that nobody can be asked must not hide what was found
            where = f"nobody could be asked in the UI: {error}"
        asked = f"a person was asked ({objection}); {where}"
        stages.say(connections, incident.id, _event(request, EventKind.NOTE, asked))
        return (asked,), ()
    try:
        done = stages.roll_back(connections, consent)
    except RunbookError as error:
        kind = "refused" if isinstance(error, RefusedError) else "failed"
        failed = f"the rollback {kind}: {error}"
        stages.say(connections, incident.id, _event(request, EventKind.NOTE, failed))
        return (failed,), ()
    words = f"rolled back {done.scope} to {done.to_version}: {done.state}"
    checks = _verified(connections, stages)
    wrong = [f"{check.name}: {check.detail}" for check in checks if check.outcome is Outcome.FAILED]
    current = f"after the rollback: {'; '.join(wrong) or 'all that was looked at is well'}"
    stages.say(
        connections,
        incident.id,
        _event(request, EventKind.STATUS, status=IncidentStatus.MITIGATING),
        _event(request, EventKind.CURRENT, current),
        _event(request, EventKind.NEXT_STEPS, "Verify health; plan fix; deploy fix; runbook incident:resolve"),
    )
    return (words,), checks


def _objection(
    connections: Connections,
    stages: EmergencyStages,
    request: EmergencyRequest,
    proposal: Proposal,
    consent: RollbackRequest,
) -> str | None:
    """Return why a person has to be asked; None when somebody has consented, or the policy does."""
    if request.yes:
        return None
    if proposal.action is not Action.ROLL_BACK:
        return f"the runbook says to {proposal.what}"
    if not connections.settings.incidents.roll_back:
        return "the settings leave that to a person (`incidents.roll_back`)"
    return objection_to_acting(connections, consent, stages.plan_rollback)


def _rollback_request(
    request: EmergencyRequest, proposal: Proposal, level: Severity, title: str
) -> RollbackRequest | None:
    if proposal.scope is None:
        return None
    is_of_database = proposal.scope is RollbackScope.DB_ONLY
    return RollbackRequest(
        proposal.scope, None, is_of_database, f"{level}: {title}", True, request.triggered_by, severity=level
    )


def _quote(connections: Connections, stages: EmergencyStages, request: RollbackRequest | None) -> tuple[str, bool]:
    """Return what a rollback would do, in rows, or why there can be none; and whether there can."""
    if request is None:
        return "", False
    try:
        return stages.plan_rollback(connections, request).render(), True
    except RunbookError as error:
        return f"no rollback {request.scope}: {error}", False


def _verified(connections: Connections, stages: EmergencyStages) -> tuple[Check, ...]:
    try:
        return stages.verify(connections)
    except RunbookError as error:
        return (Check("verification", Outcome.COULD_NOT_RUN, str(error)),)


def _event(
    request: EmergencyRequest, kind: EventKind, text: str = "", *, status: IncidentStatus | None = None
) -> IncidentEvent:
    return IncidentEvent(at=datetime.now(UTC), by=request.triggered_by, kind=kind, text=text, status=status)


def _after(incident: Incident, at: datetime) -> str:
    return duration_in_words((at - incident.began_at).total_seconds())

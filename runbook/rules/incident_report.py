"""The incident report that a rollback opens: what the run knows, and a marked blank for what only people know.

What came from people or from outside (reasons, findings, errors) is put on one line, and escaped where it is markdown.

Source: runbook, "Incident Communication Template", "Post-Rollback Actions".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from runbook.journal import Effect, Entry, EntryKind
from runbook.reports import DeployReport, FinalState, RollbackReport, Step
from runbook.rules.markdown import boxes, bullets, one_line, safe, section, subsection, utc
from runbook.rules.thresholds import Severity

BLANK = "[to be filled in]"
_SEVERITY = re.compile(r"\bSEV([1-4])\b", re.IGNORECASE)
_FOUND = {
    FinalState.VERIFIED: "VERIFIED, probes found what had to be there",
    FinalState.UNVERIFIED: "UNVERIFIED, not every probe could run",
    FinalState.DIVERGED: "DIVERGED, it is not known to be what was planned; a person has to look",
}
ROOT_CAUSE = ("Identify cause", "Determine how to prevent", "Update deployment process", "Add tests if needed")
FORWARD_FIX = ("Create fix branch", "Add regression tests", "Review thoroughly", "Deploy during maintenance window")
_STAKEHOLDERS = ("Deployment team", "Product team", "Customer support", "End users (if appropriate)")


@dataclass(frozen=True)
class Incident:
    """What an incident report is made from: the rollback's report and its journal; `now` is aware.

    `deploy` is the one that released what the rollback takes back, where the history has it.
    """

    report: RollbackReport
    entries: Sequence[Entry]
    deploy: DeployReport | None
    now: datetime

    @property
    def is_held(self) -> bool:
        """Whether nothing may be deployed until somebody releases the environment."""
        placed = any(entry.effect is Effect.HOLD for entry in self.entries)
        return placed or self.report.state is FinalState.DIVERGED

    @property
    def is_recovered(self) -> bool:
        """Whether the run died and another one went on with it."""
        return any(entry.kind is EntryKind.TAKEN_OVER for entry in self.entries)


def severity_of(reason: str) -> Severity | None:
    """Return the severity that a reason names, the worst of several; None when a person has to say.

    Source: runbook, "SEV1: Complete Outage" (`--reason="SEV1: Complete outage"`).
    """
    return min((Severity(f"SEV{level}") for level in _SEVERITY.findall(reason)), default=None)


def deploy_taken_back(
    history: Sequence[DeployReport | RollbackReport], rollback: RollbackReport
) -> DeployReport | None:
    """Return the last deploy that released what a rollback takes back; `history` is oldest first."""
    found = [
        report
        for report in history
        if isinstance(report, DeployReport)
        and report.success
        and report.environment == rollback.environment
        and report.git_sha == rollback.from_git_sha
        and report.timestamp < rollback.timestamp
    ]
    return found[-1] if found else None


def render_incident(incident: Incident) -> str:
    """Return the incident report of a rollback as markdown.

    First the message for stakeholders, in the layout of the runbook's template and fit to be copied. Then the runbook's
    "Create Incident Report", a timeline, its "Root Cause Analysis", and what is left to be done.
    """
    report = incident.report
    lines = [
        f"# Incident: rollback {report.scope} of {report.environment}, {utc(report.timestamp)}",
        "",
        *_message(incident),
        *section("What went wrong", [*bullets(_cause(incident)), f"- {BLANK}"]),
        *section("When it was detected", [f"- {BLANK}", f"- The rollback began {utc(report.timestamp)}"]),
        *section("Actions taken", [*bullets(_actions(incident)), *_steps(report.steps)]),
        *section("Current status", bullets(_status(incident))),
        *section("Timeline for fix", [f"- {BLANK}"]),
        *section("Timeline", [*bullets(_timeline(incident)), f"- {BLANK}: when it began, when it was detected"]),
        *section("Root Cause Analysis", [line for point in ROOT_CAUSE for line in subsection(point, [BLANK])][1:]),
        *section("Follow-up Tasks", ["### Left by the rollback", "", *boxes(_left(incident))]),
        *subsection("Notify Stakeholders", boxes(_STAKEHOLDERS)),
        *subsection("Plan Forward Fix", boxes(FORWARD_FIX)),
    ]
    return "\n".join(lines) + "\n"


def render_update(incident: Incident) -> str:
    """Return what is added to an incident report that is open already, when another run went on with the rollback."""
    head = f"Update of {utc(incident.now)}: another run went on with this rollback"
    lines = [*section(head, bullets(_status(incident))), *subsection("Left since", boxes(_left(incident)))]
    return "\n".join(lines) + "\n"


def _message(incident: Incident) -> list[str]:
    """Fill in the runbook's "Incident Communication Template"; a rollback mitigates, a person says "Resolved"."""
    report = incident.report
    return [
        "```text",
        "🚨 INCIDENT REPORT",
        "",
        f"Severity: {severity_of(report.reason) or f'{BLANK} SEV1/SEV2/SEV3/SEV4'}",
        "Status: Mitigating",
        f"Started: {BLANK} before {utc(report.timestamp)}, when the rollback began",
        f"Impact: {BLANK}",
        "",
        "Current Status:",
        *(one_line(text) for text in _status(incident)),
        "",
        "Actions Taken:",
        *(f"- {one_line(text)}" for text in _actions(incident)),
        "",
        "Next Steps:",
        *(f"- {one_line(text)}" for text in (*_left(incident), *FORWARD_FIX)),
        "",
        f"ETA: {BLANK}",
        "",
        f"Updated: {utc(incident.now)}",
        "```",
    ]


def _cause(incident: Incident) -> list[str]:
    report, deploy = incident.report, incident.deploy
    lines = [f"Reason given by {report.triggered_by}: {report.reason}"]
    if deploy is not None:
        lines.append(f"Release to be taken back: {deploy.version} ({deploy.git_sha[:12]}), {deploy.reason}")
    elif report.from_git_sha is not None:
        lines.append(f"Release to be taken back: {report.from_git_sha[:12]}; its deploy is not in the records")
    return lines


def _status(incident: Incident) -> list[str]:
    report = incident.report
    ended = "succeeded" if report.success else "failed"
    lines = [f"The rollback ({report.scope}) {ended}: {_FOUND[report.state]}."]
    if not report.success and report.state is not FinalState.DIVERGED:
        lines.append("What it had begun was taken back; what was to be rolled back still runs.")
    if report.success and report.to_version is not None:
        lines.append(f"Application: {report.to_version} has the traffic.")
    if report.kept_database is not None:
        lines.append(f"Database: restored from {report.backup_id}; the replaced one is {report.kept_database}, closed.")
    if report.error is not None:
        lines.append(f"Error: {report.error}")
    lines += [f"Finding: {finding}" for finding in report.findings]
    if incident.is_held:
        lines.append("Deploys are held until somebody releases the environment.")
    return lines


def _actions(incident: Incident) -> list[str]:
    """Return each effect and how it ended, as far as anybody knows."""
    outcomes = {entry.intent: entry for entry in incident.entries if entry.intent is not None}
    intents = [entry for entry in incident.entries if entry.kind is EntryKind.INTENT]
    done = [f"{effect_in_words(intent)}: {outcome_in_words(outcomes.get(intent.number))}" for intent in intents]
    return done or ["The rollback ended before its first effect; nothing was changed."]


def _timeline(incident: Incident) -> list[str]:
    report, deploy = incident.report, incident.deploy
    events: list[tuple[datetime, str]] = []
    if deploy is not None:
        released = deploy.timestamp + timedelta(seconds=deploy.duration)
        events = [
            (deploy.timestamp, f"Deploy of {deploy.version} begun by {deploy.triggered_by}"),
            (released, f"Deploy of {deploy.version} ended {deploy.state}"),
        ]
    intents = {entry.number: entry for entry in incident.entries if entry.kind is EntryKind.INTENT}
    for entry in incident.entries:
        if entry.intent in intents:
            events.append((entry.at, f"{effect_in_words(intents[entry.intent])}: {outcome_in_words(entry)}"))
        elif entry.kind is not EntryKind.ENDED:
            events.append((entry.at, _event(entry, report)))
    events.append((incident.now, f"Rollback ended {report.state}"))
    return [f"{utc(at)}: {text}" for at, text in sorted(events, key=lambda event: event[0])]


def _event(entry: Entry, report: RollbackReport) -> str:
    match entry.kind:
        case EntryKind.BEGUN:
            return f"Rollback begun, asked for by {report.triggered_by}, approved by {report.approved_by}"
        case EntryKind.INTENT:
            return f"{effect_in_words(entry)}: begun"
        case EntryKind.PASSED:
            return "Passed: from here on it is finished, not undone"
        case EntryKind.TAKEN_OVER:
            return f"The run had died; {entry.detail.get('by')} went on"
        case _:
            return f"{entry.kind}"


def effect_in_words(intent: Entry) -> str:
    """Return what a run was about to do."""
    detail = intent.detail
    match intent.effect:
        case Effect.COPY:
            return f"Restore {detail.get('backupId')} beside the live database"
        case Effect.SWAP:
            return f"Swap in the restored database {detail.get('restored')}"
        case Effect.ROLL_BACK_APPLICATION:
            return f"Switch the traffic from {detail.get('previous')} back to {detail.get('releaseId')}"
        case Effect.HOLD:
            return "Hold the environment against deploys"
        case _:
            return f"{intent.effect}"


def outcome_in_words(entry: Entry | None) -> str:
    """Return how that ended, by its entry in the journal; None is no entry."""
    if entry is None:
        return "begun; how it ended was not written down"
    if entry.kind is EntryKind.FAILED:
        return f"failed, {entry.detail.get('error')}"
    return "taken back" if entry.kind is EntryKind.UNDONE else "done"


def _left(incident: Incident) -> list[str]:
    """Return what the rollback leaves to people."""
    report, tasks = incident.report, list[str]()
    if report.state is FinalState.DIVERGED:
        tasks.append("Look at what runs, by hand: the state found is not what was planned")
    elif not report.success:
        tasks.append("Decide what else to do: the rollback failed, and what it was to take back still runs")
    tasks += [f"Look at this finding: {finding}" for finding in report.findings]
    if report.kept_database is not None:
        tasks += _rows_left(incident, report.kept_database)
        tasks.append(f"Drop {report.kept_database} on purpose, once nobody needs what is in it")
    if incident.is_held:
        command = f'runbook deploy:release --environment={report.environment} --reason="..."'
        tasks.append(f"Release the hold, once it is mended: {command}")
    return tasks


def _rows_left(incident: Incident, kept: str) -> list[str]:
    """Return what to do about the rows that are in the replaced database and not in the live one."""
    report, replay = incident.report, incident.report.replay
    if replay is not None:
        cannot = (loss.table for loss in report.data_loss if loss.cannot_replay)
        aside = [f"Look at the {replay.quarantined} rows that did not fit: {replay.quarantine_file}"]
        behind = [
            f"Bring back what was written to {table}: it is as in the backup, the rows are in {kept}"
            for table in dict.fromkeys((*replay.left_behind, *cannot))
        ]
        return [*(aside if replay.quarantined else []), *behind]
    if incident.is_recovered:
        stamp = incident.entries[0].run.partition("_")[2]
        return [
            f"See whether the writes since {report.backup_id} were replayed, which the dead run knew: compare with "
            f"{kept}, and look for logs/quarantine_{stamp}.jsonl"
        ]
    return [f"Bring back what is needed of what was lost, from {kept}: {loss.render()}" for loss in report.data_loss]


def _steps(steps: Sequence[Step]) -> list[str]:
    if not steps:
        return []
    rows = [f"| {safe(step.step)} | {step.status} | {step.duration:.1f} | {safe(step.error or '')} |" for step in steps]
    return ["", "| step | status | seconds | error |", "|---|---|---:|---|", *rows]

"""Incidents as tasks; what is known of one is an artifact."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect.artifacts import create_markdown_artifact

from runbook.connections import Connections
from runbook.rules.incident_messages import draft_public, render_markdown
from runbook.stages import incidents, status_site
from tasks.retries import stage_task

# Not repeated: whoever was told must not be told again, and nobody's word is to be there twice.
open_or_join = stage_task("Incident: Open")(incidents.open_or_join)
say = stage_task("Incident: Update")(incidents.say)
acknowledge = stage_task("Incident: Acknowledge")(incidents.acknowledge)
resolve = stage_task("Incident: Resolve")(incidents.resolve)
publish = stage_task("Incident: Publish")(incidents.publish)
escalate_due = stage_task("Incident: Escalate")(incidents.escalate_due)
remind = stage_task("Incident: Remind of Action Items")(incidents.remind)
write_status_site = stage_task("Status Page: Write", retries=2)(status_site.write_status_site)
choose = stage_task("Incident: Which", retries=2)(incidents.choose)


@stage_task("Incident: Show", retries=2)
def show(connections: Connections, incident_id: str) -> None:
    """Leave an incident as artifacts: `incident-message-*`, `incident-timeline-*`, `post-mortem-*`."""
    name = connections.settings.name
    incident = incidents.records_of(connections).incident(incident_id)
    draft = draft_public(incident, connections.settings.incidents.components)
    message = render_markdown(incident, datetime.now(UTC))
    lines = [f"- {entry.render()}" for entry in incidents.timeline_of(connections, incident)]
    create_markdown_artifact(
        key=f"incident-message-{name}",
        markdown=f"{message}\n## Draft for users\n\n> {draft}\n",
        description=f"{incident.id}: {incident.status}, {incident.severity}.",
    )
    create_markdown_artifact(
        key=f"incident-timeline-{name}", markdown="\n".join(lines), description=f"Timeline of {incident.id}."
    )
    create_markdown_artifact(
        key=f"post-mortem-{name}",
        markdown=incidents.post_mortem_of(connections, incident),
        description=f"Draft of the post-mortem of {incident.id}, by what is known now.",
    )

"""The first thirty minutes as tasks: what is seen as plots and a table, and a person asked while the watch goes on."""

from __future__ import annotations

from prefect.artifacts import create_image_artifact, create_table_artifact
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.utilities.urls import url_for

from runbook.connections import Connections
from runbook.figures import as_data_uri
from runbook.rules.samples import METRICS, TOTAL
from runbook.stages import database_probe, record
from runbook.stages.rollback import RollbackRequest
from runbook.watch_plots import application_plot, database_plot
from runbook.watch_report import WatchReport
from tasks.retries import stage_task

unnoticed_loss = stage_task("Would a Lost Database Be Noticed?", retries=2)(database_probe.unnoticed_loss)


@stage_task("Show")
def show(report: WatchReport) -> None:
    """Leave the plots and the table of a watch, as far as it is."""
    name, drawn = report.environment, {"application": application_plot, "database": database_plot}
    for what, plot in drawn.items():
        create_image_artifact(
            key=f"watch-{what}-{name}",
            image_url=as_data_uri(plot(report)),
            description=f"{report.version} on {name}, {what}: {report.verdict}. {report.detail}",
        )
    create_table_artifact(key=f"watch-{name}", table=_table(report), description="\n".join(report.render()))


@stage_task("Record", retries=2)
def record_watch(connections: Connections, report: WatchReport) -> str:
    """See `runbook.stages.record.record_watch`; then tells automations how the watch ended."""
    where = record.record_watch(connections, report)
    resource = {
        "prefect.resource.id": f"runbook.watch.{report.environment}",
        "prefect.resource.name": report.version,
        "runbook.environment": report.environment,
        "runbook.verdict": str(report.verdict),
        "runbook.severity": str(report.severity),
    }
    emit_event(f"runbook.watch.{report.verdict}", resource, payload={"detail": report.detail, "record": where})
    return where


@stage_task("Ask")
def ask(connections: Connections, request: RollbackRequest) -> str:
    """Begin a rollback that waits for somebody's consent in the UI, and return where; the watch goes on meanwhile."""
    parameters = {
        "scope": str(request.scope),
        "reason": request.reason,
        "severity": str(request.severity) if request.severity else None,
        "yes": False,
        "triggered_by": request.triggered_by,
    }
    deployment = f"rollback/{connections.settings.name}"
    run = run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False)
    assert isinstance(run, FlowRun)  # noqa: S101 - a coroutine only where an event loop runs
    return f"consent is waited for in {url_for('flow-run', obj_id=run.id) or run.name}"


def _table(report: WatchReport) -> list[dict[str, object]]:
    """Return each metric at the last look beside the highest of all looks, then the errors in the log."""
    rows: list[dict[str, object]] = []
    for metric, unit in METRICS.items():
        values = [one.values[metric] for one in report.looks if metric in one.values]
        if values and unit != TOTAL:
            rows.append({"what": metric, "last": round(values[-1], 4), "highest": round(max(values), 4), "unit": unit})
    for error in report.errors:
        new = "new: " if error.is_new else ""
        rows.append({"what": f"{new}{error.kind} error: {error.signature}", "last": error.count, "unit": "lines"})
    return rows

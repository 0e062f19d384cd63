"""The command `runbook report`: how well the team delivers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import click

from deployments.runs import connect


@click.command("report")
@click.option("--environment", default="local", show_default=True, help="Name of the environment.")
@click.option("--last", default="28d", show_default=True, help="How far to look back: 7d, 90d.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write the durations by stage as SVG.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def report(environment: str, last: str, plot: Path | None, as_json: bool) -> None:
    """Show the four DORA figures, times of incidents and drills, and how long deploys take, stage by stage."""
    from runbook.delivery_plot import deploy_durations
    from runbook.rules.spans import parse_span
    from runbook.stages.delivery import report_delivery

    found = report_delivery(connect(environment), parse_span(last, "--last", most=timedelta(days=730)))
    click.echo(found.model_dump_json(indent=2) if as_json else "\n".join(found.lines()))
    if plot is not None:
        plot.write_text(deploy_durations(found), encoding="utf-8")


COMMANDS = (report,)

"""The commands `runbook watch` and `runbook alerts:...`: a release watched from a terminal, and the alerts.

Exit codes: 0 healthy, or nothing fires; 5 a warning fires; 6 nobody knows; 7 degraded, or something critical fires.
"""

from __future__ import annotations

import getpass
import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deployments.runs import connect

if TYPE_CHECKING:
    from runbook.rules.backtest import Replay
    from runbook.stages.watch import Observation, ReleaseWatch

_environment = click.option("--environment", default="local", show_default=True, help="Name of the environment.")
_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")
_EXIT = {"healthy": 0, "inconclusive": 6, "no_data": 6, "degraded": 7}


@click.command("watch")
@_environment
@click.option("--for", "span", help="How long after the release got the traffic: 30m; as the settings say by default.")
@click.option("--look-only", is_flag=True, help="Neither roll back nor ask; only look and tell.")
@click.option("--plots", type=click.Path(path_type=Path, file_okay=False), help="Folder to write the plots to.")
@_json
def watch(environment: str, span: str | None, look_only: bool, plots: Path | None, as_json: bool) -> None:
    """Watch the release that has the traffic, in this terminal; it works without a worker."""
    from runbook.rules.spans import parse_span

    duration = parse_span(span, "--for", most=timedelta(hours=1)) if span else None
    connections = connect(environment)
    from runbook.procedures.watch import WatchRequest, WatchStages
    from runbook.procedures.watch import watch as watch_release
    from runbook.watch_plots import application_plot, database_plot

    stages = WatchStages()

    def look(watched: ReleaseWatch) -> Observation:
        seen = stages.look(watched)
        judged = seen.judgement
        click.echo(f"{seen.at:%H:%M:%S} UTC  {judged.verdict.replace('_', ' '):<12}  {judged.detail}", err=as_json)
        return seen

    request = WatchRequest("by hand", getpass.getuser(), duration, act=not look_only)
    report = watch_release(connections, request, replace(stages, look=look))
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name, plot in (("application", application_plot), ("database", database_plot)):
            (plots / f"watch-{name}.svg").write_text(plot(report), encoding="utf-8")
    click.echo(report.model_dump_json(by_alias=True, indent=2) if as_json else "\n" + "\n".join(report.render()))
    sys.exit(_EXIT[report.verdict])


@click.command("alerts:rules")
@_json
def rules(as_json: bool) -> None:
    """Show when an alert fires, when it is over, and where the number is from."""
    from runbook.rules.alerts import RULES
    from runbook.tables import columns

    if as_json:
        shown = [
            {
                "name": rule.name, "level": rule.level, "metric": rule.metric, "unit": rule.unit,
                "condition": rule.condition, "for_s": rule.for_s, "clear": rule.clear, "clear_for_s": rule.clear_for_s,
                "group": rule.group, "inhibited_by": rule.inhibited_by, "source": rule.source,
            }
            for rule in RULES
        ]  # fmt: skip
        click.echo(json.dumps(shown, indent=2))
        return
    header = ("alert", "level", "metric", "fires", "for", "is over", "for", "group", "source")
    rows = [
        (
            rule.name, rule.level, rule.metric, rule.condition, f"{rule.for_s:g} s", f"<= {rule.clear:g} {rule.unit}",
            f"{rule.clear_for_s:g} s", rule.group, rule.source,
        )
        for rule in RULES
    ]  # fmt: skip
    click.echo("\n".join(columns(header, rows)))


@click.command("alerts:status")
@_environment
@_json
def status(environment: str, as_json: bool) -> None:
    """Show what fires, as it was when the rules were last held against what was measured."""
    connections = connect(environment)
    from runbook.rules.thresholds import AlertLevel
    from runbook.stages.alerts import status as read
    from runbook.tables import columns

    found = read(connections)
    if as_json:
        firing = [
            {"alert": rule.name, "level": rule.level} | state.model_dump(mode="json") for rule, state in found.firing
        ]
        silence = found.silence.model_dump(mode="json") if found.silence else None
        measured = found.measured_at.isoformat() if found.measured_at else None
        click.echo(json.dumps({"measured_at": measured, "firing": firing, "silence": silence}, indent=2))
    elif found.measured_at is None:
        click.echo("never looked at: let the deployments `monitoring` and `alerts` run")
    else:
        header = ("level", "alert", "value", "fires", "since (UTC)")
        rows = [
            (rule.level.upper(), rule.name, f"{state.value:.4g} {rule.unit}", rule.condition, f"{state.since:%H:%M}")
            for rule, state in found.firing
            if state.since
        ]
        click.echo(f"by what was measured at {found.measured_at:%Y-%m-%d %H:%M:%S} UTC")
        click.echo("\n".join(columns(header, rows)) if rows else "nothing fires")
        if found.silence:
            click.echo(f"nobody is told until {found.silence.end:%Y-%m-%d %H:%M} UTC: {found.silence.reason}")
    levels = {rule.level for rule, _ in found.firing}
    unknown = 6 if found.measured_at is None else 0
    sys.exit(7 if AlertLevel.CRITICAL in levels else 5 if levels else unknown)


@click.command("alerts:backtest")
@_environment
@click.option("--last", default="7d", show_default=True, help="How far to look back: 6h, 7d.")
@_json
def backtest(environment: str, last: str, as_json: bool) -> None:
    """Show what the rules would have told in the past, by what was measured then; tells nobody."""
    from runbook.rules.spans import parse_span

    window = parse_span(last, "--last", most=timedelta(days=90))
    connections = connect(environment)
    from runbook.stages.alerts import backtest as replay

    found = replay(connections, window)
    if as_json:
        click.echo(json.dumps(_as_record(found), indent=2))
    else:
        click.echo("\n".join(_lines(found, last)))
    sys.exit(0 if found.samplings else 6)


@click.command("alerts:silence")
@_environment
@click.option("--for", "span", required=True, help="How long: 90s, 30m, 2h, 1d.")
@click.option("--reason", required=True, help="Why; it is announced.")
def silence(environment: str, span: str, reason: str) -> None:
    """Begin a maintenance window: nobody is told of alerts, apart from its beginning and its end."""
    from runbook.rules.spans import parse_span

    duration = parse_span(span, "--for", most=timedelta(days=7))
    connections = connect(environment)
    from runbook.stages.alerts import silence as begin

    made = begin(connections, duration=duration, reason=reason, by=getpass.getuser())
    click.echo(f"nobody is told of alerts on {environment} until {made.end:%Y-%m-%d %H:%M} UTC")


@click.command("alerts:unsilence")
@_environment
def unsilence(environment: str) -> None:
    """End the maintenance windows that are open; what fires then is told."""
    connections = connect(environment)
    from runbook.stages.alerts import end_silence

    for ended in end_silence(connections):
        click.echo(f"ended: {ended.reason} ({ended.by}), until {ended.end:%Y-%m-%d %H:%M} UTC")


COMMANDS = (watch, rules, status, backtest, silence, unsilence)


def _lines(found: Replay, last: str) -> list[str]:
    from runbook.rules.alerts import RULES
    from runbook.rules.drills import duration_in_words
    from runbook.tables import columns

    if not found.samplings:
        return [f"the last {last}: nothing was measured, so nobody can say what would have fired"]
    rows = [
        (
            f"{one.fired_at:%Y-%m-%d %H:%M}",
            duration_in_words(one.lasted(found.until).total_seconds()) + ("" if one.resolved_at else ", still"),
            one.rule.level,
            one.rule.name,
            f"{one.worst:.4g} {one.rule.unit}",
            f"{one.times_told}x" if one.times_told else "no (silence, or another alert)",
        )
        for one in found.episodes
    ]
    by_rule = {rule: [one for one in found.episodes if one.rule is rule] for rule in RULES}
    counted = [
        (rule.name, rule.condition, f"{len(times)}x", f"{sum(one.times_told for one in times)}x")
        for rule, times in by_rule.items()
    ]
    table = [*columns(("fired (UTC)", "for", "level", "alert", "worst", "told"), rows), ""] if rows else []
    head = f"the last {last}: {found.samplings} samplings; {len(found.episodes)} times a rule would have fired"
    return [head, "", *table, *columns(("alert", "fires", "fired", "told"), counted)]


def _as_record(found: Replay) -> dict[str, object]:
    return {
        "since": found.since.isoformat(),
        "until": found.until.isoformat(),
        "samplings": found.samplings,
        "episodes": [
            {
                "alert": one.rule.name,
                "level": one.rule.level,
                "fired_at": one.fired_at.isoformat(),
                "resolved_at": one.resolved_at.isoformat() if one.resolved_at else None,
                "worst": one.worst,
                "unit": one.rule.unit,
                "times_told": one.times_told,
            }
            for one in found.episodes
        ],
    }

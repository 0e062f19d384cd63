"""The performance of a commit, measured by the application's own benchmarks and held against their budgets.

Source: runbook, "Manual Verification" ("Performance benchmarks met").
"""

from __future__ import annotations

from pathlib import Path

from runbook.connections import Connections
from runbook.errors import RunbookError
from runbook.rules.benchmarks import NAME, Figure, UnreadableFiguresError, judge_benchmarks, read_figures
from runbook.rules.checklist import Check, Outcome
from runbook.settings import BenchmarkCommand
from runbook.stages.checkout_report import checkout_of, report_of


def performance_budgets(connections: Connections, git_sha: str, *, strict: bool) -> list[Check]:
    """Return whether the benchmarks of the settings are within their budgets; nothing where there are none.

    One that could not be made has not passed; it stops only what is strict.
    """
    if not connections.settings.benchmarks:
        return []
    try:
        with checkout_of(connections, git_sha) as checkout:
            figures = [figure for command in connections.settings.benchmarks for figure in _measured(command, checkout)]
    except (RunbookError, UnreadableFiguresError) as error:
        return [Check(NAME, Outcome.COULD_NOT_RUN, str(error), "Try again.", is_needed=strict)]
    return [judge_benchmarks(figures)]


def _measured(command: BenchmarkCommand, checkout: Path) -> tuple[Figure, ...]:
    report = report_of(command, checkout)
    if report.code:
        raise UnreadableFiguresError(f"{command.name} failed with exit code {report.code}{report.complaint}")
    try:
        return read_figures(report.printed, command.budgets)
    except UnreadableFiguresError as error:
        raise UnreadableFiguresError(f"{command.name}: {error}{report.complaint}") from None

"""Plans, rehearsals and verdicts as people read them: rows of a table, lines of markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runbook.reports import Rehearsal, RollbackVerdict
from runbook.rules.migration_names import Phase
from runbook.rules.sql import statements, without_literals
from runbook.stages.migration_plan import MigrationPlan

_SHOWN = 160


def statements_table(plan: MigrationPlan) -> list[dict[str, str | int]]:
    """Return a row for each statement that a plan would run, in order."""
    return [
        {
            "migration": migration.name,
            "half": phase,
            "line": statement.line,
            "statement": without_literals(statement.text)[:_SHOWN],
            "transaction": "shared" if step.transactional else "its own",
        }
        for phase in (Phase.PRE, Phase.POST)
        for step in plan.steps_of(phase)
        for migration in step.migrations
        for statement in statements(plan.scripts[migration.path])
    ]


def costs_table(rehearsal: Rehearsal) -> list[dict[str, str | int | float]]:
    """Return a row for each statement of a rehearsal: its locks, rewrites, predicted time and WAL."""
    return [
        {
            "file": f"{cost.path}:{cost.line}",
            "predicted (s)": cost.duration_s,
            "locks": ", ".join(cost.locks),
            "rewrites": ", ".join(cost.rewrites),
            "WAL (bytes, at most)": cost.wal_bytes,
            "statement": cost.statement[:_SHOWN],
        }
        for cost in rehearsal.statements
    ]


def render_rehearsal(rehearsal: Rehearsal) -> str:
    """Return a rehearsal as markdown: the answer first, then what it rests on."""
    answer = {True: "works", False: "FAILS", None: "was not tried"}
    lines = [
        f"# {'Refused' if rehearsal.refusals else 'Ready'}: {', '.join(rehearsal.migrations)}",
        *(f"- **{refusal}**" for refusal in rehearsal.refusals),
        f"- rehearsed on {rehearsal.backup_id}, restored in {rehearsal.restore_s:.1f} s and found equal",
        f"- predicted: {rehearsal.duration_s:.2f} s, at most {rehearsal.wal_bytes:,} bytes of WAL",
        f"- the running release {answer[rehearsal.compatible]} with the new schema",
        *(f"  - {line}" for line in rehearsal.compatibility),
        f"- down scripts: {rehearsal.undo.outcome} ({rehearsal.undo.detail})",
        f"- call rates: {rehearsal.call_rates}",
    ]
    if rehearsal.blocked:
        lines += ["", "| table | closed to | for (s) | calls/s | calls that wait |", "|---|---|---:|---:|---:|"]
        lines += [
            f"| {block.table} | {block.closed_to} | {block.held_s:.3f} | {block.calls_per_s:g} "
            f"| {block.queued_calls:g} |"
            for block in rehearsal.blocked
        ]
    else:
        lines.append("- no table is closed to the application")
    return "\n".join(lines)


def render_verdict(verdict: Sequence[RollbackVerdict]) -> Iterator[str]:
    """Yield lines that say which rollbacks work after a release."""
    for item in verdict:
        yield f"- rollback {item.scope}: **{item.legality}** ({'; '.join(item.evidence)}); costs {item.cost}"

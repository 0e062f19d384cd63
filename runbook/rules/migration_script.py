"""The script that is really given to psql: a migration file with SQL of ours between its statements.

Nothing of the file's own text changes; what was done already is left out, and each line can be traced back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from runbook.rules.migration_steps import Unit, UnitKind
from runbook.rules.sql import Statement, has_data


@dataclass(frozen=True)
class Script:
    """Text for psql; `lines` holds, for each of its lines, the line of the file (from 1) that it came from."""

    text: str
    lines: tuple[int, ...]


class Journal(Protocol):
    """SQL that writes down how far a file has come. Statements are counted from 1; each text ends with `;`."""

    def begun(self, count: int) -> str:
        """Return SQL for: the unit up to statement `count` is about to run."""
        ...

    def done(self, count: int) -> str:
        """Return SQL for: the first `count` statements are done; it runs inside a transaction."""
        ...


@dataclass
class _Writer:
    pieces: list[str] = field(default_factory=list[str])
    lines: list[int] = field(default_factory=lambda: [1])

    def copy(self, text: str) -> None:
        self.pieces.append(text)
        here = self.lines[-1]
        self.lines += range(here + 1, here + 1 + text.count("\n"))

    def insert(self, text: str) -> None:
        self.pieces.append(text)
        self.lines += [self.lines[-1]] * text.count("\n")


def journaled(units: Sequence[Unit], journal: Journal, *, done: int = 0) -> tuple[dict[int, str], dict[int, str]]:
    """Return what to put before and after which statement so that each unit's progress is written down.

    `done` is the number of statements that are done already.
    """
    before: dict[int, str] = {}
    after: dict[int, str] = {}
    for unit in units:
        count = unit.last + 1
        if unit.first < done:
            continue
        if unit.kind is UnitKind.WRAPPED:
            before[unit.first], after[unit.last] = "BEGIN; ", f"{journal.done(count)} COMMIT;"
        elif unit.kind is UnitKind.BLOCK:
            before[unit.last] = f"{journal.done(count)} "
        elif unit.kind is UnitKind.ALONE:
            before[unit.first] = f"BEGIN; {journal.begun(count)} COMMIT; "
            after[unit.last] = f"BEGIN; {journal.done(count)} COMMIT;"
    return before, after


def measured(
    script: Sequence[Statement], units: Sequence[Unit], measure: Callable[[int], str], after: Mapping[int, str]
) -> dict[int, str]:
    """Return `after` with a measurement behind each statement; `measure` gets its number, counted from 0."""
    kinds = {number: unit.kind for unit in units for number in range(unit.first, unit.last + 1)}
    found = dict(after)
    for number, statement in enumerate(script):
        if statement.bare.startswith("\\") or statement.text.endswith("\\;"):
            continue
        if any(text.shape.startswith("SET TRANSACTION") for text in script[number + 1 : number + 2]):
            continue  # it has to be the first in its transaction
        own = after.get(number, "")
        pieces = [own, measure(number)] if kinds[number] is UnitKind.ALONE else [measure(number), own]
        found[number] = " ".join(piece for piece in pieces if piece)
    return found


def render(
    text: str,
    script: Sequence[Statement],
    units: Sequence[Unit],
    *,
    done: int = 0,
    before: Mapping[int, str] | None = None,
    after: Mapping[int, str] | None = None,
) -> Script:
    """Return the text for psql.

    Args:
        text: the file.
        script: its statements.
        units: its units.
        done: so many statements are left out, except those that only set up the session.
        before: SQL to put before a statement, by its number from 0.
        after: SQL to put behind it.
    """
    session = {number for unit in units if unit.kind is UnitKind.SESSION for number in range(unit.first, unit.last + 1)}
    writer, at = _Writer(), int(text.startswith("\ufeff"))
    for number, statement in enumerate(script):
        writer.copy(text[at : statement.start])
        at = statement.start + len(statement.text)
        if number < done and number not in session:
            writer.copy("\n" * statement.text.count("\n"))
            continue
        writer.insert((before or {}).get(number, ""))
        writer.copy(statement.text)
        if following := (after or {}).get(number):
            writer.insert(_separator(statement) + following)
    writer.copy(text[at:])
    return Script("".join(writer.pieces), tuple(writer.lines))


def _separator(statement: Statement) -> str:
    if has_data(statement):
        return "\n" if statement.text.endswith("\\.") else "\n\\.\n"
    if statement.sent_by or statement.bare.startswith("\\"):
        return "\n"
    return " " if statement.text.endswith(";") else "; "

"""Running migrations: several files in one transaction, or one file of which each unit commits on its own.

Source: runbook, "Stage 4: Database Migration"; PostgreSQL manual, "Building Indexes Concurrently".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from runbook.clients.migration_history import CHECK_DEFERRED_SQL, START_SQL, MigrationHistory, Progress
from runbook.clients.psql import Piece, run_psql
from runbook.errors import StageError
from runbook.rules.migration_script import journaled, measured, render
from runbook.rules.migration_steps import prefix_sha256, touches_session, units, why_not_resumable
from runbook.rules.sql import Statement, statements

_log = logging.getLogger(__name__)
_SETS = re.compile(r"\\set (\w+)")
_CREATES_INDEX = re.compile(
    r"""CREATE\s+(?:UNIQUE\s+)?INDEX\s+CONCURRENTLY\s+(?:IF\s+NOT\s+EXISTS\s+)?(?:"((?:[^"]|"")+)"|([\w$]+))\s+ON\b""",
    re.IGNORECASE,
)
_DROPS_INDEX = re.compile(
    r"""DROP\s+INDEX\s+CONCURRENTLY\s+(?:IF\s+EXISTS\s+)?(?:[\w$"]+\s*\.\s*)?(?:"((?:[^"]|"")+)"|([\w$]+))\s*(?:CASCADE|RESTRICT)?\s*;?\s*$""",
    re.IGNORECASE,
)
_REPEATABLE = re.compile(r"(?:VACUUM|ANALYZE|REINDEX|CLUSTER|LOCK|SET|SAVEPOINT|RELEASE|DECLARE|ALTER SYSTEM)\b")

Measure = Callable[[str, int], str]


@dataclass(frozen=True)
class Script:
    """A SQL file with the name it has in the history; `forward` False means that it undoes that migration."""

    migration: str
    path: str
    text: str
    forward: bool = True


def run_together(
    history: MigrationHistory, scripts: Sequence[Script], *, later: Sequence[str] = (), measure: Measure | None = None
) -> str:
    """Run files in one transaction and record each in it; return what psql printed when measured.

    Args:
        history: of the database.
        scripts: the files, in order.
        later: names of migrations that come afterwards.
        measure: returns SQL to run after a statement, by the file's path and the statement's number from 0.

    Raises:
        LockTimeoutError: a lock was not to be had; nothing is left.
        TransientError: the connection was lost; all or nothing is left.
        SqlError: a file failed; nothing is left.
    """
    columns, listed = history.columns(), {row.name for row in history.rows()}
    to_come = [script.migration for script in scripts] + list(later)
    defers = any("deferrable" in script.text.lower() for script in scripts) or history.defers()
    pieces: list[Piece] = []
    ended, before, is_fresh = "", scripts[0].path, False
    for number, script in enumerate(scripts):
        pieces.append(Piece(ended + (START_SQL if is_fresh else history.begin_sql()), before))
        pieces += _file(script, measure)
        ended = CHECK_DEFERRED_SQL if defers else ""
        ended += _record(history, script, columns, listed, to_come[number + 1 :])
        before, is_fresh = script.path, not touches_session(statements(script.text))
    pieces.append(Piece(_closed(ended), before))
    limits = history.settings
    return run_psql(
        history.database,
        pieces,
        one_transaction=True,
        lock_timeout_s=limits.lock_timeout_s,
        output=measure is not None,
    )


def run_alone(
    history: MigrationHistory, script: Script, *, later: Sequence[str] = (), measure: Measure | None = None
) -> str:
    """Run a file whose units each commit on their own; go on where an earlier attempt ended.

    A failed `CREATE INDEX CONCURRENTLY` leaves an invalid index behind; such an index is dropped.

    Args:
        history: of the database.
        script: the file.
        later: names of migrations that come afterwards.
        measure: see `run_together`.

    Raises:
        LockTimeoutError: a lock was not to be had; what was done is written down.
        TransientError: the connection was lost; what was done is written down.
        StageError: the file failed, or nobody can know whether a statement took effect.
    """
    found = statements(script.text)
    divided = units(found)
    name = script.migration if script.forward else f"undo {script.migration}"
    history.begin_progress(name)
    done = _resumed(history, script, name, found)
    before = history.state().invalid_indexes
    journal = _Journal(history, name, found)
    around, after = journaled(divided, journal, done=done)
    for number, statement in enumerate(found[done:], done):
        if created := _CREATES_INDEX.search(statement.text):
            after[number] = f"{history.no_stale_index_sql(_name(created))} {after[number]}"
    if measure is not None:
        after = measured(found, divided, lambda number: measure(script.path, number), after)
    rendered = render(script.text, found, divided, done=done, before=around, after=after)
    pieces = [
        Piece(history.begin_sql(), script.path),
        *([] if measure is None else [Piece(measure(script.path, -1), script.path)]),
        Piece(rendered.text, script.path, rendered.lines),
        Piece(
            _record(history, script, history.columns(), {row.name for row in history.rows()}, later, has_progress=True)
            + history.forget_progress_sql(name),
            script.path,
        ),
    ]
    try:
        printed = run_psql(
            history.database,
            pieces,
            one_transaction=False,
            lock_timeout_s=history.settings.lock_timeout_s,
            output=measure is not None,
        )
    except BaseException:
        history.drop_invalid_indexes(before)
        raise
    history.end_progress([name])
    return printed


@dataclass(frozen=True)
class _Journal:
    history: MigrationHistory
    name: str
    script: Sequence[Statement]

    def begun(self, count: int) -> str:
        return self.history.begun_sql(self.name, count)

    def done(self, count: int) -> str:
        return self.history.done_sql(self.name, count, prefix_sha256(self.script, count))


def _file(script: Script, measure: Measure | None) -> list[Piece]:
    """Return a file for psql, and what takes back the variables of psql that it sets."""
    pieces: list[Piece] = []
    if measure is None:
        pieces.append(Piece(script.text, script.path, range(1, script.text.count("\n") + 2)))
    else:
        found = statements(script.text)
        divided = units(found)
        after = measured(found, divided, lambda number: measure(script.path, number), {})
        rendered = render(script.text, found, divided, after=after)
        pieces.append(Piece(measure(script.path, -1), script.path))
        pieces.append(Piece(rendered.text, script.path, rendered.lines))
    for variable in dict.fromkeys(_SETS.findall(script.text)):
        takes_back = "\\set VERBOSITY verbose" if variable == "VERBOSITY" else f"\\unset {variable}"
        if variable.upper() not in {"ON_ERROR_STOP", "AUTOCOMMIT"}:
            pieces.append(Piece(takes_back, script.path))
    return pieces


def _record(
    history: MigrationHistory,
    script: Script,
    columns: Collection[str],
    listed: Collection[str],
    later: Sequence[str],
    *,
    has_progress: bool = False,
) -> str:
    if script.forward:
        return history.record_sql(
            script.migration, script.text, columns=columns, listed=listed, later=later, has_progress=has_progress
        )
    return history.forget_sql(script.migration)


def _closed(line: str) -> str:
    return line.removesuffix("\\; ") + ";"


def _resumed(history: MigrationHistory, script: Script, name: str, found: Sequence[Statement]) -> int:
    """Return how many statements an earlier attempt has done, after finding out about the one it was at."""
    progress = history.progress()[name]
    if progress.done > len(found) or (progress.done and prefix_sha256(found, progress.done) != progress.done_sha256):
        raise StageError(
            f"{script.path} was edited in its first {progress.done} statements, which have been run already. "
            "Take that edit back; what comes after them may be changed."
        )
    done = progress.done
    if progress.begun is not None:
        done = _settled(history, script, found, progress)
        history.settle_progress(name, done, prefix_sha256(found, done))
    if 0 < done < len(found) and (lost := why_not_resumable(found, done)):
        raise StageError(
            f"{script.path}: an earlier attempt ended after line {found[done - 1].line}, and what comes next may need "
            f"what was lost with its session: {lost}. {_by_hand(script, found[done].line)}"
        )
    if done:
        _log.info("%s goes on after its line %d", script.path, found[done - 1].line)
    return done


def _settled(history: MigrationHistory, script: Script, found: Sequence[Statement], progress: Progress) -> int:
    """Find out whether the statement that was begun took effect; return how many statements are done."""
    begun = progress.begun or 0
    if begun > len(found):
        raise StageError(f"{script.path} was edited where an earlier attempt had begun; take that edit back.")
    statement = found[begun - 1]
    if created := _CREATES_INDEX.search(statement.text):
        states = history.index_states(_name(created))
        if states == [True]:
            return begun
        invalid = history.state().invalid_indexes
        history.drop_invalid_indexes({index for index in invalid if index[1] != _name(created)})
        return progress.done
    if dropped := _DROPS_INDEX.search(statement.text):
        return progress.done if history.index_states(_name(dropped)) else begun
    if _REPEATABLE.match(statement.shape):
        return progress.done
    raise StageError(
        f"{script.path}:{statement.line}: nobody knows whether this statement took effect, because the run ended "
        f"while it was at it: {' '.join(statement.text.split())[:200]} {_by_hand(script, statement.line)}"
    )


def _by_hand(script: Script, line: int) -> str:
    return (
        f"Finish the file by hand from line {line} on, then say so with "
        f"`runbook db:baseline --migration={script.migration}`."
    )


def _name(match: re.Match[str]) -> str:
    """Return an identifier as the catalogue has it: folded unless it was quoted."""
    return match[1].replace('""', '"') if match[1] else match[2].lower()

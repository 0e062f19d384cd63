"""How pending migrations are run: together in one transaction, or a file on its own, unit by unit.

A unit is what commits together in a file that cannot share a transaction: one statement, or the file's own
`BEGIN ... COMMIT`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from runbook.errors import InvalidInputError
from runbook.rules.migration_files import Migration
from runbook.rules.sql import (
    Statement,
    controls_transaction,
    has_data,
    needs_own_transaction,
    refused_meta_command,
    statements,
)

_TOGETHER = "every statement can run in one transaction"


class UnitKind(StrEnum):
    """What is put around a unit so that its effect and the record of it commit together.

    WRAPPED: a transaction of ours. BLOCK: the file's own. ALONE: it cannot be in a transaction, so its beginning and
    its end are recorded. SESSION: settings and psql's meta-commands, which leave nothing and are repeated on resume.
    """

    WRAPPED = "wrapped"
    BLOCK = "block"
    ALONE = "alone"
    SESSION = "session"


@dataclass(frozen=True)
class Unit:
    """Statements `first` to `last` of a file, counted from 0, both included."""

    kind: UnitKind
    first: int
    last: int


@dataclass(frozen=True)
class Step:
    """What is applied together: one transaction, or one migration of which each unit commits on its own."""

    migrations: tuple[Migration, ...]
    transactional: bool
    reason: str


def read_script(path: str, text: str) -> list[Statement]:
    """Return the statements of a migration, or refuse what could not be run to its end.

    Raises:
        InvalidInputError: there is no statement, the text cannot be read as SQL, a psql meta-command reaches outside,
            or a transaction that the file begins is never ended. The message names file and line.

    Source: runbook, "Stage 4: Database Migration" ("Pre-migration validation").
    """
    try:
        found = statements(text)
    except InvalidInputError as error:
        raise _not_a_migration(path, "text that can be read as SQL", str(error)) from error
    for statement in found:
        if (command := refused_meta_command(statement)) is not None:
            raise _not_a_migration(
                f"{path}:{statement.line}",
                f"SQL, and psql meta-commands that stay inside psql; not {command}",
                "Write it as SQL: a shell, other files, other connections and made-up statements cannot be reviewed.",
            )
    if all(statement.bare.startswith("\\") and not has_data(statement) for statement in found):
        raise _not_a_migration(path, "at least one statement", "Write the migration or delete the file.")
    for unit in units(found):
        if unit.kind is UnitKind.BLOCK and not _ends_transaction(found[unit.last]):
            raise _not_a_migration(
                f"{path}:{found[unit.first].line}",
                "a COMMIT for each BEGIN",
                "End the transaction that begins there; psql would roll it back and report success.",
            )
    return found


def plan_steps(pending: Sequence[Migration], text_of: Mapping[str, str]) -> list[Step]:
    """Group `pending`, in the order given, into steps; `text_of` holds each file's text by its path.

    Neighbours whose every statement can run in a transaction share one. A migration with a statement that cannot,
    or that begins or ends transactions itself, is a step of its own.

    Raises:
        InvalidInputError: see `read_script`.
        KeyError: a migration without its text.

    Source: runbook, "Stage 4: Database Migration" ("Automatic rollback on failure").
    """
    steps: list[Step] = []
    for migration in pending:
        found = read_script(migration.path, text_of[migration.path])
        reason = why_alone(found)
        if reason is not None:
            steps.append(Step((migration,), transactional=False, reason=f"{migration.name}, {reason}"))
        elif steps and steps[-1].transactional:
            steps[-1] = Step((*steps[-1].migrations, migration), transactional=True, reason=_TOGETHER)
        else:
            steps.append(Step((migration,), transactional=True, reason=_TOGETHER))
    return steps


def why_alone(script: Sequence[Statement]) -> str | None:
    """Return the first reason why a script cannot share a transaction, with its line, or None."""
    for statement in script:
        reason = needs_own_transaction(statement)
        if reason is None and controls_transaction(statement):
            reason = f"{statement.shape.split(' ', 1)[0]} begins or ends a transaction"
        if reason is not None:
            return f"line {statement.line}: {reason}"
    return None


def units(script: Sequence[Statement]) -> list[Unit]:
    r"""Divide a script into units, in order; a statement ended by `\;` goes with the next one.

    Source: PostgreSQL manual, "Transactions" and "psql" (`\;`).
    """
    found: list[Unit] = []
    at = 0
    while at < len(script):
        first, kind = at, _kind(script[at])
        if kind is UnitKind.BLOCK:
            at = next((n for n in range(first + 1, len(script)) if _ends_transaction(script[n])), len(script) - 1)
        while script[at].text.endswith("\\;") and at + 1 < len(script):
            at += 1
        if at > first and kind is not UnitKind.BLOCK:
            kind = UnitKind.ALONE
        found.append(Unit(kind, first, at))
        at += 1
    return found


def touches_session(script: Sequence[Statement]) -> bool:
    """Return whether a script may leave something in its session: settings, a role, temporary tables, cursors."""
    return any(_LEAVES_SESSION_ALONE.match(statement.shape) is None for statement in script)


def prefix_sha256(script: Sequence[Statement], count: int) -> str:
    """Return the hash of the first `count` statements: has what was done already been edited since?"""
    return hashlib.sha256("\n".join(statement.text for statement in script[:count]).encode()).hexdigest()


def why_not_resumable(script: Sequence[Statement], count: int) -> str | None:
    """Return what of the first `count` statements lived only in the session that was lost, or None."""
    for statement in script[:count]:
        if _OF_THE_SESSION.match(statement.shape):
            return f"line {statement.line}: {statement.shape[:60]}"
    return None


_BEGINS = re.compile(r"(?:BEGIN|START TRANSACTION)\b")
_ENDS = re.compile(
    r"(?:COMMIT|END|ABORT|PREPARE TRANSACTION|ROLLBACK(?!(?: WORK| TRANSACTION)? TO\b))\b(?!.* AND CHAIN\b)"
)
_SETTING = re.compile(
    r"(?:SET|RESET)\b(?! (?:LOCAL|TRANSACTION|CONSTRAINTS)\b)|SELECT (?:PG_CATALOG \. )?SET_CONFIG \([^()]*\)$"
)
_ONLY_OUTSIDE = re.compile(
    r"(?:LOCK|SAVEPOINT|RELEASE|DECLARE|FETCH|MOVE|CLOSE|EXECUTE|DISCARD|CLUSTER|REINDEX|SET|ROLLBACK)\b"
)
_LEAVES_SESSION_ALONE = re.compile(
    r"(?:CREATE (?!(?:LOCAL |GLOBAL )?TEMP)|ALTER|DROP|INSERT|UPDATE|DELETE|COMMENT|GRANT|REVOKE|TRUNCATE|COPY"
    r"|REFRESH)\b"
)
_OF_THE_SESSION = re.compile(
    r"CREATE (?:LOCAL |GLOBAL )?TEMP(?:ORARY)?\b|SELECT .* INTO (?:LOCAL |GLOBAL )?TEMP(?:ORARY)?\b"
    r"|PREPARE (?!TRANSACTION)|DECLARE\b.* WITH HOLD\b|LISTEN\b"
)


def _kind(statement: Statement) -> UnitKind:
    shape = statement.shape
    if _BEGINS.match(shape):
        return UnitKind.BLOCK
    if statement.bare.startswith("\\"):
        return UnitKind.WRAPPED if has_data(statement) else UnitKind.SESSION
    if _ENDS.match(shape) or _SETTING.match(shape):
        return UnitKind.SESSION  # a COMMIT without its BEGIN only warns
    own = needs_own_transaction(statement)
    if own is not None and not shape.startswith("ALTER TYPE"):
        return UnitKind.ALONE
    return UnitKind.ALONE if _ONLY_OUTSIDE.match(shape) else UnitKind.WRAPPED


def _ends_transaction(statement: Statement) -> bool:
    return _ENDS.match(statement.shape) is not None


def _not_a_migration(value: str, allowed: str, action: str) -> InvalidInputError:
    return InvalidInputError("migration", value, allowed, action)

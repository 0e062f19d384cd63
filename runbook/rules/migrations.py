"""Migration files: which there are, which are pending, how they are grouped into steps, what in them destroys.

A migration is a file `<version>_<name>.sql` directly in one directory; the version is a number or a timestamp.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath

from runbook.errors import InvalidInputError
from runbook.rules.sql import Statement, controls_transaction, needs_own_transaction, statements

_FORWARD = re.compile(r"(?P<version>[0-9]{1,20})_[A-Za-z0-9_-]+")
_DOWN_SUFFIXES = ("_ROLLBACK.sql", ".down.sql")
_CHECK_SUFFIXES = ("_VALIDATION.sql", "_TESTS.sql")  # upper case, as written: `0007_ab_tests.sql` is a migration
_TIMESTAMP_DIGITS = 14
_TOGETHER = "every statement can run in one transaction"


class Kind(StrEnum):
    """How a migration is numbered: `0001_name.sql`, or `20250104120000_name.sql` (14 digits)."""

    NUMBERED = "numbered"
    TIMESTAMPED = "timestamped"


@dataclass(frozen=True)
class Migration:
    """One migration file. `name` is the file's name without `.sql`; `down` is the path of the script that undoes it."""

    name: str
    path: str
    version: int
    kind: Kind
    down: str | None = None


@dataclass(frozen=True)
class Step:
    """What is applied together: one transaction, or one migration whose statements each commit on their own."""

    migrations: tuple[Migration, ...]
    transactional: bool
    reason: str


@dataclass(frozen=True)
class Finding:
    """A statement that removes data or breaks the release that is running. `line` is counted from 1 in its file."""

    line: int
    kind: str
    safer: str


def discover(paths: Sequence[str], directory: str) -> list[Migration]:
    """Return the migrations among `paths` that lie directly in `directory`, by version, then name.

    Companions (`_ROLLBACK.sql`, `.down.sql`, `_VALIDATION.sql`, `_TESTS.sql`, `.bak`) are never forward
    migrations. Files outside `directory` and files that are not `.sql` are left out.

    Raises:
        InvalidInputError: two files with one version, a `.sql` file below `directory` that is neither a migration
            nor a companion, or an undo script without its migration.

    Source: runbook, "Stage 1: Pre-Deployment Validation" ("Detect pending migrations").
    """
    root = PurePosixPath(directory)
    files = sorted({PurePosixPath(path) for path in paths if path.lower().endswith(".sql")})
    inside = [path for path in files if path.is_relative_to(root)]
    downs = {_undone_by(path): path for path in inside if path.name.endswith(_DOWN_SUFFIXES)}
    found: dict[int, Migration] = {}
    for path in inside:
        if path.name.endswith((*_DOWN_SUFFIXES, *_CHECK_SUFFIXES)):
            continue
        migration = _migration(path, root, downs.pop(path, None))
        if (other := found.get(migration.version)) is not None:
            raise _not_a_migration(f"{other.path}, {path}", "one file for each version", "Renumber one of the two.")
        found[migration.version] = migration
    if downs:
        orphan = str(next(iter(downs.values())))
        raise _not_a_migration(orphan, "an undo script beside its migration", "Rename it after its migration.")
    return sorted(found.values(), key=_order)


def pending(found: Sequence[Migration], applied: Collection[str]) -> list[Migration]:
    """Return what is found and not applied, in order: a set difference, never a high-water mark.

    `applied` are names of migrations, as in `Migration.name`.

    Source: runbook, "Stage 1: Pre-Deployment Validation" ("Detect pending migrations").
    """
    return sorted((migration for migration in found if migration.name not in applied), key=_order)


def unknown(found: Sequence[Migration], applied: Collection[str]) -> list[str]:
    """Return the applied names that have no file, sorted: this database has seen another history.

    Source: runbook, "Stage 4: Database Migration" ("Pre-migration validation").
    """
    return sorted(set(applied) - {migration.name for migration in found})


def out_of_order(found: Sequence[Migration], applied: Collection[str]) -> list[Migration]:
    """Return the pending migrations that sort before the newest applied one, with a file or without.

    Source: runbook, "Stage 4: Database Migration" ("Pre-migration validation").
    """
    keys = [(int(match["version"]), name) for name in applied if (match := _FORWARD.fullmatch(name))]
    return [migration for migration in pending(found, applied) if keys and _order(migration) < max(keys)]


def plan_steps(pending: Sequence[Migration], text_of: Mapping[str, str]) -> list[Step]:
    """Group `pending`, in the order given, into steps; `text_of` holds each file's text by `Migration.name`.

    Neighbours whose every statement can run in a transaction share one. A migration with a statement that cannot,
    or that begins or ends transactions itself, is a step of its own: it commits statement by statement.

    Raises:
        InvalidInputError: a file without any statement, or one that cannot be read as SQL.
        KeyError: a migration without its text.

    Source: runbook, "Stage 4: Database Migration" ("Automatic rollback on failure").
    """
    steps: list[Step] = []
    for migration in pending:
        reason = _why_alone(migration, text_of[migration.name])
        if reason is not None:
            steps.append(Step((migration,), transactional=False, reason=reason))
        elif steps and steps[-1].transactional:
            steps[-1] = Step((*steps[-1].migrations, migration), transactional=True, reason=_TOGETHER)
        else:
            steps.append(Step((migration,), transactional=True, reason=_TOGETHER))
    return steps


def breaking_statements(statements: Sequence[Statement]) -> list[Finding]:
    """Return what destroys data or breaks the release that still runs, with a safer form for each.

    What a DO block or a function does is inside a string and is not seen; a WHERE that is always true is not
    recognised either.

    Source: runbook, "Stage 1: Pre-Deployment Validation" ("Check for breaking changes").
    """
    return [
        Finding(statement.line, kind, _SAFER[kind]) for statement in statements for kind in _breaking_kinds(statement)
    ]


def _order(migration: Migration) -> tuple[int, str]:
    return migration.version, migration.name


def _undone_by(down: PurePosixPath) -> PurePosixPath:
    """Return the path of the migration that the script `down` undoes."""
    suffix = next(suffix for suffix in _DOWN_SUFFIXES if down.name.endswith(suffix))
    return down.with_name(down.name.removesuffix(suffix) + ".sql")


def _migration(path: PurePosixPath, root: PurePosixPath, down: PurePosixPath | None) -> Migration:
    match = _FORWARD.fullmatch(path.stem)
    if match is None or path.parent != root or path.suffix != ".sql":
        raise _not_a_migration(
            str(path), f"<number>_<name>.sql directly in {root}", "Rename it, or move it to another directory."
        )
    kind = Kind.TIMESTAMPED if len(match["version"]) == _TIMESTAMP_DIGITS else Kind.NUMBERED
    return Migration(path.stem, str(path), int(match["version"]), kind, None if down is None else str(down))


def _not_a_migration(value: str, allowed: str, action: str) -> InvalidInputError:
    return InvalidInputError("migration", value, allowed, action)


def _why_alone(migration: Migration, text: str) -> str | None:
    try:
        found = statements(text)
    except InvalidInputError as error:
        raise _not_a_migration(migration.path, "text that can be read as SQL", str(error)) from error
    if not found:
        raise _not_a_migration(migration.path, "at least one statement", "Write the migration or delete the file.")
    for statement in found:
        reason = needs_own_transaction(statement)
        if reason is None and controls_transaction(statement):
            reason = f"{statement.shape.split(' ', 1)[0]} begins or ends a transaction"
        if reason is not None:
            return f"{migration.name}, line {statement.line}: {reason}"
    return None


_SAFER = {
    "DROP TABLE": "Stop using the table in one release, rename or archive it, and drop it in a later release.",
    "DROP SCHEMA": "Move what is still needed, keep a backup, and drop the empty schema in a later release.",
    "DROP DATABASE": "Never drop a database in a migration.",
    "DROP OWNED": "Drop the objects one by one, by name.",
    "DROP COLUMN": "Stop reading and writing the column in one release and drop it in a later one.",
    "TRUNCATE": "DELETE in batches with a WHERE, after a copy of the rows.",
    "DELETE without WHERE": "Name the rows in a WHERE and delete them in batches.",
    "UPDATE without WHERE": "Name the rows in a WHERE and update them in batches.",
    "ALTER COLUMN TYPE": "Add a column of the new type, fill it in batches, switch over, and drop the old one later.",
    "SET NOT NULL": "ADD CONSTRAINT ... CHECK (... IS NOT NULL) NOT VALID, then VALIDATE, then SET NOT NULL.",
    "RENAME": "Add the new name beside the old one (a column, or a view), switch over, and remove the old one later.",
}
_OBJECT = r"\S+(?: \. \S+)*"
_ALTER = re.compile(
    r"ALTER (?:(?:FOREIGN )?TABLE|(?:MATERIALIZED )?VIEW|TYPE|SCHEMA|SEQUENCE|DOMAIN|FUNCTION|PROCEDURE|ROUTINE) "
    rf"(?:IF EXISTS )?(?:ONLY )?{_OBJECT}(?: \*)?(?: \( (?P<arguments>[^()]*)\))? (?P<actions>.+)"
)
_DROP = re.compile(r"DROP (?:FOREIGN )?(TABLE|SCHEMA|DATABASE|OWNED)\b")
_ACTIONS = (
    ("DROP COLUMN", re.compile(r"DROP (?!CONSTRAINT\b|NOT NULL\b|DEFAULT\b)")),
    ("ALTER COLUMN TYPE", re.compile(r"ALTER (?:COLUMN |ATTRIBUTE )?\S+ (?:SET DATA )?TYPE\b")),
    ("SET NOT NULL", re.compile(r"(?:ALTER (?:COLUMN )?\S+ )?SET NOT NULL\b")),
    ("RENAME", re.compile(r"RENAME (?!CONSTRAINT\b)")),
)
_MAIN_VERBS = frozenset({"SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES"})


def _breaking_kinds(statement: Statement) -> Iterator[str]:
    shape = statement.shape
    if (drop := _DROP.match(shape)) is not None:
        yield f"DROP {drop[1]}"
    elif shape.startswith("TRUNCATE"):
        yield "TRUNCATE"
    elif (alter := _ALTER.match(shape)) is not None:
        actions = _actions(alter["actions"])
        yield from (kind for kind, pattern in _ACTIONS if any(pattern.match(action) for action in actions))
    else:
        yield from dict.fromkeys(_without_where(shape))


@dataclass
class _Level:
    """The words of one level of parentheses."""

    words: list[str] = field(default_factory=list[str])


def _actions(text: str) -> list[str]:
    """Split at the commas outside parentheses."""
    actions, depth = [""], 0
    for word in text.split(" "):
        depth += (word == "(") - (word == ")")
        if word == "," and depth == 0:
            actions.append("")
        else:
            actions[-1] = f"{actions[-1]} {word}".lstrip()
    return actions


def _without_where(shape: str) -> Iterator[str]:
    """Yield for each DELETE or UPDATE, also inside WITH, that has no WHERE of its own."""
    levels = [_Level()]
    for word in [*shape.split(" "), ")"]:
        if word == "(":
            levels.append(_Level())
        elif word == ")":
            yield from _unbounded(levels.pop().words)
            levels = levels or [_Level()]
        else:
            levels[-1].words.append(word)


def _unbounded(words: list[str]) -> Iterator[str]:
    if not words or words[0] not in {"WITH", "DELETE", "UPDATE"} or "WHERE" in words:
        return
    verb = next((word for word in words if word in _MAIN_VERBS), "")
    if (verb == "DELETE" and "FROM" in words) or (verb == "UPDATE" and "SET" in words):
        yield f"{verb} without WHERE"

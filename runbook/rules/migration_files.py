"""Which files are migrations, in which order they come, and what about them is ambiguous.

Source: runbook, "Stage 1: Pre-Deployment Validation" ("Detect pending migrations").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import groupby
from pathlib import PurePosixPath

from runbook.errors import InvalidInputError
from runbook.rules.migration_names import ParsedName, Phase, Role, VersionKind, history_name, parse_path, parse_version


class Irregularity(StrEnum):
    """What makes the migrations ambiguous; refused unless the environment's settings allow it."""

    SAME_VERSION = "same-version"
    OUT_OF_ORDER = "out-of-order"
    MIXED_VERSIONS = "mixed-versions"
    VARIANT = "variant"
    EDITED_FILE = "edited-file"
    MISSING_FILE = "missing-file"


@dataclass(frozen=True)
class Migration:
    """One migration. `name` is what the history calls it; `down` and `checks` are the paths of its companions."""

    name: str
    path: str
    version: tuple[int, ...]
    phase: Phase = Phase.PRE
    down: str | None = None
    checks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ambiguity:
    """Files of which nobody can know for sure which is meant, or in which order; `detail` says so in a sentence."""

    kind: Irregularity
    paths: tuple[str, ...]
    detail: str


@dataclass(frozen=True)
class Discovery:
    """The migrations of a directory in order, the files beside them that are never run, and what is ambiguous."""

    migrations: tuple[Migration, ...]
    companions: tuple[str, ...]
    left_out: tuple[str, ...]
    ambiguities: tuple[Ambiguity, ...]


_VARIANT = re.compile(r"[_-](?:fixed|fix|hotfix|compat|corrected|correct|final|new|old|copy|v\d+)$", re.IGNORECASE)
_NUMBERS = frozenset({VersionKind.NUMBER, VersionKind.DOTTED})
_ALLOWED = "Say which is meant with `allowed` or `left_out` in the environment's settings."


def discover(paths: Sequence[str], directory: str, *, left_out: Collection[str] = ()) -> Discovery:
    """Sort the files of a directory: migrations in the order of their versions, companions, what is left out.

    Files that are not `.sql` and fit no companion are left alone.

    Raises:
        InvalidInputError: a `.sql` file that fits no layout, a down script or check without its migration, two down
            scripts for one migration, or a name in `left_out` that fits no file.
    """
    root = PurePosixPath(directory)
    files = sorted({PurePosixPath(path) for path in paths})
    inside = [path for path in files if path.is_relative_to(root)]
    shown, inside = _leave_out(inside, left_out)
    parsed = {path: parse_path(path, root) for path in inside}
    companions = [path for path, name in parsed.items() if name is not None and name.role is Role.LEFTOVER]
    for path, name in parsed.items():
        if name is None and path.suffix.lower() == ".sql":
            raise _not_a_migration(
                str(path),
                f"<version>_<name>.sql in {root}, or {root}/<version>_<name>/up.sql or migration.sql",
                "Rename it, move it to another directory, or put its name into `left_out` of the settings.",
            )
    named = {path: name for path, name in parsed.items() if name is not None}
    forward = {path: name for path, name in named.items() if name.role is Role.FORWARD}
    found = {path: _migration(path, name) for path, name in forward.items()}
    for path, name in named.items():
        if name.role in {Role.DOWN, Role.CHECK}:
            owner = _owner(path, name, forward)
            found[owner] = _with_companion(found[owner], path, name.role)
    migrations = sorted(found.values(), key=_order)
    ambiguities = [*_same_versions(migrations), *_variants(migrations), *_mixed(forward)]
    return Discovery(tuple(migrations), tuple(map(str, companions)), shown, tuple(ambiguities))


def refuse(ambiguities: Iterable[Ambiguity], allowed: Collection[str]) -> None:
    """Raise `InvalidInputError` that lists every ambiguity which is not allowed."""
    if found := [item for item in ambiguities if item.kind not in allowed]:
        kinds = ", ".join(dict.fromkeys(item.kind for item in found))
        raise InvalidInputError(
            "migrations",
            kinds,
            "an order that nobody can doubt",
            "\n".join([*(f"- {item.kind}: {item.detail}" for item in found), _ALLOWED]),
        )


def pending(found: Sequence[Migration], applied: Collection[str]) -> list[Migration]:
    """Return what is found and not applied, in order: a set difference, never a high-water mark."""
    names = {history_name(name) for name in applied}
    return sorted((migration for migration in found if migration.name not in names), key=_order)


def unknown(found: Sequence[Migration], applied: Collection[str]) -> list[str]:
    """Return the applied names that have no file, sorted: this database has seen another history."""
    return sorted({history_name(name) for name in applied} - {migration.name for migration in found})


def out_of_order(found: Sequence[Migration], applied: Collection[str]) -> list[Ambiguity]:
    """Return the pending migrations that sort before the newest applied one, with a file or without."""
    versions = {migration.name: migration.version for migration in found}
    keys = [(versions.get(name) or _key(name), name) for name in map(history_name, applied)]
    newest = max(((key, name) for key, name in keys if key is not None), default=None)
    if newest is None:
        return []
    return [
        Ambiguity(
            Irregularity.OUT_OF_ORDER,
            (migration.path,),
            f"{migration.path} comes before {newest[1]}, which is applied already",
        )
        for migration in pending(found, applied)
        if _order(migration) < newest
    ]


def halves(pending: Sequence[Migration], *, has_release: bool) -> tuple[list[Migration], list[Migration]]:
    """Divide what is pending: what runs before the traffic changes, and what waits until the release is validated.

    Without a release that has the traffic nobody can be disturbed, and everything runs in order beforehand.

    Raises:
        InvalidInputError: one of the first half comes after one of the second.

    Source: runbook, "Stage 4: Database Migration"; "expand and contract".
    """
    if not has_release:
        return list(pending), []
    post = [migration for migration in pending if migration.phase is Phase.POST]
    pre = [migration for migration in pending if migration.phase is Phase.PRE]
    if post and pre and _order(pre[-1]) > _order(post[0]):
        late = next(migration for migration in pre if _order(migration) > _order(post[0]))
        raise _not_a_migration(
            late.path,
            f"one of the second half, as {post[0].path} before it is",
            f"Deploy up to {post[0].name} first, or mark {late.name} as `post`, too.",
        )
    return pre, post


def _leave_out(paths: list[PurePosixPath], names: Collection[str]) -> tuple[tuple[str, ...], list[PurePosixPath]]:
    wanted = {name.removesuffix(".sql") for name in names}
    found: dict[PurePosixPath, str] = {}
    for path in paths:
        for name in (path.name.removesuffix(".sql"), path.parent.name):
            if name in wanted:
                found[path] = name
    if missing := sorted(wanted - set(found.values())):
        raise InvalidInputError("left_out", ", ".join(missing), "names of migration files", "Mend the settings.")
    return tuple(str(path) for path in found), [path for path in paths if path not in found]


def _migration(path: PurePosixPath, name: ParsedName) -> Migration:
    key = name.version.key if name.version else ()
    return Migration(name.name, str(path), key, name.phase)


def _owner(path: PurePosixPath, name: ParsedName, forward: dict[PurePosixPath, ParsedName]) -> PurePosixPath:
    """Return the migration that a companion belongs to: by its name, else by its version when only one has it."""
    for fits in (_same_name(name), _same_version(name)):
        owners = [candidate for candidate, other in forward.items() if fits(other)]
        if len(owners) == 1:
            return owners[0]
    raise _not_a_migration(
        str(path),
        f"a {name.role} script beside the one migration that it belongs to",
        "Rename it after its migration, or put its name into `left_out` of the settings.",
    )


def _same_name(name: ParsedName) -> Callable[[ParsedName], bool]:
    return lambda other: other.name == name.name


def _same_version(name: ParsedName) -> Callable[[ParsedName], bool]:
    return lambda other: other.version == name.version


def _with_companion(migration: Migration, path: PurePosixPath, role: Role) -> Migration:
    if role is Role.CHECK:
        return replace(migration, checks=(*migration.checks, str(path)))
    if migration.down is not None:
        raise _not_a_migration(f"{migration.down}, {path}", "one down script for each migration", "Delete one of them.")
    return replace(migration, down=str(path))


def _same_versions(migrations: Sequence[Migration]) -> Iterable[Ambiguity]:
    for _, group in groupby(migrations, key=lambda migration: migration.version):
        paths = tuple(migration.path for migration in group)
        if len(paths) > 1:
            yield Ambiguity(
                Irregularity.SAME_VERSION,
                paths,
                f"{' and '.join(paths)} have the same version; allowed, they run in the order of their names",
            )


def _variants(migrations: Sequence[Migration]) -> Iterable[Ambiguity]:
    by_stem = {_stem(migration.name): migration for migration in migrations if not _VARIANT.search(migration.name)}
    for migration in migrations:
        original = by_stem.get(_stem(_VARIANT.sub("", migration.name)))
        if original is not None and _VARIANT.search(migration.name):
            yield Ambiguity(
                Irregularity.VARIANT,
                (original.path, migration.path),
                f"{migration.path} looks like another form of {original.path}; allowed, both run, in order",
            )


def _mixed(forward: dict[PurePosixPath, ParsedName]) -> Iterable[Ambiguity]:
    by_kind: dict[str, list[str]] = {}
    for path, name in forward.items():
        if name.version is not None:
            kind = "number" if name.version.kind in _NUMBERS else str(name.version.kind)
            by_kind.setdefault(kind, []).append(str(path))
    if len(by_kind) > 1:
        words = ", ".join(f"{kind} ({paths[0]}{', ...' if len(paths) > 1 else ''})" for kind, paths in by_kind.items())
        yield Ambiguity(
            Irregularity.MIXED_VERSIONS,
            tuple(path for paths in by_kind.values() for path in paths),
            f"versions are written in several ways: {words}; allowed, numbers run first, then all others by time",
        )


def _stem(name: str) -> str:
    """Return a name without its version, in lower case."""
    return re.sub(r"^[Vv]?[\d._-]+", "", name).lower()


def _key(name: str) -> tuple[int, ...] | None:
    version = parse_version(name)
    return version.key if version else None


def _order(migration: Migration) -> tuple[tuple[int, ...], str]:
    return migration.version, migration.name


def _not_a_migration(value: str, allowed: str, action: str) -> InvalidInputError:
    return InvalidInputError("migration", value, allowed, action)

"""What the name of a migration file says: its version, its half, and whether it runs forward at all.

Layouts: `0001_name.sql`, `000001.sql`, `V1__name.sql`, timestamps of 8 to 14 digits, `20250104_120000_name.sql`,
`03.04.00_01_pre_name.sql`, `0001_name.up.sql`, and folders `<version>_name/` with `up.sql` or `migration.sql`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import PurePosixPath


class Phase(StrEnum):
    """The half of a migration: PRE before the release gets the traffic, POST after it was validated."""

    PRE = "pre"
    POST = "post"


class VersionKind(StrEnum):
    """How versions are written; two kinds in one directory have no common order but time."""

    NUMBER = "number"
    DOTTED = "dotted number"
    DATE = "date (8 digits)"
    MINUTES = "time to the minute (12 digits)"
    SECONDS = "time to the second (14 digits)"
    EPOCH = "seconds since 1970 (10 digits)"
    EPOCH_MS = "milliseconds since 1970 (13 digits)"


class Role(StrEnum):
    """What a file is for. Only FORWARD is ever run as a migration."""

    FORWARD = "forward"
    DOWN = "down"
    CHECK = "check"
    LEFTOVER = "leftover"


@dataclass(frozen=True)
class Version:
    """`key` orders: numbers first, then instants as (1, seconds since 1970)."""

    key: tuple[int, ...]
    kind: VersionKind


@dataclass(frozen=True)
class ParsedName:
    """What a path says. `name` is the migration's in the history; for a companion, of the one it belongs to."""

    name: str
    role: Role
    version: Version | None
    phase: Phase = Phase.PRE


_VERSION = re.compile(
    r"(?P<dotted>\d+(?:\.\d+)+(?:_\d+)?)(?=_|-|$)"
    r"|(?P<split>\d{8}[_-]\d{6}|\d{4}-\d{2}-\d{2}[-_]\d{6})(?=_|-|$)"
    r"|(?P<flyway>[Vv])?(?P<number>\d{1,20})(?=_|-|\.|$)"
)
_PHASE_PREFIX = re.compile(r"[_-](?P<phase>pre|post)[_-]")
_LEFTOVER = re.compile(r"\.(?:bak|orig|old|tmp|save|swp)$|~$|\.bak\.sql$|_BACKUP\.sql$")
_DOWN = re.compile(r"(?:_ROLLBACK|_rollback|\.rollback|_DOWN|_down|\.down|\.undo)\.sql$")
_CHECK = re.compile(r"(?:_VALIDATION|_TESTS|_TEST)\.sql$")  # upper case, as written: `0007_ab_tests.sql` migrates
_UP = re.compile(r"(?:\.up|_up)?\.sql$")
_IN_FOLDER = {
    "up.sql": Role.FORWARD,
    "migration.sql": Role.FORWARD,
    "down.sql": Role.DOWN,
    "rollback.sql": Role.DOWN,
    "validation.sql": Role.CHECK,
    "tests.sql": Role.CHECK,
}
_EPOCH_FROM, _EPOCH_TO = 946_684_800, 4_102_444_800  # the years 2000 to 2100


def history_name(text: str) -> str:
    """Return the name of a migration as a history has it: with or without the file's ending."""
    return text.removesuffix(".sql").removesuffix(".up")


def parse_path(path: PurePosixPath, root: PurePosixPath) -> ParsedName | None:
    """Return what a path below `root` says; None when it fits no layout."""
    relative = path.relative_to(root)
    if _LEFTOVER.search(path.name):
        return ParsedName(path.name, Role.LEFTOVER, None)
    if len(relative.parts) == 2 and path.name in _IN_FOLDER:
        version = parse_version(path.parent.name)
        return version and ParsedName(path.parent.name, _IN_FOLDER[path.name], version, _phase(path.parent.name))
    if len(relative.parts) != 1 or path.suffix != ".sql":
        return None
    for role, pattern in ((Role.DOWN, _DOWN), (Role.CHECK, _CHECK), (Role.FORWARD, _UP)):
        if pattern.search(path.name):
            name = pattern.sub("", path.name)
            if role is Role.DOWN and re.match(r"U\d", name):
                name = f"V{name[1:]}"
            version = parse_version(name)
            if re.match(r"U\d+__", name):  # Flyway's undo scripts
                name, role, version = f"V{name[1:]}", Role.DOWN, parse_version(f"V{name[1:]}")
            return version and ParsedName(name, role, version, _phase(name))
    return None


def parse_version(name: str) -> Version | None:
    """Return the version that a name begins with, or None."""
    match = _VERSION.match(name)
    if match is None or not name.isascii():
        return None
    if match["dotted"]:
        return Version((0, *(int(part) for part in re.split(r"[._]", match["dotted"]))), VersionKind.DOTTED)
    digits = re.sub(r"\D", "", match["split"] or match["number"])
    instant = _instant(digits)
    return Version((0, int(digits)), VersionKind.NUMBER) if instant is None else instant


def _instant(digits: str) -> Version | None:
    """Return the instant that digits stand for; a time counted up by hand (`20250104000099`) is later on that day."""
    kinds = {14: VersionKind.SECONDS, 12: VersionKind.MINUTES, 8: VersionKind.DATE}
    if len(digits) in kinds and digits.startswith(("19", "20")):
        try:
            day = datetime.strptime(digits[:8], "%Y%m%d").replace(tzinfo=UTC)
        except ValueError:
            return None
        hours, minutes, seconds = (int(digits[at : at + 2] or 0) for at in (8, 10, 12))
        return Version((1, int(day.timestamp()) + 3600 * hours + 60 * minutes + seconds), kinds[len(digits)])
    if len(digits) == 10 and _EPOCH_FROM <= int(digits) <= _EPOCH_TO:
        return Version((1, int(digits)), VersionKind.EPOCH)
    if len(digits) == 13 and _EPOCH_FROM <= int(digits) // 1000 <= _EPOCH_TO:
        return Version((1, int(digits) // 1000, int(digits) % 1000), VersionKind.EPOCH_MS)
    return None


def _phase(name: str) -> Phase:
    match = _VERSION.match(name)
    rest = name[match.end() :] if match else ""
    prefix = _PHASE_PREFIX.match(rest)
    if prefix is not None:
        return Phase(prefix["phase"])
    return Phase.POST if name.endswith(".post") else Phase.PRE

"""Which tables a sample of a backup restores, and how `pg_restore` is told."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping

from runbook.manifest import TableFingerprint

_ENTRY = re.compile(r"\d+; \d+ \d+ (TABLE DATA|MATERIALIZED VIEW DATA|BLOBS|BLOB METADATA|BLOB|SEQUENCE SET) (.*)")
_OF_LARGE_OBJECT = re.compile(r"\d+; \d+ \d+ (COMMENT|ACL|SECURITY LABEL) - LARGE OBJECTS? ")
_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')


def choose_sample(
    tables: Mapping[str, TableFingerprint],
    references: Mapping[str, Collection[str]],
    *,
    percent: float,
    seed: str,
) -> frozenset[str]:
    """Choose tables at random until they hold `percent` of all rows, with all that they reference by foreign keys.

    The same seed chooses the same tables. Rows without the rows they reference could not be restored.

    Args:
        tables: all tables of the backup, by quoted name.
        references: for each table the tables that its foreign keys name.
        percent: of all rows, above 0, up to 100.
        seed: for example the id of the backup.
    """
    order = sorted(tables)
    random.Random(seed).shuffle(order)  # noqa: S311 - a sample, not a secret
    wanted = sum(table.rows for table in tables.values()) * percent / 100
    chosen: set[str] = set()
    for name in order:
        if chosen and sum(tables[one].rows for one in chosen) >= wanted:
            break
        _add(name, references, chosen)
        chosen &= tables.keys()  # a partitioned table is referenced, but holds no rows itself
    return frozenset(chosen)


def sample_list(listing: str, tables: Collection[str]) -> str:
    """Return the list for `pg_restore --use-list` that restores all of the schema, and data of `tables` alone.

    Args:
        listing: what `pg_restore --list` printed.
        tables: quoted names.

    Source: PostgreSQL manual, "pg_restore", --use-list.
    """
    wanted = tuple(f"{_unquoted(table)} " for table in tables)
    kept: list[str] = []
    for line in listing.splitlines():
        if _OF_LARGE_OBJECT.match(line):
            continue
        entry = _ENTRY.match(line)
        if entry is None or (entry[1] == "TABLE DATA" and entry[2].startswith(wanted)) or entry[1] == "SEQUENCE SET":
            kept.append(line)
    return "\n".join(kept) + "\n"


def _add(name: str, references: Mapping[str, Collection[str]], chosen: set[str]) -> None:
    waiting = [name]
    while waiting:
        table = waiting.pop()
        if table not in chosen:
            chosen.add(table)
            waiting += references.get(table, ())


def _unquoted(name: str) -> str:
    """Return a quoted name as `pg_restore --list` writes it: `public."odd name"` is `public odd name`."""
    parts = [match[1].replace('""', '"') if match[1] else match[2] for match in _PART.finditer(name)]
    return " ".join(parts).replace("\n", " ").replace("\r", " ")

"""What the tables of a database and their columns are called, by the numbers that stay when they are renamed.

With the layout of the backup's time, a write of today finds its table and columns in the restored database.
Source: PostgreSQL manual, "pg_attribute".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import psycopg
from pydantic import BaseModel, ConfigDict

_LAYOUT = """
SELECT c.oid::bigint, n.nspname, c.relname,
       (SELECT json_object_agg(a.attnum, a.attname) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""

Table = tuple[str, str]
"""Schema and name of a table."""


class TableLayout(BaseModel):
    """One table: its names, and those of its columns by number."""

    model_config = ConfigDict(frozen=True)

    table: Table
    columns: dict[int, str]


class Layout(BaseModel):
    """The tables of a database by their number; kept with a backup as `layout.json.zst`."""

    model_config = ConfigDict(frozen=True)

    tables: dict[int, TableLayout]


def read_layout(connection: psycopg.Connection) -> Layout:
    """Return the layout in the transaction of `connection`."""
    rows = connection.execute(_LAYOUT).fetchall()
    return Layout.model_validate(
        {"tables": {oid: {"table": (schema, table), "columns": columns or {}} for oid, schema, table, columns in rows}}
    )


class OldNames:
    """What tables and columns are called in the restored database, whose layout is `then`; `now` is the live one's."""

    def __init__(self, then: Layout, now: Layout) -> None:
        self._then, self._now = then.tables, now.tables

    def table(self, table: Table) -> Table:
        """Return the table's name in the restored database."""
        oid = self._numbers.get(table)
        return self._then[oid].table if oid in self._then else table

    def table_of(self, oid: int, table: Table) -> Table:
        """Return the name in the restored database of a table whose number is known."""
        return self._then[oid].table if oid in self._then else table

    def columns(self, table: Table) -> Mapping[str, str]:
        """Return the names in the restored database by those in the live one, for a table of the live one."""
        oid = self._numbers.get(table)
        return self._columns(oid) if oid is not None else {}

    def columns_of(self, oid: int, names: Sequence[str]) -> Sequence[str]:
        """Return the names in the restored database for those that a table's columns had at any time since."""
        if oid not in self._then:
            return names
        then, now = set(self._then[oid].columns.values()), self._columns(oid)
        return [name if name in then else now.get(name, name) for name in names]

    def _columns(self, oid: int) -> dict[str, str]:
        then = self._then[oid].columns if oid in self._then else {}
        now = self._now[oid].columns if oid in self._now else {}
        return {name: then.get(number, name) for number, name in now.items()}

    @cached_property
    def _numbers(self) -> dict[Table, int]:
        return {one.table: oid for oid, one in self._now.items()}

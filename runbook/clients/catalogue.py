"""What the linter has to know of a live database: types of columns, and which tables have rows."""

from __future__ import annotations

from runbook.clients.postgres import Database
from runbook.rules.lint import Catalogue

_COLUMNS = """
SELECT upper(c.relname), upper(a.attname), format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
# A table that was never analysed has -1 rows for the planner; its size then tells.
_WITH_ROWS = """
SELECT upper(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (c.reltuples > 0 OR (c.relkind = 'r' AND pg_relation_size(c.oid) > 0) OR c.relkind = 'p')
"""


def read_catalogue(database: Database) -> tuple[Catalogue, int]:
    """Return what a database holds, for the linter, and the server's major version.

    Raises:
        ServiceError: the server does not answer.
    """
    with database.connect() as connection:
        columns = {(table, column): kind for table, column, kind in connection.execute(_COLUMNS).fetchall()}
        with_rows = frozenset(str(row[0]) for row in connection.execute(_WITH_ROWS).fetchall())
        return Catalogue(columns, with_rows), connection.info.server_version // 10000

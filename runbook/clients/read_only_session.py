"""A session that only looks: it can neither write, nor wait, nor take long."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import sql

from runbook.clients import diagnostic_queries as queries
from runbook.errors import RejectedError
from runbook.rules.database_state import Missing

GRANT_MONITOR = "GRANT pg_monitor TO this role."
_STATEMENT_S = 3.0
_TOGETHER_S = 10.0
_LOCK_TIMEOUT = "500ms"
_T = TypeVar("_T")
Rows = list[tuple[Any, ...]]


class ReadOnlySession:
    """Asks a database one question after the other until the time is up; what gets no answer is in `missing`.

    Every question is a read-only transaction of its own, with a statement_timeout of 3 s and a lock_timeout of 0.5 s.
    """

    def __init__(self, connection: psycopg.Connection, *, together_s: float = _TOGETHER_S) -> None:
        self.missing: list[Missing] = []
        self._together_s = together_s
        self._deadline = time.monotonic() + together_s
        self.use(connection)

    def use(self, connection: psycopg.Connection) -> None:
        """Ask over another connection from now on."""
        self._connection = connection
        # By SET and not at the start of the session: some providers drop what a connection string sets.
        connection.execute(queries.SETTINGS, [f"{_STATEMENT_S:g}s", _LOCK_TIMEOUT])

    def needed(self, query: LiteralString | bytes) -> tuple[Any, ...]:
        """Return the first row of a query without which the rest makes no sense.

        Raises:
            psycopg.Error: it gets no answer.
            RejectedError: there is no row.
        """
        row = self._connection.execute(query).fetchone()
        if row is None:
            raise RejectedError("a query that was expected to have a row has none")
        return row

    def rows(self, what: str, query: LiteralString | sql.Composed, parameters: Sequence[object] = ()) -> Rows | None:
        """Return the rows of a query; None when it gets no answer."""
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            why = f"not asked: the questions before took {self._together_s:g} s"
            self.missing.append(Missing(what, why, "Look again."))
            return None
        try:
            if left_s < _STATEMENT_S:
                self._connection.execute(queries.TIMEOUT, [f"{max(1, round(left_s * 1000))}ms"])
            return self._connection.execute(query, parameters).fetchall()
        except psycopg.Error as error:
            if self._connection.closed:
                raise
            self.missing.append(Missing(what, _reason(error), GRANT_MONITOR if _is_right_missing(error) else ""))
            return None

    def all(
        self, what: str, query: LiteralString, parameters: Sequence[object], make: Callable[..., _T]
    ) -> tuple[_T, ...]:
        """Return what `make` makes of each row; nothing when there is no answer."""
        return tuple(make(*row) for row in self.rows(what, query, parameters) or ())

    def one(self, what: str, query: LiteralString) -> Any:  # noqa: ANN401 - a value of the query's type
        """Return the value in the only column of the only row; None when there is no row or no answer."""
        rows = self.rows(what, query)
        return rows[0][0] if rows else None


def _is_right_missing(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.errors.InsufficientPrivilege)


def _reason(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.QueryCanceled):
        return f"no answer within {_STATEMENT_S:g} s"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

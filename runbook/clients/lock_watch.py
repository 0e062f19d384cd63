"""Who keeps a migration waiting: the sessions that block it, seen while it waits.

Source: PostgreSQL manual, "pg_blocking_pids" and "The Statistics Collector: pg_stat_activity".
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType

from runbook.clients.postgres import Database
from runbook.errors import ServiceError
from runbook.rules.sql import without_literals

_log = logging.getLogger(__name__)
_BLOCKERS = """
SELECT b.pid, b.usename, b.application_name, b.state, extract(epoch FROM clock_timestamp() - b.xact_start), b.query
FROM pg_stat_activity w, LATERAL unnest(pg_blocking_pids(w.pid)) AS blocking (pid)
JOIN pg_stat_activity b ON b.pid = blocking.pid
WHERE w.application_name = %s AND w.wait_event_type = 'Lock'
"""
_QUERY_SHOWN = 200


class LockWatch:
    """Looks, beside the body of a `with`, at who blocks the session with a given application name.

    `blocked_by` holds in words who was seen last; empty when nobody was. That it cannot look stops nothing.
    """

    def __init__(self, database: Database, application_name: str, *, every_s: float) -> None:
        self.blocked_by = ""
        self._database, self._name, self._every_s = database, application_name, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> LockWatch:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            with self._database.connect() as connection:
                while not self._ended.wait(self._every_s):
                    rows = connection.execute(_BLOCKERS, [self._name]).fetchall()
                    if rows:
                        self.blocked_by = "; ".join(dict.fromkeys(_words(*row) for row in rows))
        except ServiceError as error:
            _log.warning("who blocks a migration cannot be seen: %s", error)


def _words(pid: int, user: str | None, name: str | None, state: str | None, age_s: float | None, query: str) -> str:
    age = f", its transaction open for {age_s:.1f} s" if age_s is not None else ""
    return (
        f"session {pid} of {user or 'unknown'} ({name or 'no application name'}, {state or 'state unknown'}{age}): "
        f"{without_literals(query or '')[:_QUERY_SHOWN]}"
    )

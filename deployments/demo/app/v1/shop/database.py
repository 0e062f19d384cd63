"""A small pool of connections that survives a restarted or swapped database."""

import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

T = TypeVar("T")


class UnavailableError(Exception):
    """No connection to the database within the time allowed."""


def _is_usable(connection: Connection) -> bool:
    """An idle connection has nothing to say; bytes to read are the server's good-bye."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


class Pool:
    """At most `size` connections, opened when needed, the last one used first."""

    def __init__(self, url: str, *, size: int = 8, wait_s: float = 2.0, name: str = "shop") -> None:
        self._url = url
        self._name = name
        self._wait_s = wait_s
        self._slots = threading.Semaphore(size)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    def read(self, work: Callable[[Connection], T], *, wait_s: float | None = None) -> T:
        """Run `work`, a second time on a new connection when the first one broke."""
        return self._run(work, wait_s=wait_s, transaction=False)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction; tried again only when it broke before the commit was asked for."""
        return self._run(work, wait_s=None, transaction=True)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _run(self, work: Callable[[Connection], T], *, wait_s: float | None, transaction: bool) -> T:
        deadline = time.monotonic() + (self._wait_s if wait_s is None else wait_s)
        for last in (False, True):
            with self._checked_out(deadline) as connection:
                try:
                    if transaction:
                        connection.execute("BEGIN")
                    result = work(connection)
                except psycopg.OperationalError as error:
                    if not connection.closed:
                        raise
                    if last:
                        raise UnavailableError(str(error)) from error
                    continue
                if transaction:
                    connection.execute("COMMIT")
                return result
        raise AssertionError("unreachable")

    @contextmanager
    def _checked_out(self, deadline: float) -> Iterator[Connection]:
        if not self._slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise UnavailableError("all connections are busy")
        try:
            connection = self._take_idle() or self._connect(deadline)
            try:
                yield connection
            finally:
                self._give_back(connection)
        finally:
            self._slots.release()

    def _take_idle(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if _is_usable(connection):
                return connection
            connection.close()

    def _connect(self, deadline: float) -> Connection:
        if not self._url:
            raise UnavailableError("DATABASE_URL is not set")
        while True:
            try:
                # no prepared statements: they break behind a pooler and when a migration changes a table
                return psycopg.connect(
                    self._url,
                    autocommit=True,
                    prepare_threshold=None,
                    connect_timeout=2,
                    application_name=self._name,
                )
            except psycopg.OperationalError as error:
                if time.monotonic() >= deadline:
                    raise UnavailableError(str(error)) from error
                time.sleep(0.1)

    def _give_back(self, connection: Connection) -> None:
        try:
            if not connection.closed and connection.info.transaction_status != TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        except psycopg.Error:
            connection.close()
        with self._lock:
            if not connection.closed and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

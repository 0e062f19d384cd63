"""A load generator that runs beside the demo: `python -m deployments.demo.traffic URL --rate 40`.

It runs in its own process, so that what the demo does never slows the traffic down. The process takes commands as
JSON lines on stdin and answers each on stdout; the end of stdin ends it, so it cannot outlive its parent.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

TIMEOUT_S = 5.0
NO_ANSWER = "no answer"
"""The version under which requests without any answer are counted."""

_WORKERS = 48  # enough for the rate of the demo when every answer takes a second
_MIX = ("home", "customer", "stock", "order") * 4 + ("home", "customer", "order", "orders")  # of 20: 5 are orders
_PRODUCTS = 240
_CUSTOMERS = 200


@dataclass(frozen=True)
class Counts:
    """What the traffic saw in a span of time; a request counts when it ends.

    `failures` are answers 5xx, requests without an answer and time-outs; `writes` are acknowledged orders;
    `longest_gap_s` is the longest time without a successful answer, up to the moment of asking. `by_version` maps
    the served `x-app-version` to (requests, failures).
    """

    requests: int
    failures: int
    writes: int
    longest_gap_s: float
    by_version: dict[str, tuple[int, int]]

    @classmethod
    def from_json(cls, answer: Mapping[str, Any]) -> Counts:
        """Read what `asdict` wrote and JSON changed."""
        return cls(
            requests=answer["requests"],
            failures=answer["failures"],
            writes=answer["writes"],
            longest_gap_s=answer["longest_gap_s"],
            by_version={version: (pair[0], pair[1]) for version, pair in answer["by_version"].items()},
        )


class Tally:
    """Counts of one span; not thread-safe by itself."""

    def __init__(self, now: float) -> None:
        self._last_success = now
        self._longest_gap_s = 0.0
        self._writes = 0
        self._by_version: dict[str, tuple[int, int]] = {}

    def add(self, version: str, *, succeeded: bool, is_write: bool, now: float) -> None:
        """Count one request that ended at `now` (monotonic seconds)."""
        requests, failures = self._by_version.get(version, (0, 0))
        self._by_version[version] = (requests + 1, failures + (not succeeded))
        if succeeded:
            self._longest_gap_s = max(self._longest_gap_s, now - self._last_success)
            self._last_success = now
            self._writes += is_write

    def counts(self, now: float) -> Counts:
        """Return the counts up to `now`."""
        return Counts(
            requests=sum(requests for requests, _ in self._by_version.values()),
            failures=sum(failures for _, failures in self._by_version.values()),
            writes=self._writes,
            longest_gap_s=max(self._longest_gap_s, now - self._last_success),
            by_version=dict(self._by_version),
        )


class WriteGate:
    """Lets writes through until it is closed; closing waits for those that are on their way."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = True
        self._in_flight = 0

    @contextmanager
    def passing(self) -> Generator[bool]:
        """Yield whether a write may be sent."""
        with self._changed:
            may_write = self._open
            self._in_flight += may_write
        try:
            yield may_write
        finally:
            with self._changed:
                self._in_flight -= may_write
                self._changed.notify_all()

    def close(self) -> None:
        """Let no write through any more; return when none is in flight."""
        with self._changed:
            self._open = False
            self._changed.wait_for(lambda: self._in_flight == 0)

    def reopen(self) -> None:
        """Let writes through again."""
        with self._changed:
            self._open = True


class LoadGenerator:
    """Sends the requests and keeps the counts; lives in the process of the traffic."""

    def __init__(self, url: str, rate_per_s: float) -> None:
        self._client = httpx.Client(
            base_url=url,
            timeout=TIMEOUT_S,
            trust_env=False,  # a proxy of the machine is not part of what is measured
            # an idle connection is closed here before a server does it under a request
            limits=httpx.Limits(max_connections=_WORKERS, max_keepalive_connections=_WORKERS, keepalive_expiry=2),
        )
        self._interval_s = 1 / rate_per_s
        self._run_id = uuid.uuid4().hex[:8]
        self._stopping = threading.Event()
        self._gate = WriteGate()
        self._lock = threading.Lock()
        self._due = time.monotonic()
        self._numbers = itertools.count()
        self._total = Tally(self._due)
        self._span = Tally(self._due)
        self._references: list[str] = []
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_WORKERS)]

    def run(self, commands: Iterator[str], answer: Callable[[str], None]) -> None:
        """Send traffic and obey `commands`, a JSON text each, until they end."""
        for thread in self._threads:
            thread.start()
        try:
            for command in commands:
                answer(json.dumps(self._obey(json.loads(command))))
        finally:
            self._stopping.set()  # requests in flight end with the process

    def _obey(self, command: str) -> object:
        if command == "pause_writes":
            self._gate.close()
        elif command == "resume_writes":
            self._gate.reopen()
        with self._lock:
            now = time.monotonic()
            if command == "mark":
                self._span = Tally(now)
            elif command == "references":
                return list(self._references)
            return asdict((self._span if command == "since_mark" else self._total).counts(now))

    def _work(self) -> None:
        while True:
            number, wait_s = self._next_turn()
            if self._stopping.wait(wait_s):
                return
            self._take_turn(number)

    def _next_turn(self) -> tuple[int, float]:
        with self._lock:
            now = time.monotonic()
            # after a standstill the rate goes on; what was not sent is not made up for in a burst
            self._due = max(self._due + self._interval_s, now - 1.0)
            return next(self._numbers), max(0.0, self._due - now)

    def _take_turn(self, number: int) -> None:
        kind = _MIX[number % len(_MIX)]
        # each kind meets every customer and product in turn: 20 + 7 shares no factor with the number of customers
        spread = number + number // len(_MIX) * 7
        customer_id = 1 + spread % _CUSTOMERS
        if kind != "order":
            self._read(kind, customer_id)
            return
        with self._gate.passing() as may_write:
            if may_write:
                self._order(number, customer_id, f"SKU-{1 + spread % _PRODUCTS:04d}")
        if not may_write:
            self._read("orders", customer_id)

    def _read(self, kind: str, customer_id: int) -> None:
        paths = {"home": "/", "orders": "/orders", "stock": "/api/stock"}
        self._send(self._client.build_request("GET", paths.get(kind, f"/orders?customer_id={customer_id}")))

    def _order(self, number: int, customer_id: int, sku: str) -> None:
        reference = f"traffic-{self._run_id}-{number}"
        body = {"sku": sku, "quantity": 1 + number % 3, "customer_id": customer_id, "reference": reference}
        self._send(self._client.build_request("POST", "/api/orders", json=body), reference)

    def _send(self, request: httpx.Request, reference: str | None = None) -> None:
        try:
            response = self._client.send(request)
        except httpx.TransportError:
            self._record(NO_ANSWER, succeeded=False, reference=None)
            return
        succeeded = not response.is_server_error
        acknowledged = reference if response.status_code == HTTPStatus.CREATED else None
        self._record(response.headers.get("x-app-version", "unknown"), succeeded=succeeded, reference=acknowledged)

    def _record(self, version: str, *, succeeded: bool, reference: str | None) -> None:
        with self._lock:
            now = time.monotonic()
            for tally in (self._total, self._span):
                tally.add(version, succeeded=succeeded, is_write=reference is not None, now=now)
            if reference is not None:
                self._references.append(reference)


class Traffic:
    """Traffic on `url` while the `with` block runs.

    Args:
        url: public URL of the application.
        rate_per_s: requests per second in total, a quarter of them orders.

    Example:
        with Traffic("http://127.0.0.1:8000") as traffic:
            traffic.mark()
            deploy()
            print(traffic.since_mark().failures)
    """

    def __init__(self, url: str, rate_per_s: float = 40) -> None:
        self._argv = [sys.executable, "-m", __name__, url, "--rate", str(rate_per_s)]
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],  # where the package is found, installed or not
            start_new_session=True,  # Ctrl-C is for the demo, which then ends the traffic
        )
        try:
            self.counts()  # the process is up once it answers
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def counts(self) -> Counts:
        """Return the totals since the start."""
        return Counts.from_json(self._ask("counts"))

    def mark(self) -> None:
        """Begin a new span for `since_mark`."""
        self._ask("mark")

    def since_mark(self) -> Counts:
        """Return what ended since the last mark (or the start); gaps are measured within that span."""
        return Counts.from_json(self._ask("since_mark"))

    def pause_writes(self) -> None:
        """Send no more orders; returns when none is in flight. Reads take their place."""
        self._ask("pause_writes")

    def resume_writes(self) -> None:
        """Send orders again."""
        self._ask("resume_writes")

    def acknowledged_references(self) -> list[str]:
        """Return `reference` of every order that was acknowledged: each must be in `orders`, or it was lost."""
        return self._ask("references")

    def _ask(self, command: str) -> Any:  # noqa: ANN401 - what the answer holds depends on the command
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the traffic is not running: use it in a with statement")
        with self._lock:
            try:
                process.stdin.write(json.dumps(command) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except BrokenPipeError:
                line = ""
        if not line:
            raise RuntimeError(f"the process of the traffic ended (exit code {process.poll()})")
        return json.loads(line)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:  # closes the pipes: the end of stdin is the word to stop
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                process.kill()


def main() -> None:
    """Run the process of the traffic."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=40, help="requests per second")
    options = parser.parse_args()
    LoadGenerator(options.url, options.rate).run(iter(sys.stdin.readline, ""), lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()

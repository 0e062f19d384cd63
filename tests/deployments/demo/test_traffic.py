from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.traffic import NO_ANSWER, Counts, Tally, Traffic

RATE_PER_S = 80


class Shop(ThreadingHTTPServer):
    """Answers everything at once, unless it is told to fail or to take its time over orders."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version = "v1"
        self.failing = False
        self.dropping = False
        self.order_s = 0.0
        self.orders_begun = 0
        self.orders_done = 0
        self.paths: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answer(200)

    def do_POST(self) -> None:
        shop = self._shop
        self.rfile.read(int(self.headers["content-length"]))
        shop.orders_begun += 1
        time.sleep(shop.order_s)
        self._answer(201)
        shop.orders_done += 1

    def log_message(self, format: str, *args: object) -> None:
        pass

    @property
    def _shop(self) -> Shop:
        assert isinstance(self.server, Shop)
        return self.server

    def _answer(self, status: int) -> None:
        shop = self._shop
        shop.paths.add(f"{self.command} {self.path.partition('?')[0]}")
        if shop.dropping:
            self.close_connection = True
            return
        self.send_response(500 if shop.failing else status)
        self.send_header("x-app-version", shop.version)
        self.send_header("content-length", "0")
        self.end_headers()


@pytest.fixture
def shop() -> Generator[Shop]:
    with Shop() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def traffic(shop: Shop) -> Generator[Traffic]:
    with Traffic(shop.url, RATE_PER_S) as running:
        yield running


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_a_mix_of_reads_and_writes_at_the_rate_asked_for(shop: Shop, traffic: Traffic) -> None:
    wait_until(lambda: traffic.counts().requests > 0, "no request")
    started = time.monotonic()
    traffic.mark()
    time.sleep(2)
    counts = traffic.since_mark()
    per_second = counts.requests / (time.monotonic() - started)
    assert RATE_PER_S * 0.7 < per_second < RATE_PER_S * 1.3
    assert counts.failures == 0
    assert counts.writes == pytest.approx(counts.requests / 4, abs=10)
    assert counts.by_version == {"v1": (counts.requests, 0)}
    assert shop.paths == {"GET /", "GET /orders", "GET /api/stock", "POST /api/orders"}


def test_failures_and_the_gap_are_counted_by_version(shop: Shop, traffic: Traffic) -> None:
    wait_until(lambda: traffic.counts().requests > 10, "no request")
    shop.version, shop.failing = "v2", True
    time.sleep(0.6)
    shop.version, shop.failing = "v1", False
    seen = traffic.counts().requests
    wait_until(lambda: traffic.counts().requests > seen + 20, "traffic stopped")
    counts = traffic.counts()
    requests, failures = counts.by_version["v2"]
    assert failures > 10
    assert requests >= failures
    assert counts.failures == failures + counts.by_version["v1"][1]
    assert counts.longest_gap_s >= 0.5
    traffic.mark()
    assert traffic.since_mark().longest_gap_s < 0.5, "the gap before the mark does not count"


def test_a_request_without_an_answer_is_a_failure(shop: Shop, traffic: Traffic) -> None:
    shop.dropping = True
    wait_until(lambda: traffic.counts().failures > 3, "no failure")
    requests, failures = traffic.counts().by_version[NO_ANSWER]
    assert requests == failures > 3


def test_pausing_waits_for_the_writes_in_flight(shop: Shop, traffic: Traffic) -> None:
    shop.order_s = 0.4
    wait_until(lambda: shop.orders_begun > shop.orders_done, "no order in flight")
    traffic.pause_writes()
    traffic.mark()
    begun = shop.orders_begun
    assert traffic.counts().writes == begun, "each order that was sent has its answer"
    assert len(set(traffic.acknowledged_references())) == begun
    time.sleep(0.5)
    paused = traffic.since_mark()
    assert shop.orders_begun == begun
    assert paused.writes == 0
    assert paused.requests > RATE_PER_S * 0.2, "reads go on"
    traffic.resume_writes()
    wait_until(lambda: shop.orders_begun > begun, "orders did not go on")


def test_the_process_ends_with_its_parent(shop: Shop) -> None:
    argv = [sys.executable, "-m", "deployments.demo.traffic", shop.url]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=20) == 0


def test_it_is_stopped_when_the_block_fails(shop: Shop) -> None:
    traffic = Traffic(shop.url)
    with pytest.raises(ZeroDivisionError), traffic:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="not running"):
        traffic.counts()
    time.sleep(0.2)
    shop.paths.clear()
    time.sleep(0.3)
    assert shop.paths == set()


def test_a_process_that_does_not_start_says_so() -> None:
    with pytest.raises(RuntimeError, match="ended"), Traffic("http://127.0.0.1:1", rate_per_s=0):
        pass


@given(st.lists(st.tuples(st.floats(0.001, 10), st.booleans(), st.booleans()), max_size=30))
def test_a_tally_agrees_with_counting_by_hand(ended: list[tuple[float, bool, bool]]) -> None:
    tally, now, successes = Tally(0.0), 0.0, [0.0]
    for wait_s, succeeded, is_write in ended:
        now += wait_s
        tally.add("v1", succeeded=succeeded, is_write=is_write, now=now)
        if succeeded:
            successes.append(now)
    failures = sum(not succeeded for _, succeeded, _ in ended)
    times = [*successes, now]
    assert tally.counts(now) == Counts(
        requests=len(ended),
        failures=failures,
        writes=sum(succeeded and is_write for _, succeeded, is_write in ended),
        longest_gap_s=max(after - before for before, after in itertools.pairwise(times)),
        by_version={"v1": (len(ended), failures)} if ended else {},
    )

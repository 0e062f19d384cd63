from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
import time
from collections.abc import Callable, Generator

import pytest

from runbook.clients.http_probe import Answer, probe

TIMEOUT_S = 0.5
# What a busy machine may add; without the limit each of these servers would hold a request for a minute and more.
pytestmark = pytest.mark.timeout(30)  # what the servers below do to a client lasts longer

Behave = Callable[[socket.socket, bytes], None]
Serve = Callable[[Behave], str]


@pytest.fixture
def serve() -> Generator[Serve]:
    """Start servers that answer each connection with bytes of the test's choice."""
    stop = threading.Event()
    listeners: list[socket.socket] = []

    def answer(connection: socket.socket, behave: Behave) -> None:
        with connection, contextlib.suppress(OSError):
            behave(connection, connection.recv(65536))

    def accept(listener: socket.socket, behave: Behave) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection, behave), daemon=True).start()

    def start(behave: Behave) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(0.1)
        listeners.append(listener)
        threading.Thread(target=accept, args=(listener, behave), daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    stop.set()
    for listener in listeners:
        listener.close()


def reply(text: str, status: str = "200 OK", headers: str = "") -> Behave:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()
    return lambda connection, _: connection.sendall(head + body)


def hang(_connection: socket.socket, _request: bytes) -> None:
    time.sleep(60)


def drip(head: bytes, piece: bytes) -> Behave:
    def behave(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head)
        for _second in range(600):
            time.sleep(0.1)
            connection.sendall(piece)

    return behave


def timed(url: str) -> Answer:
    return probe(url, timeout_s=TIMEOUT_S)


def test_a_good_answer_comes_back_whole(serve: Serve) -> None:
    url = serve(reply("größer", headers="X-Release-Sha: abc\r\n"))
    answer = probe(url)
    assert (answer.status, answer.text, answer.problem) == (200, "größer", "")
    assert answer.headers["x-release-sha"] == "abc"
    assert answer.elapsed_s > 0


def test_a_request_carries_its_method_and_body(serve: Serve) -> None:
    def echo(connection: socket.socket, request: bytes) -> None:
        while not request.endswith(b"}"):  # head and body may come one after the other
            request += connection.recv(65536)
        head, _, body = request.partition(b"\r\n\r\n")
        reply(json.dumps([head.split()[0].decode(), json.loads(body)]))(connection, request)

    answer = probe(serve(echo), method="POST", body={"sku": "A1"})
    assert json.loads(answer.text) == ["POST", {"sku": "A1"}]


@pytest.mark.parametrize("status", ["503 Service Unavailable", "404 Not Found"])
def test_an_error_is_an_answer(serve: Serve, status: str) -> None:
    answer = probe(serve(reply("sorry", status)))
    assert (answer.status, answer.text, answer.problem) == (int(status[:3]), "sorry", "")


def test_a_redirect_is_not_followed(serve: Serve) -> None:
    target = serve(reply("the login page"))
    answer = probe(serve(reply("", "302 Found", f"Location: {target}\r\n")))
    assert (answer.status, answer.text) == (302, "")


def test_nobody_listening_is_a_finding() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = timed(f"http://127.0.0.1:{port}")
    assert answer.status is None
    assert "refused" in answer.problem


@pytest.mark.parametrize(
    "behave",
    [
        pytest.param(hang, id="hangs"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nX-A: ", b"a"), id="drips its headers"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"a"), id="drips its body"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n\r\n", b"a"), id="drips a body without a length"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"), id="drips chunks"),
    ],
)
def test_a_server_that_takes_its_time_does_not_take_ours(serve: Serve, behave: Behave) -> None:
    answer = timed(serve(behave))
    assert answer.status is None
    assert answer.problem == "no whole answer within 0.5 s"
    assert answer.elapsed_s >= TIMEOUT_S


def test_an_endless_answer_is_not_read_to_its_end(serve: Serve) -> None:
    def flood(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _piece in itertools.count():
            connection.sendall(bytes(65536))

    answer = probe(serve(flood), timeout_s=30)
    assert (answer.status, answer.problem) == (None, "the answer is larger than 1048576 bytes")


@pytest.mark.parametrize(
    "sent", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]
)
def test_something_else_than_an_answer_is_a_finding(serve: Serve, sent: bytes) -> None:
    answer = timed(serve(lambda connection, _: connection.sendall(sent)))
    assert answer.status is None
    assert answer.problem


@pytest.mark.parametrize("url", ["http://", "ftp://127.0.0.1/", "http://127.0.0.1:99999/", "http://[::1", "no url"])
def test_a_url_that_is_none_is_a_finding(url: str) -> None:
    answer = timed(url)
    assert answer.status is None
    assert answer.problem


def test_a_proxy_of_the_environment_is_not_asked(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", serve(reply("the proxy")))
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert probe(serve(reply("the application"))).text == "the application"

from __future__ import annotations

import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.rules.checklist import Outcome
from runbook.stages.verification import check_redirect, check_transport, verify
from tests.fakes.application_host import MemoryHost
from tests.runbook.tls_proxy import make_certificate


class Site(ThreadingHTTPServer):
    target = ""


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        target = cast("Site", self.server).target
        self.send_response(308 if target else 200)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def serving(context: ssl.SSLContext | None = None, *, target: str = "") -> Generator[int]:
    with Site(("127.0.0.1", 0), Page) as server:
        server.target = target
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def encrypted(folder: Path, *, days: int) -> Generator[tuple[str, Path]]:
    certificate, key = make_certificate(folder, "localhost", days=days)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(context) as port:
        yield f"https://localhost:{port}", certificate


@pytest.mark.parametrize(
    ("days", "outcome", "said"),
    [(14, Outcome.PASSED, "(14 days)"), (13, Outcome.WARNING, "(13 days)")],
)
def test_a_certificate_that_ends_within_two_weeks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int, outcome: Outcome, said: str
) -> None:
    with encrypted(tmp_path, days=days) as (url, certificate):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        tls, _ = check_transport(url)
    assert (tls.outcome, tls.detail.endswith(said)) == (outcome, True), tls.detail
    assert "TLSv1.3" in tls.detail


def test_a_certificate_that_nobody_trusts_fails(tmp_path: Path) -> None:
    with encrypted(tmp_path, days=90) as (url, _):
        tls, _ = check_transport(url)
    assert tls.outcome is Outcome.FAILED
    assert "self-signed certificate" in tls.detail


def test_a_certificate_of_another_name_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with encrypted(tmp_path, days=90) as (url, certificate):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        tls, _ = check_transport(url.replace("localhost", "127.0.0.1"))
    assert tls.outcome is Outcome.FAILED


def test_nobody_there_could_not_be_looked_at() -> None:
    tls, redirect = check_transport("https://127.0.0.1:1")
    assert (tls.outcome, redirect.name) == (Outcome.COULD_NOT_RUN, "redirect to https")


def test_plain_http_is_an_error_unless_it_is_this_machine() -> None:
    [tls] = check_transport("http://shop.example")
    assert (tls.outcome, tls.detail) == (Outcome.FAILED, "http://shop.example is not encrypted")
    assert check_transport("http://127.0.0.1:8000") == ()


@pytest.mark.parametrize(
    ("target", "outcome"),
    [("https://shop.example/", Outcome.PASSED), ("http://shop.example/", Outcome.WARNING), ("", Outcome.WARNING)],
)
def test_plain_http_has_to_lead_to_https(target: str, outcome: Outcome) -> None:
    with serving(target=target) as port:
        found = check_redirect(f"http://127.0.0.1:{port}/")
    assert found.outcome is outcome, found.detail


def test_nothing_can_be_verified_while_nothing_has_the_traffic(connections: Connections) -> None:
    with pytest.raises(RefusedError, match="no release has the traffic"):
        verify(replace(connections, host=MemoryHost()))


def test_a_release_without_smoke_tests_is_unproven(connections: Connections) -> None:
    checks = {check.name: check.outcome for check in verify(connections)}
    assert checks["smoke tests"] is Outcome.COULD_NOT_RUN
    assert checks["served version"] is Outcome.FAILED, "nobody answers at the address of a host in memory"

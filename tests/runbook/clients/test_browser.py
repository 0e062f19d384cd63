from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from pydantic import SecretStr

from runbook.clients.browser import look_at_pages
from runbook.errors import RefusedError
from runbook.rules.checklist import Outcome
from runbook.rules.smoke import SmokeTest
from runbook.stages.health import run_smoke_tests
from tests.runbook.browsers import needs_browser

PAGES = {
    "/plain": "<h1>Your cart</h1>",
    "/by-script": "<p id=p></p><script>setTimeout(() => p.textContent = 'Your cart', 50)</script>",
    "/hidden": "<p style='display:none'>Your cart</p>",
    "/twice": "<p style='display:none'>Your cart</p><p>Your cart</p>",
    "/in-source-only": "<script>const text = 'Your cart'</script>",
    "/script-fails": "<p>Your cart</p><script>undefinedFunction()</script>",
    "/third-party": "<p>Your cart</p><img src='{other}/pixel.gif'>",
    "/huge": "<p>Your cart</p>" + "<i>x</i>" * 20_000,
}


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Site)
        server.headers_seen.append((self.path, self.headers.get("x-bypass")))
        if self.path == "/hangs":
            server.released.wait(30)
        body = PAGES.get(self.path, "").replace("{other}", server.other).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, other: str) -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.other = other
        self.headers_seen: list[tuple[str, str | None]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def served(other: str = "") -> Generator[Site]:
    with Site(other) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            site.released.set()
            site.shutdown()
            thread.join()


def page(path: str) -> SmokeTest:
    return SmokeTest(name=path, path=path, visible="Your cart")


@needs_browser
def test_a_page_is_right_when_a_person_sees_the_text_and_no_script_fails() -> None:
    unseen = ["/hidden", "/in-source-only"]
    with served() as site:
        shown = [path for path in PAGES if path not in unseen]
        found = dict(zip(shown, look_at_pages(site.url, [page(path) for path in shown]), strict=True))
        missed = look_at_pages(site.url, [page(path) for path in unseen], timeout_s=1)
    assert missed == ["nobody sees 'Your cart' within 1 s"] * 2
    assert found == {**dict.fromkeys(shown), "/script-fails": "undefinedFunction is not defined"}


@needs_browser
def test_a_page_that_hangs_or_refuses_is_a_finding_in_time() -> None:
    with served() as site:
        [hangs] = look_at_pages(site.url, [page("/hangs")], timeout_s=1)
    assert hangs is not None
    assert "Timeout 1000ms exceeded" in hangs
    [refused] = look_at_pages(site.url, [page("/plain")], timeout_s=2)
    assert refused is not None
    assert "ERR_CONNECTION_REFUSED" in refused


@needs_browser
def test_what_opens_a_protected_application_is_sent_to_nobody_else() -> None:
    with served() as other, served(other.url) as site:
        assert look_at_pages(site.url, [page("/third-party")], {"x-bypass": SecretStr("s3cret")}) == [None]
        assert ("/third-party", "s3cret") in site.headers_seen
        assert other.headers_seen == [("/pixel.gif", None)]


@needs_browser
def test_a_smoke_test_that_says_what_is_visible_is_answered_twice() -> None:
    with served() as site:
        checks = run_smoke_tests(
            site.url, (page("/plain"), page("/script-fails"), SmokeTest(name="api", path="/plain"))
        )
    assert [(check.name, check.outcome) for check in checks] == [
        ("smoke: /plain", Outcome.PASSED),
        ("smoke: /script-fails", Outcome.PASSED),
        ("smoke: api", Outcome.PASSED),
        ("in a browser: /plain", Outcome.PASSED),
        ("in a browser: /script-fails", Outcome.FAILED),
    ]


def test_without_a_browser_a_page_could_not_be_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with served() as site:
        _, seen = run_smoke_tests(site.url, (page("/plain"),))
    assert seen.outcome is Outcome.COULD_NOT_RUN
    assert "none of chromium" in seen.detail


def test_a_browser_that_does_not_start_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(RefusedError, match="chromium does not start"):
        look_at_pages("http://127.0.0.1:1", [page("/")])

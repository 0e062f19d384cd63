from __future__ import annotations

import json
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from runbook.errors import InvalidInputError

SMOKE = """
[[request]]
name = "home"
path = "/"
contains = "Shop"

[[request]]
name = "gone"
path = "/gone"
status = 404
"""


class Shop(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = b"<h1>Shop</h1>" if self.path == "/" else b"no"
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture(scope="module")
def url() -> Generator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def smoke(tmp_path: Path) -> Path:
    path = tmp_path / "smoke.toml"
    path.write_text(SMOKE)
    return path


def test_smoke_tests_are_sent_anywhere_and_the_exit_code_says_how_they_ended(url: str, smoke: Path) -> None:
    passed = CliRunner().invoke(cli, ["test:smoke", f"--url={url}/", f"--file={smoke}"])
    assert passed.exit_code == 0, passed.output
    assert "smoke: home" in passed.output
    smoke.write_text(SMOKE.replace("Shop", "Bank"))
    failed = CliRunner().invoke(cli, ["test:smoke", f"--url={url}", f"--file={smoke}", "--json"])
    assert failed.exit_code == 7
    assert [check["outcome"] for check in json.loads(failed.output)] == ["failed", "passed"]


def test_a_url_without_its_scheme_is_refused(smoke: Path) -> None:
    refused = CliRunner().invoke(cli, ["test:smoke", "--url=shop.example", f"--file={smoke}"])
    assert isinstance(refused.exception, InvalidInputError)


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    wrong = CliRunner().invoke(cli, ["test:smoke", "--url=http://127.0.0.1:1", f"--file={tmp_path / 'gone.toml'}"])
    assert wrong.exit_code == 2

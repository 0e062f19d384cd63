"""Releases that are really asked over HTTP, on a database that is not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.application_host import ApplicationHost
from runbook.clients.backup_store import BackupStore
from runbook.clients.folder_store import FolderStore
from runbook.clients.git import Repository
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RejectedError, StageError
from runbook.rules.smoke import SmokeTest, parse_smoke_tests
from runbook.settings import Settings
from runbook.stages.database_probe import unnoticed_loss
from tests.fakes.application_host import MemoryHost

SHOWS_DATA = parse_smoke_tests('[[request]]\nname = "stock"\npath = "/stock"\njson = { listed = 3 }\n', "smoke.toml")
SHOWS_NOTHING = parse_smoke_tests('[[request]]\nname = "page"\npath = "/"\n', "smoke.toml")


@dataclass
class TrialHost(MemoryHost):
    """A host that starts a release whose answers, by path, the test makes up; everything else is 200 and `ok`."""

    answers: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])
    refusal: Exception | None = None
    databases: list[str] = field(default_factory=list[str])

    @contextmanager
    def trial(self, release_id: str, database_url: str) -> Generator[str]:
        self.databases.append(database_url)
        if self.refusal:
            raise self.refusal
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, text = answers.get(self.path, (200, "ok"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


def lost(tmp_path: Path, host: TrialHost, tests: tuple[SmokeTest, ...] = ()) -> str | None:
    release = host.promote(host.stage("a" * 40, "v1").release_id)
    settings = Settings(name="test", repository="", records=str(tmp_path), database="shop")
    store, database = BackupStore(FolderStore(tmp_path)), Database("postgresql://nowhere/shop")
    connections = Connections(
        settings, Repository(tmp_path), database, cast("ApplicationHost", host), store, channels=()
    )
    return unnoticed_loss(connections, release, tests)


@pytest.mark.parametrize("tests", [(), SHOWS_NOTHING])
def test_health_endpoints_that_stay_200_without_a_database_are_found_out(
    tmp_path: Path, tests: tuple[SmokeTest, ...]
) -> None:
    host = TrialHost()
    found = lost(tmp_path, host, tests)
    assert found is not None
    assert "nothing that is asked touches it" in found
    assert host.databases == ["postgresql://nobody@127.0.0.1:1/gone"], "never the live one"


def test_one_endpoint_that_fails_without_a_database_is_enough(tmp_path: Path) -> None:
    assert lost(tmp_path, TrialHost(answers={"/api/health/database": (503, "gone")})) is None


@pytest.mark.parametrize("page", ["<html>Sorry</html>", json.dumps({"listed": 0})])
def test_a_smoke_test_that_looks_at_data_finds_a_page_that_lies(tmp_path: Path, page: str) -> None:
    assert lost(tmp_path, TrialHost(answers={"/stock": (200, page)}), SHOWS_DATA) is None


def test_a_release_that_does_not_start_without_a_database_is_noticed(tmp_path: Path) -> None:
    assert lost(tmp_path, TrialHost(refusal=StageError("it ended at once"))) is None


def test_where_nothing_can_be_tried_a_smoke_test_has_to_look_at_what_comes_back(tmp_path: Path) -> None:
    host = TrialHost(refusal=RejectedError("this host cannot"))
    assert lost(tmp_path, host, SHOWS_DATA) is None
    assert "let a smoke test look at what comes back" in str(lost(tmp_path, host, SHOWS_NOTHING))

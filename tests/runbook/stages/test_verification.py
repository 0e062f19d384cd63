from __future__ import annotations

import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from runbook.clients.fingerprint import fingerprint
from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.reports import (
    DeployReport,
    FinalState,
    Rehearsal,
    RollbackReport,
    RollbackScope,
    UndoEvidence,
    UndoOutcome,
)
from runbook.rules.checklist import Outcome
from runbook.stages.verification import check_redirect, check_schema_as_rehearsed, check_transport, verify
from tests.fakes.application_host import MemoryHost
from tests.runbook.helpers import execute
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


def rehearsed(connections: Connections, schema: str, *, minutes: float = 0) -> None:
    """Keep the report of a deploy whose rehearsal ended with a schema."""
    rehearsal = Rehearsal(
        backup_id="backup_20250104_120000",
        restore_s=1,
        migrations=("0001_shop",),
        duration_s=1,
        wal_bytes=0,
        statements=(),
        blocked=(),
        call_rates="none",
        schema_sha256_pre=schema,
        schema_sha256_post=None,
        undo=UndoEvidence(outcome=UndoOutcome.MISSING, detail="none"),
        compatible=None,
        compatible_at_end=None,
        compatibility=(),
    )
    connections.store.write_deploy(
        DeployReport(
            environment="test",
            timestamp=datetime.now(UTC) + timedelta(minutes=minutes),
            git_ref="main",
            git_sha="a" * 40,
            version="v1",
            migrations=("0001_shop",),
            rehearsal=rehearsal,
            reason="why",
            triggered_by="ci",
            duration=1,
            success=True,
            state=FinalState.VERIFIED,
            steps=(),
        )
    )


def schema_now(connections: Connections) -> str:
    table = connections.settings.migrations.history_table
    return fingerprint(connections.database, table, tables=()).schema_sha256


def test_a_schema_that_somebody_changed_since_its_rehearsal_is_found(connections: Connections) -> None:
    assert check_schema_as_rehearsed(connections).detail == "nothing was rehearsed yet"
    execute(connections.database.url, "CREATE TABLE shop (id int)")
    rehearsed(connections, schema_now(connections))
    assert check_schema_as_rehearsed(connections).outcome is Outcome.PASSED
    execute(connections.database.url, "ALTER TABLE shop ADD COLUMN by_hand int")
    check = check_schema_as_rehearsed(connections)
    assert (check.outcome, "differs from that of the rehearsal" in check.detail) == (Outcome.WARNING, True)
    assert "schema as rehearsed" in {one.name for one in verify(connections)}


def test_after_the_database_was_rolled_back_the_rehearsal_says_nothing_any_more(connections: Connections) -> None:
    rehearsed(connections, "another", minutes=-5)
    connections.store.write_rollback(
        RollbackReport(
            environment="test",
            timestamp=datetime.now(UTC),
            scope=RollbackScope.FULL,
            reason="bad",
            triggered_by="Ada",
            kept_database="shop_kept",
            duration=1,
            success=True,
            state=FinalState.VERIFIED,
            steps=(),
        )
    )
    assert check_schema_as_rehearsed(connections).detail == "nothing was rehearsed yet"


def test_a_database_that_does_not_answer_could_not_be_compared(connections: Connections) -> None:
    rehearsed(connections, "x")
    gone = replace(connections, database=Database("postgresql://127.0.0.1:1/shop"))
    assert check_schema_as_rehearsed(gone).outcome is Outcome.COULD_NOT_RUN

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runbook.clients.site_target import FolderSite, S3Site
from runbook.connections import Connections
from runbook.errors import RefusedError, RejectedError
from runbook.rules.samples import sample
from runbook.rules.thresholds import Severity
from runbook.stages.incidents import Opening, open_or_join, publish
from runbook.stages.monitoring import history_of
from runbook.stages.status_site import public_status, write_status_site
from tests.runbook.surroundings import surrounded

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytest_plugins = ["tests.runbook.s3_server"]


@pytest.fixture
def connections(tmp_path: Path) -> Connections:
    return replace(surrounded(tmp_path / "records"), status_site=FolderSite(tmp_path / "site"))


def measured(connections: Connections, at: datetime, *, up: bool = True) -> None:
    samples = [sample(at, "requests", 10), sample(at, "error_rate_pct", 0)]
    history_of(connections).add([*samples, *([sample(at, "database_connections", 3)] if up else [])])


def test_the_page_is_written_with_what_was_published(connections: Connections, tmp_path: Path) -> None:
    measured(connections, datetime.now(UTC) - timedelta(minutes=1))
    incident = open_or_join(connections, Opening("db-7 is out of disk", Severity.SEV2, "Ada"))
    write_status_site(connections)
    page = tmp_path / "site" / "index.html"
    assert "All systems operational" in page.read_text()
    publish(connections, incident.id, text="Payments fail for some.", by="Ada")
    assert write_status_site(connections) == str(tmp_path / "site")
    assert "Payments fail for some." in page.read_text()
    assert "Partial outage" in page.read_text()
    assert "db-7" not in page.read_text()
    assert {path.name for path in page.parent.iterdir()} == {"index.html", "summary.json", "history.atom"}
    assert page.stat().st_mode & 0o777 == 0o644, "a web server has to read it"


def test_the_uptime_of_a_day_is_kept_when_its_samples_are_gone(connections: Connections) -> None:
    now = datetime.now(UTC)
    measured(connections, now - timedelta(minutes=1))
    measured(connections, now, up=False)
    first = public_status(connections).uptime[-1].uptime_pct
    for about in list(connections.store.objects.objects("")):
        if "status/" not in about.key:
            connections.store.objects.delete([about.key])
    again = public_status(connections)
    assert again.uptime[-1].uptime_pct == first
    assert {state for _, state in again.components} == {"unknown"}, "nothing was measured lately"


def test_a_file_of_uptime_that_cannot_be_read_is_begun_anew(connections: Connections) -> None:
    connections.store.objects.replace("status/production/uptime.json", b"[]")
    assert public_status(connections).uptime[-1].uptime_pct is None


def test_without_a_place_it_is_refused(connections: Connections) -> None:
    with pytest.raises(RefusedError, match="runbook-status-site"):
        write_status_site(replace(connections, status_site=None))


def test_a_folder_that_cannot_be_written_is_named(connections: Connections, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RejectedError, match="the status page cannot be written to"):
        write_status_site(connections, FolderSite(tmp_path / "file"))


def test_in_a_bucket_each_file_has_its_kind(connections: Connections, s3_direct: S3Client) -> None:
    client = s3_direct
    client.create_bucket(Bucket="status-pages")
    assert write_status_site(connections, S3Site(client, "status-pages", "shop")) == "s3://status-pages/shop"
    kinds = {
        name: client.head_object(Bucket="status-pages", Key=f"shop/{name}")["ContentType"]
        for name in ("index.html", "summary.json", "history.atom")
    }
    assert kinds == {
        "index.html": "text/html; charset=utf-8",
        "summary.json": "application/json",
        "history.atom": "application/atom+xml",
    }
    summary = client.get_object(Bucket="status-pages", Key="shop/summary.json")
    assert json.loads(summary["Body"].read())["page"]["name"] == "MantisNXT"
    assert summary["CacheControl"] == "max-age=30"
    with pytest.raises(RejectedError, match="no-such-bucket"):
        write_status_site(connections, S3Site(client, "no-such-bucket"))

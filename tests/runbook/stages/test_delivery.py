from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.cli import cli
from runbook.clients.git import Repository
from runbook.connections import Connections
from runbook.reports import DeployReport, FinalState
from runbook.stages.delivery import report_delivery
from tests.runbook.helpers import commit, git
from tests.runbook.surroundings import surrounded


@pytest.fixture
def connections(tmp_path: Path) -> Connections:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch=main")
    return replace(surrounded(tmp_path / "records"), repository=Repository(repository))


def deployed(connections: Connections, sha: str, previous: str | None) -> None:
    connections.store.write_deploy(
        DeployReport(
            environment="production",
            timestamp=datetime.now(UTC) + timedelta(hours=-1),
            git_ref="main",
            git_sha=sha,
            version="v1",
            previous_git_sha=previous,
            reason="why",
            triggered_by="ci",
            duration=7200,
            success=True,
            state=FinalState.VERIFIED,
            steps=(),
        )
    )


def test_the_lead_time_is_that_of_every_commit_since_the_release_before(connections: Connections) -> None:
    path = connections.repository.path
    first = commit(path, {"a": "1"})
    commit(path, {"a": "2"})
    last = commit(path, {"a": "3"})
    assert len(connections.repository.commit_times(first, last)) == 2
    assert len(connections.repository.commit_times(None, last)) == 1
    deployed(connections, last, first)
    found = report_delivery(connections, timedelta(days=1))
    assert found.deploys == 1
    assert found.lead_time_s is not None


def test_a_commit_that_is_gone_leaves_only_the_lead_time_unknown(connections: Connections) -> None:
    deployed(connections, "d" * 40, None)
    found = report_delivery(connections, timedelta(days=1))
    assert (found.deploys, found.lead_time_s) == (1, None)


def test_the_report_is_printed_written_as_json_and_drawn(
    connections: Connections, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_environment: str) -> Connections:
        return connections

    monkeypatch.setattr("deployments.report_command.connect", connect)
    deployed(connections, "d" * 40, None)
    shown = CliRunner().invoke(cli, ["report", f"--plot={tmp_path / 'plot.svg'}"], catch_exceptions=False)
    assert "0.25 per week (1 deploys)" in shown.output
    assert (tmp_path / "plot.svg").read_text().startswith("<?xml")
    as_json = CliRunner().invoke(cli, ["report", "--last=7d", "--json"], catch_exceptions=False)
    assert json.loads(as_json.output)["deploys_per_week"] == 1

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deployments.cli import cli
from runbook.clients.channels import LogChannel
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.rules.incidents import EventKind, Incident, IncidentPhase
from runbook.stages.incidents import records_of
from tests.runbook.surroundings import surrounded


@pytest.fixture
def connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Connections:
    found = surrounded(tmp_path, LogChannel(tmp_path / "log"))

    def connect(_environment: str) -> Connections:
        return found

    monkeypatch.setattr("deployments.incident_commands.connect", connect)
    return found


def runbook(*arguments: str) -> str:
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def only(connections: Connections) -> Incident:
    [incident] = records_of(connections).incidents()
    return incident


def test_an_incident_from_its_begin_to_its_post_mortem(connections: Connections, tmp_path: Path) -> None:
    shown = runbook("incident:open", "--title=orders fail", "--severity=SEV2", "--began=10m", "--impact=nobody can pay")
    assert "Severity: SEV2\nStatus: Investigating" in shown
    assert "Impact: nobody can pay" in shown
    opened = only(connections)
    assert timedelta(minutes=9) < datetime.now(UTC) - opened.began_at < timedelta(minutes=11)
    runbook("incident:ack", "--note=looking")
    runbook("incident:note", "--text=locks on orders")
    shown = runbook(
        "incident:update", opened.id, "--status=Mitigating", "--severity=SEV1", "--action=rolled back to v6",
        "--current=v6 runs", "--next-steps=watch; tell support", "--eta=04:00", "--cause=a lock", "--lesson=late alert",
    )  # fmt: skip
    for line in ("Severity: SEV1", "Status: Mitigating", "- rolled back to v6", "- tell support", "ETA: 04:00"):
        assert line in shown
    runbook("incident:action-item", "--text=rehearse under load", "--owner=Ben", "--due=7d")
    assert "postmortem_" in runbook("incident:resolve", "--note=errors are at 0.1 %")
    assert not only(connections).is_open
    runbook("incident:action-item", opened.id, "--done=a1")
    runbook("incident:post-mortem", "--done")
    assert only(connections).ended(IncidentPhase.POST_MORTEM) is not None
    text = runbook("incident:show", opened.id, "--format=post-mortem")
    assert "- [x] rehearse under load (owner Ben" in text
    assert "a lock" in text
    lines = runbook("incident:show", opened.id, "--format=timeline").splitlines()
    assert [line for line in lines if "locks on orders" in line]
    assert "The problem with our application is over." in runbook("incident:show", opened.id, "--format=public")
    assert runbook("incident:show", opened.id, "--format=markdown").startswith("# SEV1 on production: orders fail")
    events = json.loads(runbook("incident:show", opened.id, "--format=json"))["events"]
    assert events[0]["kind"] == "opened"
    assert opened.id in runbook("incident:show"), "without an open one they are listed"


def test_a_note_is_in_the_timeline_and_tells_nobody(connections: Connections, tmp_path: Path) -> None:
    runbook("incident:open", "--title=x", "--severity=SEV4")
    told = (tmp_path / "log").read_text()
    runbook("incident:note", "--text=only for the record")
    assert (tmp_path / "log").read_text() == told
    assert only(connections).texts(EventKind.NOTE) == ["only for the record"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["incident:note", "--text=x"], "open are: none"),
        (["incident:open", "--title= ", "--severity=SEV1"], "title"),
        (["incident:open", "--title=x", "--severity=SEV1", "--began=tomorrow"], "time"),
        (["incident:open", "--title=x", "--severity=SEV1", "--began=2999-01-01"], "began"),
        (["incident:ack", "inc_20250104_120000_000000"], "newest: none"),
        (["incident:ack", "../../x"], "an id such as"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_is_written(
    connections: Connections, arguments: list[str], said: str
) -> None:
    result = refused(*arguments)
    assert isinstance(result.exception, InvalidInputError)
    assert said in str(result.exception)
    assert records_of(connections).incidents() == []


def test_with_two_open_incidents_one_has_to_be_named(connections: Connections) -> None:
    for title in ("one", "two"):
        runbook("incident:open", f"--title={title}", "--severity=SEV4")
    assert "inc_" in str(refused("incident:ack").exception)
    assert runbook("incident:show").count("inc_") == 2


@pytest.mark.parametrize(
    "arguments",
    [["incident:update"], ["incident:action-item"], ["incident:action-item", "--text=x"], ["incident:resolve"]],
)
def test_wrong_usage_ends_with_2(connections: Connections, arguments: list[str]) -> None:
    runbook("incident:open", "--title=x", "--severity=SEV4")
    assert refused(*arguments).exit_code == 2


def test_users_are_told_only_after_somebody_agreed(connections: Connections) -> None:
    runbook("incident:open", "--title=x", "--severity=SEV4")
    asked = CliRunner().invoke(cli, ["incident:publish"], input="n\n")
    assert asked.exit_code == 1
    assert "We are looking into a problem with our application." in asked.output
    assert only(connections).texts(EventKind.PUBLISHED) == []

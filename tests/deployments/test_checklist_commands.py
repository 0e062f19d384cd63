from __future__ import annotations

import getpass

import pytest

from deployments.checklist_commands import attest
from runbook.clients.attestations import AttestationRecords
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.rules.manual_items import ManualItem


@pytest.fixture(autouse=True)
def connected(monkeypatch: pytest.MonkeyPatch, connections: Connections) -> None:
    def connect(_environment: str) -> Connections:
        return connections

    monkeypatch.setattr("deployments.checklist_commands.connect", connect)


def kept(connections: Connections) -> dict[ManualItem, str]:
    records = AttestationRecords(connections.store.objects, connections.settings.name)
    return {one.item: f"{one.by}: {one.note}" for one in records.of(connections.repository.resolve("main"))}


def test_what_is_attested_is_kept_in_the_name_of_who_is_logged_in(
    connections: Connections, capsys: pytest.CaptureFixture[str]
) -> None:
    attest("test", "main", ["security=npm audit: 0 high", "stakeholders=mailed at 9=00"])
    by = getpass.getuser()
    assert kept(connections) == {
        ManualItem.SECURITY: f"{by}: npm audit: 0 high",
        ManualItem.STAKEHOLDERS: f"{by}: mailed at 9=00",
    }
    assert f"Security audit passed: attested by {by} until " in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["security", "security= ", "lunch=eaten", ""])
def test_when_one_is_not_acceptable_none_is_kept(connections: Connections, wrong: str) -> None:
    with pytest.raises(InvalidInputError, match="--attest"):
        attest("test", "main", ["stakeholders=mailed", wrong])
    assert kept(connections) == {}

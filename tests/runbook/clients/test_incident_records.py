from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runbook.clients.folder_store import FolderStore
from runbook.clients.incident_records import IncidentRecords
from runbook.errors import InvalidInputError, RejectedError
from runbook.rules.incidents import EventKind, IncidentEvent
from runbook.rules.thresholds import Severity


def event(text: str, kind: EventKind = EventKind.NOTE) -> IncidentEvent:
    return IncidentEvent(at=datetime.now(UTC), by="Ada", kind=kind, text=text, severity=Severity.SEV2)


@pytest.fixture
def records(tmp_path: Path) -> IncidentRecords:
    return IncidentRecords(FolderStore(tmp_path), "production")


def test_an_incident_is_its_events_in_order(records: IncidentRecords) -> None:
    opened = records.open(event("down", EventKind.OPENED))
    for number in range(5):
        records.add(opened.id, event(f"{number}"))
    found = records.incident(opened.id)
    assert (found.title, found.texts(EventKind.NOTE)) == ("down", ["0", "1", "2", "3", "4"])
    assert [one.id for one in records.incidents()] == [opened.id]


def test_people_who_write_at_the_same_time_lose_nothing(records: IncidentRecords) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = {one.id for one in pool.map(records.open, [event(f"{n}", EventKind.OPENED) for n in range(8)])}
        first = min(ids)
        list(pool.map(records.add, [first] * 30, [event(f"{number}") for number in range(30)]))
    assert len(ids) == 8
    assert set(records.incident(first).texts(EventKind.NOTE)) == {f"{number}" for number in range(30)}


@pytest.mark.parametrize("wrong", ["", "../x", "inc_1", "inc_20260301_030500_00000/"])
def test_an_id_that_cannot_be_one_is_refused(records: IncidentRecords, wrong: str) -> None:
    with pytest.raises(InvalidInputError, match="incident"):
        records.incident(wrong)


def test_an_incident_that_is_not_there_is_named_and_nothing_is_written(
    records: IncidentRecords, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInputError, match="inc_20260301_030500_000000"):
        records.add("inc_20260301_030500_000000", event("x"))
    assert not [path for path in tmp_path.rglob("*.json") if "incidents" in str(path)]


def test_an_event_that_cannot_be_read_is_named(records: IncidentRecords, tmp_path: Path) -> None:
    opened = records.open(event("down", EventKind.OPENED))
    [path] = [path for path in tmp_path.rglob("begun.json")]
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(RejectedError, match=f"incidents/production/{opened.id}/begun.json"):
        records.incidents()

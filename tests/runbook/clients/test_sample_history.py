from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbook.clients.folder_store import FolderStore
from runbook.clients.sample_history import SampleHistory
from runbook.errors import InvalidInputError
from runbook.rules.samples import Sample, sample

NOON = datetime(2025, 1, 4, 12, tzinfo=UTC)


@pytest.fixture
def history(tmp_path: Path) -> SampleHistory:
    return SampleHistory(FolderStore(tmp_path), "test", keep_days=2)


def sampling(at: datetime, errors: float) -> list[Sample]:
    return [sample(at, "errors", errors), sample(at, "requests", 100)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "monitoring" / "test").iterdir())


def test_what_was_added_is_read_oldest_first(history: SampleHistory) -> None:
    assert history.last() == {}
    for minute in (59, 61, 60):
        history.add(sampling(NOON + timedelta(minutes=minute), minute))
    found = history.read(since=NOON + timedelta(minutes=60), until=NOON + timedelta(minutes=61))
    assert [(one.at.minute, one.value) for one in found if one.metric == "errors"] == [(0, 60), (1, 61)]
    assert {name: one.value for name, one in history.last().items()} == {"errors": 61, "requests": 100}


def test_only_the_hours_asked_for_are_read(history: SampleHistory, tmp_path: Path) -> None:
    history.add(sampling(NOON, 1))
    history.add(sampling(NOON + timedelta(hours=5), 2))
    (tmp_path / "monitoring" / "test" / "20250104_17.jsonl").write_bytes(b"must not be read")
    found = history.read(since=NOON, until=NOON + timedelta(days=1), hours=lambda hour: hour == 12)
    assert [one.value for one in found if one.metric == "errors"] == [1]


def test_an_environment_sees_its_own_samples_alone(history: SampleHistory, tmp_path: Path) -> None:
    history.add(sampling(NOON, 1))
    assert SampleHistory(FolderStore(tmp_path), "other", keep_days=2).last() == {}
    with pytest.raises(InvalidInputError):
        SampleHistory(FolderStore(tmp_path), "../test", keep_days=2)


def test_what_is_older_than_the_days_kept_goes_when_an_hour_begins(history: SampleHistory, tmp_path: Path) -> None:
    for hours in (0, 1, 2):
        history.add(sampling(NOON + timedelta(hours=hours), 1))
    history.add(sampling(NOON + timedelta(days=2, hours=1), 1))
    assert files(tmp_path) == ["20250104_13.jsonl", "20250104_14.jsonl", "20250106_13.jsonl"]


def test_a_line_that_was_cut_loses_no_other(
    history: SampleHistory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history.add(sampling(NOON, 1))
    path = tmp_path / "monitoring" / "test" / "20250104_12.jsonl"
    path.write_text(
        path.read_text() + '{"at":"2025-01-04T12:01:00+00:00","values":{"errors":\n7\n{"at":3}\n{"at":"2025'
    )
    history.add(sampling(NOON + timedelta(minutes=2), 3))
    found = history.read(since=NOON, until=NOON + timedelta(hours=1))
    assert [one.value for one in found if one.metric == "errors"] == [1, 3]
    assert "20250104_12.jsonl:2" in caplog.text


def test_a_metric_of_another_version_is_left_out(history: SampleHistory, tmp_path: Path) -> None:
    history.add(sampling(NOON, 1))
    path = tmp_path / "monitoring" / "test" / "20250104_12.jsonl"
    path.write_text(path.read_text().replace('"errors"', '"mistakes"'))
    assert list(history.last()) == ["requests"]


def test_the_file_is_its_owners_alone_and_a_minute_of_it_is_short(history: SampleHistory, tmp_path: Path) -> None:
    history.add(sampling(NOON, 1))
    path = tmp_path / "monitoring" / "test" / "20250104_12.jsonl"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text() == '{"at":"2025-01-04T12:00:00+00:00","values":{"errors":1.0,"requests":100.0}}\n'

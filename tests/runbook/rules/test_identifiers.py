from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.identifiers import (
    backup_taken_at,
    check_backup_id,
    check_environment_name,
    check_git_ref,
    check_identifier,
    new_backup_id,
)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(datetime(2025, 1, 4, 12, tzinfo=UTC), "backup_20250104_120000", id="the runbook's example"),
        pytest.param(
            datetime(2025, 1, 4, 23, 30, tzinfo=timezone(timedelta(hours=-2))),
            "backup_20250105_013000",
            id="another time zone is turned into UTC, over midnight",
        ),
        pytest.param(datetime(2025, 1, 4, 12, 0, 0, 999_999, UTC), "backup_20250104_120000", id="fractions are cut"),
        pytest.param(datetime(2, 1, 1, tzinfo=UTC), "backup_00020101_000000", id="the year has four digits"),
    ],
)
def test_backup_id_is_the_utc_time(now: datetime, expected: str) -> None:
    assert new_backup_id(now) == expected


def test_backup_id_of_a_naive_time_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        new_backup_id(datetime(2025, 1, 4, 12))  # noqa: DTZ001 - the point of the test


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.timezones()))  # noqa: DTZ001 - bounds
def test_backup_id_and_time_are_inverse(now: datetime) -> None:
    assert backup_taken_at(check_backup_id(new_backup_id(now))) == now.astimezone(UTC).replace(microsecond=0)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("backup_20250104_120000\n", id="newline at the end"),
        pytest.param("backup_20250104_120000\0", id="NUL"),
        pytest.param("../backup_20250104_120000", id="path traversal before"),
        pytest.param("backup_20250104_120000/..", id="path traversal after"),
        pytest.param("backup_2025010٤_120000", id="unicode digit"),
        pytest.param("BACKUP_20250104_120000", id="upper case"),
        pytest.param("backup_20250104_1200000", id="a digit too many"),
        pytest.param("backup_20250104_12000", id="a digit too few"),
        pytest.param("backup_20250229_120000", id="not a leap year"),
        pytest.param("backup_20250104_240000", id="hour 24"),
        pytest.param("backup_20250104_125960", id="second 60"),
        pytest.param("backup_00000104_120000", id="year 0"),
    ],
)
def test_anything_else_is_not_a_backup_id(text: str) -> None:
    with pytest.raises(InvalidInputError, match="runbook db:backups") as caught:
        check_backup_id(text)
    assert caught.value.field == "backup_id"


@pytest.mark.parametrize("text", ["backup_20240229_235959", "backup_20250104_000000"], ids=["leap day", "midnight"])
def test_real_backup_ids_pass(text: str) -> None:
    assert check_backup_id(text) == text


@pytest.mark.parametrize("text", ["a", "local", "production", "eu-west-1", "a" * 31])
def test_environment_names(text: str) -> None:
    assert check_environment_name(text) == text


@pytest.mark.parametrize("text", ["", "Production", "1st", "-a", "a_b", "a" * 32, "local\n", "../x", "é"])
def test_anything_else_is_not_an_environment(text: str) -> None:
    with pytest.raises(InvalidInputError, match="environment"):
        check_environment_name(text)


@pytest.mark.parametrize(
    "text",
    ["main", "origin/main", "v1.2.3", "HEAD", "feature/a-b_c", "0" * 40, "a" * 255, "größe", "a@b", "lock", "a.locked"],
)
def test_git_refs(text: str) -> None:
    assert check_git_ref(text) == text


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("--upload-pack=x", id="reads as an option"),
        pytest.param("a b", id="space"),
        pytest.param("a\u00a0b", id="no-break space"),
        pytest.param("main\n", id="newline at the end"),
        pytest.param("a\0b", id="NUL"),
        pytest.param("a\x7fb", id="DEL"),
        pytest.param("a\u202eb", id="text direction"),
        pytest.param("a\ud800b", id="lone surrogate"),
        pytest.param("a..b", id="range"),
        pytest.param("HEAD~1", id="tilde"),
        pytest.param("HEAD^", id="caret"),
        pytest.param("main:file", id="colon"),
        pytest.param("a?", id="question mark"),
        pytest.param("a*", id="asterisk"),
        pytest.param("a[b", id="bracket"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("main@{1}", id="reflog"),
        pytest.param("@", id="single @"),
        pytest.param("a.lock", id="ends in .lock"),
        pytest.param("a.lock/b", id="component ends in .lock"),
        pytest.param("a/", id="ends in slash"),
        pytest.param("/a", id="begins with slash"),
        pytest.param("a//b", id="two slashes"),
        pytest.param("a.", id="ends in dot"),
        pytest.param(".a", id="begins with dot"),
        pytest.param("a/.b", id="component begins with dot"),
        pytest.param("a" * 256, id="256 bytes"),
        pytest.param("é" * 128, id="256 bytes in 128 characters"),
    ],
)
def test_anything_else_is_not_a_git_ref(text: str) -> None:
    with pytest.raises(InvalidInputError, match="git_ref"):
        check_git_ref(text)


@given(st.text())
def test_an_accepted_git_ref_is_one_harmless_word(text: str) -> None:
    try:
        accepted = check_git_ref(text)
    except InvalidInputError:
        return
    assert accepted.split() == [text]
    assert not accepted.startswith("-")


@pytest.mark.parametrize("text", ["mantisnxt", "_x", "a-b$1", "A" * 63])
def test_database_identifiers(text: str) -> None:
    assert check_identifier(text, "database") == text


@pytest.mark.parametrize("text", ["", "1a", "-a", 'a"b', "a b", "a\n", "é", "A" * 64, "a;b"])
def test_anything_else_is_not_a_database_identifier(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_identifier(text, "database")
    assert caught.value.field == "database"

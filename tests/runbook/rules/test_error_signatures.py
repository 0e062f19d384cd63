from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.error_signatures import group_errors, is_error, signature

NOON = datetime(2025, 1, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("order 4711 not found", "order 4712 not found", id="numbers"),
        pytest.param("took 1.25 s", "took 0.3 s", id="fractions"),
        pytest.param(
            "user 3f2504e0-4f89-11d3-9a0c-0305e82c3301 is gone",
            "user 99999999-4f89-11d3-9a0c-0305e82c3301 is gone",
            id="uuids",
        ),
        pytest.param('relation "orders" does not exist', 'relation "items" does not exist', id="quoted"),
        pytest.param("mail to ann@example.com failed", "mail to bob@example.org failed", id="addresses"),
        pytest.param("GET https://a.example/x?k=1 failed", "GET https://b.example failed", id="urls"),
        pytest.param("commit 1f3870be failed", "commit 274ad47 failed", id="commits"),
        pytest.param("boom 1\n  at line 3", "boom 2\n  at line 4", id="only the first line"),
    ],
)
def test_errors_of_one_kind_have_one_signature(one: str, other: str) -> None:
    assert signature(one) == signature(other)


def test_errors_of_two_kinds_have_two() -> None:
    assert signature("connection refused") != signature("connection reset")


@pytest.mark.parametrize(
    "message",
    [
        "connect to postgresql://app:hunter2@db.example/shop failed",
        "login with password=hunter2 failed",
        "bad header Authorization: hunter2",
        "bad header Authorization: Bearer hunter2",
        'wrong "api_key": hunter2',
        "token 'hunter2' expired",
        "SESSION_TOKEN=hunter2",
        "denied for hunter2-0123456789abcdef",
    ],
)
def test_no_secret_is_in_a_signature(message: str) -> None:
    assert "hunter2" not in signature(message)


@given(st.text())
def test_any_message_has_a_short_signature_in_one_line_without_digits(message: str) -> None:
    found = signature(message)
    assert len(found) <= 200
    assert len(found.splitlines()) <= 1
    assert not any(letter in "0123456789" for letter in found)


def test_errors_are_grouped_with_the_most_frequent_first() -> None:
    lines = [
        (NOON, "error", "order 1 not found"),
        (NOON + timedelta(minutes=2), "ERROR", "order 2 not found"),
        (NOON + timedelta(minutes=1), "error", "order 3 not found"),
        (NOON, "critical", "out of memory"),
        (NOON, "info", "order 4 found"),
    ]
    found = group_errors(lines)
    assert [(group.signature, group.count) for group in found] == [("order ? not found", 3), ("out of memory", 1)]
    assert (found[0].first_at, found[0].last_at) == (NOON, NOON + timedelta(minutes=2))


@pytest.mark.parametrize(("level", "expected"), [("error", True), ("FATAL", True), ("warning", False), ("info", False)])
def test_warnings_are_no_errors(level: str, expected: bool) -> None:
    assert is_error(level) is expected

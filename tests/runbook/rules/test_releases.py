from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import RefusedError
from runbook.rules.releases import ReleaseRecord, breaking_changes, choose_target, recorded_target


@pytest.mark.parametrize(
    "message",
    [
        "feat!: drop the old API",
        "fix(auth)!: new cookies",
        "refactor(a/b)!: move",
        "FEAT!: upper case",
        "feat: x\n\nBREAKING CHANGE: the token changes",
        "feat: x\r\n\r\nBREAKING-CHANGE: the token changes\r\n",
        "feat: x\n\nReviewed-by: Z\nBREAKING CHANGE #12",
        "\nfeat!: after an empty line",
    ],
)
def test_breaking_commits(message: str) -> None:
    assert breaking_changes(["fix: other", message]) == [message.strip().splitlines()[0]]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "feat: say hello!",
        "feat: wow!: no",
        "Not breaking!",
        "feat: x\n\nbreaking change: lower case",
        "feat: x\n\nThis is no BREAKING CHANGE: see above",
        "docs: explain feat!: in commits",
    ],
)
def test_other_commits(message: str) -> None:
    assert breaking_changes([message]) == []


def record(release_id: str, *, verified: bool = True, bad: bool = False, sha: str = "") -> ReleaseRecord:
    return ReleaseRecord(
        release_id, sha or f"sha-{release_id}", "1", verified, bad, None, datetime(2025, 1, 4, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("history", "active", "expected"),
    [
        pytest.param([record("a"), record("b")], "b", "a", id="the one before"),
        pytest.param([record("a"), record("b", verified=False), record("c")], "c", "a", id="not an unverified one"),
        pytest.param([record("a"), record("b", bad=True), record("c")], "c", "a", id="not one marked bad"),
        pytest.param(
            [record("a"), record("b"), record("c"), record("b", bad=True)], "c", "a", id="not one marked bad later"
        ),
        pytest.param([record("a"), record("b", sha="x"), record("c", sha="x")], "c", "a", id="not the same commit"),
        pytest.param(
            [record("a"), record("b"), record("c", bad=True), record("b"), record("d")],
            "d",
            "b",
            id="after an earlier rollback: where that one went",
        ),
        pytest.param(
            [record("a"), record("b"), record("c", bad=True), record("b")],
            "b",
            "a",
            id="the active one counts from its last occurrence",
        ),
        pytest.param([record("a"), record("b"), record("c")], "b", "a", id="never a later one"),
    ],
)
def test_rollback_target(history: list[ReleaseRecord], active: str, expected: str) -> None:
    assert choose_target(history, active).release_id == expected


@pytest.mark.parametrize(
    ("history", "message"),
    [
        pytest.param([], "not among the 0", id="no history"),
        pytest.param([record("a")], "not among the 1", id="the active one was never recorded"),
        pytest.param([record("z")], "first one recorded", id="nothing before it"),
        pytest.param(
            [record("a", verified=False), record("b", bad=True), record("z")],
            r"b \(marked bad\), a \(not verified\)",
            id="what was looked at is said",
        ),
    ],
)
def test_no_target_is_refused(history: list[ReleaseRecord], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        choose_target(history, "z")


records = st.builds(
    ReleaseRecord,
    release_id=st.sampled_from("abcde"),
    git_sha=st.sampled_from("xyz"),
    version=st.just("1"),
    verified=st.booleans(),
    marked_bad=st.booleans(),
    backup_id=st.none(),
    at=st.just(datetime(2025, 1, 4, tzinfo=UTC)),
)


@given(st.lists(records, max_size=8), st.sampled_from("abcde"))
def test_a_target_is_always_verified_good_and_different(history: list[ReleaseRecord], active: str) -> None:
    try:
        target = choose_target(history, active)
    except RefusedError:
        return
    last = max(index for index, item in enumerate(history) if item.release_id == active)
    assert target in history[:last]
    assert target.verified
    assert target.git_sha != history[last].git_sha
    assert not any(item.marked_bad for item in history if item.release_id == target.release_id)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([record("a"), record("b")], "b", id="the one that should be active"),
        pytest.param([record("b"), record("b", verified=False)], "b", id="verified once"),
        pytest.param([record("b", verified=False)], None, id="never verified"),
        pytest.param([record("b"), record("b", bad=True)], None, id="marked bad"),
        pytest.param([record("a")], None, id="not recorded"),
        pytest.param([], None, id="nothing recorded"),
    ],
)
def test_before_a_release_that_nobody_recorded_was_the_one_recorded_last(
    history: list[ReleaseRecord], expected: str | None
) -> None:
    found = recorded_target(history, "sha-b")
    assert (found.release_id if found else None) == expected

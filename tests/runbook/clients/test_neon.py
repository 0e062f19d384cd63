from __future__ import annotations

import logging
import pickle
import socket
from collections.abc import Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from pydantic import SecretStr

from runbook.clients.http_api import Patience
from runbook.clients.neon import NeonRestorePoints, NeonSettings
from runbook.clients.restore_points import RestorePoints, is_point_name, point_name
from runbook.errors import (
    DivergedError,
    InvalidInputError,
    RejectedError,
    RunbookError,
    ServiceError,
    StageError,
    TransientError,
)
from runbook.manifest import RestorePoint
from tests.emulators.neon import MAIN, NeonEmulator, neon_emulator

Kind = Literal["branch", "snapshot"]

TOKEN = "napi_never_to_be_seen_0123456789"
NAME = "runbook-backup_20250104_120000"
LATER = "runbook-backup_20250105_120000"
DAY = timedelta(days=1)
QUICK = Patience(answer_s=5, pause_s=0.005, poll_s=0.002, finish_s=30)
BOTH = pytest.mark.parametrize("kind", ["branch", "snapshot"])
CREATE = {"branch": "/branches$", "snapshot": "/snapshot$"}
OPENED = "shop_restored_20250104_120500"
RESTORE = {
    "branch": ["/branches$", "/branches/.*/restore$"],
    "snapshot": ["/snapshots/.*/restore$", "/finalize_restore$"],
}


@pytest.fixture
def neon() -> Generator[NeonEmulator]:
    with neon_emulator(token=TOKEN) as emulator:
        emulator.write("orders as they were")
        yield emulator


def client(
    neon: NeonEmulator,
    kind: Kind = "branch",
    *,
    branch: str = "main",
    project_id: str | None = None,
    token: str = TOKEN,
    patience: Patience = QUICK,
) -> NeonRestorePoints:
    settings = NeonSettings(project_id or neon.project_id, branch, kind, neon.url)
    return NeonRestorePoints(settings, SecretStr(token), patience)


def restore(points: RestorePoints, point: RestorePoint, *, preserve_as: str) -> None:
    """Do what a rollback does: open a point beside the live branch, then let it take its place."""
    points.open(point, OPENED)
    points.take_place(OPENED, preserve_as=preserve_as)
    points.close(OPENED)


def copies(neon: NeonEmulator, name: str = NAME) -> list[str]:
    """What the branches and snapshots of a name hold."""
    snapshots = [snapshot for snapshot in neon.snapshots.values() if snapshot.name == name]
    return [copy.content for copy in (*neon.named(name), *snapshots)]


def sent(neon: NeonEmulator, method: str, ending: str) -> int:
    return sum(each.call.method == method and each.call.path.endswith(ending) for each in neon.exchanges)


def changes(neon: NeonEmulator) -> list[str]:
    return [f"{each.call.method} {each.call.path}" for each in neon.exchanges if each.call.method != "GET"]


@BOTH
def test_the_check_says_project_branch_and_history(neon: NeonEmulator, kind: Kind) -> None:
    said = client(neon, kind).check()
    assert neon.project_id in said
    assert f"main ({MAIN})" in said
    assert "history of 7 days" in said
    assert not changes(neon)


def test_the_horizon_is_the_history_retention_of_the_project() -> None:
    with neon_emulator(token=TOKEN, history=timedelta(hours=6)) as neon:
        points: RestorePoints = client(neon)
        assert points.horizon() == timedelta(hours=6)
        assert "history of 6 hours" in points.check()


def test_a_wrong_key_is_rejected_in_words(neon: NeonEmulator) -> None:
    with pytest.raises(RejectedError, match=r"HTTP 401.*\(request [0-9a-f-]{36}\).*put a valid one into the block"):
        client(neon, token="napi_wrong").check()


def test_an_unknown_project_is_rejected_in_words(neon: NeonEmulator) -> None:
    with pytest.raises(RejectedError, match=r"read project no-such-project: HTTP 404.*\(request [0-9a-f-]{36}\)"):
        client(neon, project_id="no-such-project").check()


def test_an_unknown_branch_is_rejected_and_the_known_ones_are_named(neon: NeonEmulator) -> None:
    neon.add_branch("staging")
    with pytest.raises(RejectedError, match=r"no branch with the name or id 'master'.*main, staging"):
        client(neon, branch="master").check()


def test_a_snapshot_of_a_branch_with_a_parent_is_refused_before_anything_is_sent(neon: NeonEmulator) -> None:
    neon.add_branch("staging")
    points = client(neon, "snapshot", branch="staging")
    for refused in (points.check, lambda: points.create(NAME, keep_for=None)):
        with pytest.raises(RejectedError, match=r"Use restore points of the kind `branch`"):
            refused()
    assert not changes(neon)


@pytest.mark.parametrize("branch", ["staging", "br-quiet-lake-000006"], ids=["by name", "by id"])
def test_the_live_branch_is_found_on_a_later_page(branch: str) -> None:
    with neon_emulator(token=TOKEN, page_size=2) as neon:
        for number in range(4):
            neon.add_branch(f"feature-{number}")
        staging = neon.add_branch("staging")
        assert staging.id == "br-quiet-lake-000006"
        client(neon, branch=branch).create(NAME, keep_for=None)
        assert [branch.parent for branch in neon.named(NAME)] == [staging.id]


@BOTH
def test_a_point_holds_what_was_live_when_it_was_made(neon: NeonEmulator, kind: Kind) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    point = client(neon, kind).create(NAME, keep_for=DAY)
    neon.write("orders after the migration")
    assert copies(neon) == ["orders as they were"]
    assert (point.name, point.kind, point.lsn) == (NAME, f"neon-{kind}", "0/1E19578")
    assert point.expires_at is not None
    assert before + DAY <= point.expires_at <= datetime.now(UTC) + DAY
    assert client(neon, kind).find(NAME) == point


def test_a_branch_point_has_no_compute_and_is_ready_when_it_is_returned(neon: NeonEmulator) -> None:
    client(neon).create(NAME, keep_for=None)
    posted = next(each for each in neon.exchanges if each.call.method == "POST")
    assert posted.call.body == {"branch": {"name": NAME, "parent_id": MAIN}, "endpoints": []}
    assert [branch.state for branch in neon.named(NAME)] == ["ready"]


@BOTH
def test_a_point_without_an_end_stays(neon: NeonEmulator, kind: Kind) -> None:
    assert client(neon, kind).create(NAME, keep_for=None).expires_at is None
    neon.pass_time(timedelta(days=3650))
    assert client(neon, kind).find(NAME) is not None


@BOTH
def test_creating_a_point_twice_makes_one(neon: NeonEmulator, kind: Kind) -> None:
    first = client(neon, kind).create(NAME, keep_for=DAY)
    neon.write("orders after the migration")
    assert client(neon, kind).create(NAME, keep_for=2 * DAY) == first
    assert copies(neon) == ["orders as they were"]
    assert sent(neon, "POST", "") == 1


@BOTH
@pytest.mark.parametrize("status", [None, 500, 502, 504], ids=["connection cut", "500", "502", "504"])
def test_a_lost_answer_makes_one_point(neon: NeonEmulator, kind: Kind, status: int | None) -> None:
    neon.lose("POST", CREATE[kind], status=status)
    point = client(neon, kind).create(NAME, keep_for=DAY)
    assert copies(neon) == ["orders as they were"]
    assert sent(neon, "POST", "") == 1
    assert [point] == list(client(neon, kind).points())


@BOTH
def test_an_answer_that_comes_too_late_makes_one_point(neon: NeonEmulator, kind: Kind) -> None:
    neon.delay("POST", CREATE[kind], 5)
    client(neon, kind, patience=Patience(answer_s=1, pause_s=0.01, poll_s=0.01)).create(NAME, keep_for=DAY)
    assert len(copies(neon)) == 1
    assert sent(neon, "POST", "") == 1


@pytest.mark.parametrize("lost", [False, True], ids=["answered", "answer lost"])
def test_a_branch_that_the_list_shows_late_is_made_once(neon: NeonEmulator, lost: bool) -> None:
    neon.hide_new_branches(reads=2)
    if lost:
        neon.lose("POST", "/branches$")
    point = client(neon).create(NAME, keep_for=DAY)
    assert [branch.id for branch in neon.named(NAME)] == [point.point_id]
    assert sent(neon, "POST", "") == 1


def test_a_branch_that_somebody_made_a_moment_ago_is_returned(neon: NeonEmulator) -> None:
    there = neon.add_branch(NAME)
    there.hidden_reads = 2  # neither finding the live branch nor looking for the name shows it
    assert client(neon).create(NAME, keep_for=DAY).point_id == there.id


@BOTH
def test_a_request_that_never_arrived_is_not_repeated_blindly(neon: NeonEmulator, kind: Kind) -> None:
    neon.refuse("POST", CREATE[kind], 502)
    with pytest.raises(TransientError, match=r"HTTP 502.*No effect is to be seen"):
        client(neon, kind).create(NAME, keep_for=DAY)
    assert sent(neon, "POST", "") == 1
    client(neon, kind).create(NAME, keep_for=DAY)
    assert len(copies(neon)) == 1


def test_a_name_that_is_a_copy_of_another_branch_is_not_taken_for_the_point(neon: NeonEmulator) -> None:
    other = neon.add_branch("staging", parent=None)
    neon.add_branch(NAME, parent=other.id)
    with pytest.raises(RejectedError, match=rf"a copy of {other.id}, not of main"):
        client(neon).create(NAME, keep_for=DAY)


@BOTH
@pytest.mark.parametrize("status", [423, 503, 429])
def test_a_refusal_that_is_safe_to_repeat_is_repeated_five_times(neon: NeonEmulator, kind: Kind, status: int) -> None:
    neon.refuse("POST", CREATE[kind], status, times=5)
    client(neon, kind).create(NAME, keep_for=DAY)
    assert sent(neon, "POST", "") == 6
    assert len(copies(neon)) == 1


@pytest.mark.parametrize("status", [423, 503, 429])
def test_a_refusal_that_lasts_is_handed_on_as_transient(neon: NeonEmulator, status: int) -> None:
    neon.refuse("POST", "/branches$", status, times=100)
    with pytest.raises(TransientError, match=rf"create branch {NAME}: HTTP {status}.*request"):
        client(neon).create(NAME, keep_for=DAY)
    assert sent(neon, "POST", "") == 6
    assert not copies(neon)


def test_the_pause_that_neon_asks_for_is_kept(neon: NeonEmulator) -> None:
    neon.refuse("POST", "/branches$", 429, headers={"Retry-After": "1"})
    client(neon).create(NAME, keep_for=DAY)
    assert sent(neon, "POST", "") == 2
    assert neon.too_early == 0


@pytest.mark.parametrize("wait", ["3600", f"{datetime.now(UTC) + DAY:%a, %d %b %Y %H:%M:%S} GMT"], ids=["s", "date"])
def test_a_pause_of_an_hour_is_left_to_whoever_called(neon: NeonEmulator, wait: str) -> None:
    neon.refuse("POST", "/branches$", 429, headers={"Retry-After": wait})
    with pytest.raises(TransientError, match=r"HTTP 429.* asks to wait for [0-9]{4,} s"):
        client(neon).create(NAME, keep_for=DAY)
    assert sent(neon, "POST", "") == 1


@pytest.mark.parametrize(
    "wait",
    ["soon", "-1", "", f"{datetime.now(UTC) - DAY:%a, %d %b %Y %H:%M:%S} GMT"],
    ids=["a word", "negative", "empty", "a date in the past"],
)
def test_a_pause_that_says_nothing_does_not_stop_the_client(neon: NeonEmulator, wait: str) -> None:
    neon.refuse("POST", "/branches$", 429, headers={"Retry-After": wait})
    client(neon).create(NAME, keep_for=DAY)
    assert len(copies(neon)) == 1


@BOTH
def test_a_read_that_is_lost_is_repeated(neon: NeonEmulator, kind: Kind) -> None:
    neon.lose("GET", "", times=2)
    neon.lose("GET", "operations/", times=3)
    client(neon, kind).create(NAME, keep_for=DAY)
    assert len(copies(neon)) == 1


def test_a_neon_that_cannot_be_reached_is_transient(neon: NeonEmulator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    points = NeonRestorePoints(NeonSettings(neon.project_id, "main", api_url=address), SecretStr(TOKEN), QUICK)
    with pytest.raises(TransientError, match=r"127\.0\.0\.1 cannot be reached"):
        points.check()


@pytest.mark.parametrize("status", ["failed", "error", "cancelled"])
@BOTH
def test_an_operation_that_fails_while_a_point_is_made_is_named(neon: NeonEmulator, kind: Kind, status: str) -> None:
    action = "create_branch" if kind == "branch" else "create_timeline"
    neon.fail_operation(action, "the pageserver is full", status)
    with pytest.raises(StageError, match=rf"operation {action} .* ended as {status}: the pageserver is full"):
        client(neon, kind).create(NAME, keep_for=DAY)


@BOTH
def test_an_operation_that_failed_while_the_answer_was_lost_is_not_taken_for_success(kind: Kind) -> None:
    with neon_emulator(token=TOKEN, polls=0) as neon:
        point = client(neon, kind).create(NAME, keep_for=DAY)
        for path in RESTORE[kind][-1:]:
            neon.lose("POST", path)
        neon.fail_operation("suspend_compute", "the compute does not stop")
        with pytest.raises(StageError, match="the compute does not stop"):
            restore(client(neon, kind), point, preserve_as="replaced")


def test_an_operation_without_an_end_is_waited_for_only_so_long() -> None:
    with neon_emulator(token=TOKEN, polls=1_000_000) as neon:
        hurried = client(neon, patience=Patience(poll_s=0.01, pause_s=0.01, finish_s=0.1))
        with pytest.raises(TransientError, match=r"operation create_branch .* is still running after 0.1 s"):
            hurried.create(NAME, keep_for=DAY)


def test_a_point_whose_operation_still_runs_is_waited_for_when_it_is_asked_for_again(neon: NeonEmulator) -> None:
    neon.refuse("GET", "/operations/", 401)
    with pytest.raises(RejectedError):
        client(neon).create(NAME, keep_for=DAY)
    assert [branch.state for branch in neon.named(NAME)] == ["init"]
    client(neon).create(NAME, keep_for=DAY)
    assert [branch.state for branch in neon.named(NAME)] == ["ready"]


@BOTH
def test_a_restore_brings_the_point_back_in_place_and_keeps_the_state_replaced(neon: NeonEmulator, kind: Kind) -> None:
    feature = neon.add_branch("feature")
    point = client(neon, kind).create(NAME, keep_for=None)
    neon.write("orders after the migration")
    restore(client(neon, kind), point, preserve_as="replaced-by-rollback")
    assert neon.connect() == "orders as they were"
    assert neon.branches[neon.compute].name == "main"
    assert copies(neon, "replaced-by-rollback") == ["orders after the migration"]
    assert feature.id in neon.branches


@BOTH
def test_a_point_serves_more_than_one_restore(neon: NeonEmulator, kind: Kind) -> None:
    points = client(neon, kind)
    point = points.create(NAME, keep_for=None)
    for attempt in ("first", "second"):
        neon.write(f"orders after the {attempt} migration")
        restore(points, point, preserve_as=f"replaced-{attempt}")
        assert neon.connect() == "orders as they were"
    for attempt in ("first", "second"):
        assert copies(neon, f"replaced-{attempt}") == [f"orders after the {attempt} migration"]


@BOTH
def test_a_restore_takes_a_point_of_the_kind_that_was_made_earlier(neon: NeonEmulator, kind: Kind) -> None:
    point = client(neon, kind).create(NAME, keep_for=None)
    neon.write("orders after the migration")
    restore(client(neon, "snapshot" if kind == "branch" else "branch"), point, preserve_as="replaced")
    assert neon.connect() == "orders as they were"


def test_a_branch_that_was_restored_from_does_not_expire_under_the_live_branch(neon: NeonEmulator) -> None:
    point = client(neon).create(NAME, keep_for=DAY)
    neon.write("orders after the migration")
    restore(client(neon), point, preserve_as="replaced")
    neon.pass_time(2 * DAY)
    kept = client(neon).find(NAME)
    assert kept is not None
    assert kept.expires_at is None


def _cases() -> list[object]:
    return [
        pytest.param(kind, path, status, id=f"{kind} {path} {status or 'cut'}")
        for kind, paths in RESTORE.items()
        for path in paths
        for status in (None, 502)
    ]


@pytest.mark.parametrize(("kind", "path", "status"), _cases())
def test_a_restore_whose_answer_is_lost_happens_once(
    neon: NeonEmulator, kind: Kind, path: str, status: int | None
) -> None:
    point = client(neon, kind).create(NAME, keep_for=DAY)
    neon.write("orders after the migration")
    neon.hide_new_branches(reads=1)
    neon.lose("POST", path, status=status)
    restore(client(neon, kind), point, preserve_as="replaced")
    assert neon.connect() == "orders as they were"
    assert copies(neon, "replaced") == ["orders after the migration"]
    assert sent(neon, "POST", "/branches") == (2 if kind == "branch" else 0)  # the point and its opening
    assert sent(neon, "POST", "restore") == (1 if kind == "branch" else 2)


@BOTH
@pytest.mark.parametrize("status", [423, 503])
def test_a_restore_waits_for_what_locks_the_branch(neon: NeonEmulator, kind: Kind, status: int) -> None:
    point = client(neon, kind).create(NAME, keep_for=DAY)
    neon.write("orders after the migration")
    for path in RESTORE[kind]:
        neon.refuse("POST", path, status, times=2)
    restore(client(neon, kind), point, preserve_as="replaced")
    assert neon.connect() == "orders as they were"


@BOTH
def test_a_restore_that_fails_names_the_operation(neon: NeonEmulator, kind: Kind) -> None:
    point = client(neon, kind).create(NAME, keep_for=DAY)
    neon.fail_operation("start_compute", "no room in the region")
    with pytest.raises(StageError, match=r"restore|place.*operation start_compute .* failed: no room in the region"):
        restore(client(neon, kind), point, preserve_as="replaced")


def test_a_snapshot_that_cannot_be_restored_leaves_the_live_branch_alone(neon: NeonEmulator) -> None:
    point = client(neon, "snapshot").create(NAME, keep_for=DAY)
    neon.write("orders after the migration")
    neon.fail_operation("create_branch", "the snapshot cannot be read")
    with pytest.raises(StageError, match="the snapshot cannot be read"):
        restore(client(neon, "snapshot"), point, preserve_as="replaced")
    assert neon.compute == MAIN
    assert neon.connect() == "orders after the migration"


@BOTH
@pytest.mark.parametrize("name", ["staging", "", "x" * 201, "with\nnewline"], ids=["taken", "empty", "long", "newline"])
def test_a_name_that_cannot_keep_the_state_replaced_is_refused(neon: NeonEmulator, kind: Kind, name: str) -> None:
    neon.add_branch("staging")
    points = client(neon, kind)
    points.open(points.create(NAME, keep_for=DAY), OPENED)
    neon.exchanges.clear()
    with pytest.raises(InvalidInputError, match="preserve_as"):
        points.take_place(OPENED, preserve_as=name)
    assert not changes(neon)


@BOTH
def test_an_expired_point_is_refused_and_nothing_changes(neon: NeonEmulator, kind: Kind) -> None:
    point = client(neon, kind).create(NAME, keep_for=DAY)
    neon.write("orders after the migration")
    neon.pass_time(2 * DAY)
    neon.exchanges.clear()
    assert client(neon, kind).find(NAME) is None
    with pytest.raises(RejectedError, match=r"not there any more; it was to be kept until 20.* UTC.*Restore the dump"):
        restore(client(neon, kind), point, preserve_as="replaced")
    assert not changes(neon)


@pytest.mark.parametrize(
    ("kind", "point_id"),
    [
        ("neon-branch", MAIN),
        ("other-provider", "br-quiet-lake-000001"),
        ("neon-branch", "../../projects"),
    ],
    ids=["the live branch", "another provider", "no id"],
)
def test_what_is_no_restore_point_is_neither_restored_nor_removed(neon: NeonEmulator, kind: str, point_id: str) -> None:
    foreign = RestorePoint(kind=kind, point_id=point_id, name=NAME, lsn=None, expires_at=None)
    with pytest.raises(RejectedError, match=r"not .*restore point"):
        restore(client(neon), foreign, preserve_as="replaced")
    with pytest.raises(RejectedError, match=r"not .*restore point"):
        client(neon).remove(foreign)
    assert not changes(neon)


def test_a_restore_after_which_the_state_replaced_cannot_be_found_needs_a_person(neon: NeonEmulator) -> None:
    points = client(neon)
    points.open(points.create(NAME, keep_for=None), OPENED)
    neon.hide_new_branches(reads=1000)
    with pytest.raises(DivergedError, match=r"not both of the branches main and replaced"):
        points.take_place(OPENED, preserve_as="replaced")


def test_a_key_that_expires_during_a_restore_leaves_word_of_what_runs(neon: NeonEmulator) -> None:
    points = client(neon)
    points.open(points.create(NAME, keep_for=None), OPENED)
    neon.exchanges.clear()
    neon.expire_token(after=5)  # list three times, list operations, restore
    with pytest.raises(RejectedError, match=r"operation create_timeline .* can no longer be followed\. .*HTTP 401"):
        points.take_place(OPENED, preserve_as="replaced")
    assert changes(neon) == [f"POST /projects/{neon.project_id}/branches/{MAIN}/restore"]


def test_a_branch_given_by_id_that_a_snapshot_has_replaced_is_refused_by_name(neon: NeonEmulator) -> None:
    by_id = client(neon, "snapshot", branch=MAIN)
    point = by_id.create(NAME, keep_for=DAY)
    restore(by_id, point, preserve_as="replaced")
    with pytest.raises(RejectedError, match=rf"replaced \({MAIN}\) was replaced by main .* Put the name main"):
        by_id.create(LATER, keep_for=DAY)
    client(neon, "snapshot").create(LATER, keep_for=DAY)
    assert copies(neon, LATER) == ["orders as they were"]


@BOTH
def test_removing_a_point_twice_is_no_error(neon: NeonEmulator, kind: Kind) -> None:
    point = client(neon, kind).create(NAME, keep_for=DAY)
    client(neon, kind).remove(point)
    client(neon, kind).remove(point)
    assert not copies(neon)
    assert sent(neon, "DELETE", "") == 1


@BOTH
@pytest.mark.parametrize("status", [None, 502], ids=["cut", "502"])
def test_a_removal_whose_answer_is_lost_is_looked_up_and_not_repeated(
    neon: NeonEmulator, kind: Kind, status: int | None
) -> None:
    point = client(neon, kind).create(NAME, keep_for=DAY)
    neon.lose("DELETE", "", status=status)
    client(neon, kind).remove(point)
    assert not copies(neon)
    assert sent(neon, "DELETE", "") == 1


@BOTH
def test_a_removal_that_never_arrived_is_repeated(neon: NeonEmulator, kind: Kind) -> None:
    point = client(neon, kind).create(NAME, keep_for=DAY)
    neon.refuse("DELETE", "", 500)
    neon.refuse("DELETE", "", 423)
    client(neon, kind).remove(point)
    assert not copies(neon)


def test_a_branch_that_others_hang_from_is_not_removed(neon: NeonEmulator) -> None:
    point = client(neon).create(NAME, keep_for=None)
    neon.add_branch("looking-into-it", parent=point.point_id)
    with pytest.raises(RejectedError, match=r"HTTP 422: .*has children \(request [0-9a-f-]{36}\)"):
        client(neon).remove(point)
    assert len(copies(neon)) == 1


@BOTH
def test_the_points_are_those_that_the_runbook_made(neon: NeonEmulator, kind: Kind) -> None:
    neon.add_branch("feature")
    neon.add_branch("runbook-experiment")
    points = client(neon, kind)
    made = [points.create(name, keep_for=DAY) for name in (LATER, NAME)]
    assert list(points.points()) == made[::-1]
    assert points.find("runbook-experiment") is None


def test_a_point_is_named_after_its_backup() -> None:
    assert point_name("backup_20250104_120000") == NAME
    assert is_point_name(NAME)
    assert not any(map(is_point_name, ["backup_20250104_120000", "runbook-main", "main", f"{NAME}-restored", ""]))
    with pytest.raises(InvalidInputError, match="backup_id"):
        point_name("main")


@pytest.mark.parametrize("name", ["main", "runbook-main", "", f"{NAME}/.."])
def test_a_point_of_another_name_is_refused(neon: NeonEmulator, name: str) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        client(neon).create(name, keep_for=DAY)
    assert not neon.exchanges


@pytest.mark.parametrize("keep_for", [timedelta(0), -DAY, 30 * DAY + timedelta(seconds=1)], ids=str)
def test_a_branch_cannot_be_kept_for_no_time_or_over_thirty_days(neon: NeonEmulator, keep_for: timedelta) -> None:
    with pytest.raises(InvalidInputError, match="keep_for"):
        client(neon).create(NAME, keep_for=keep_for)
    assert not neon.exchanges


def test_thirty_days_for_a_branch_and_a_year_for_a_snapshot_are_accepted(neon: NeonEmulator) -> None:
    assert client(neon).create(NAME, keep_for=30 * DAY).expires_at is not None
    assert client(neon, "snapshot").create(NAME, keep_for=365 * DAY).expires_at is not None


@pytest.mark.parametrize(
    ("project_id", "api_url", "field"),
    [
        ("Shiny Wind", "https://console.neon.tech/api/v2", "project_id"),
        ("a/../b", "https://console.neon.tech/api/v2", "project_id"),
        ("shiny-wind", "http://console.neon.tech/api/v2", "api_url"),
        ("shiny-wind", "console.neon.tech", "api_url"),
    ],
)
def test_settings_that_cannot_be_right_are_refused(project_id: str, api_url: str, field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        NeonSettings(project_id, "main", "branch", api_url)


def test_a_redirect_is_not_followed(neon: NeonEmulator) -> None:
    with neon_emulator(token=TOKEN) as other:
        neon.refuse("GET", "", 307, headers={"Location": f"{other.url}/projects/{other.project_id}"})
        with pytest.raises(RejectedError, match=r"points to 127.0.0.1, where the key is not sent to"):
            client(neon).check()
        assert not other.exchanges


def test_an_answer_that_is_not_as_agreed_is_not_taken_for_success(neon: NeonEmulator) -> None:
    neon.refuse("GET", "/branches$", 200, times=100)
    with pytest.raises(
        TransientError, match=r"list the branches: HTTP 200, but the answer is not as agreed at branches"
    ):
        client(neon).check()


def _failures() -> dict[str, Callable[[NeonEmulator], None]]:
    echo = f"token {TOKEN} is not welcome"
    refusals = {str(status): status for status in (302, 400, 401, 403, 404, 409, 422, 423, 429, 500, 503)}

    def refuse(status: int) -> Callable[[NeonEmulator], None]:
        return lambda neon: neon.refuse("POST", "", status, times=100, message=echo, headers={"Location": "/elsewhere"})

    failures = {name: refuse(status) for name, status in refusals.items()}
    failures["cut"] = lambda neon: neon.lose("GET", "", times=100)
    failures["operation"] = lambda neon: neon.fail_operation("create_branch", "no room")
    return failures


@pytest.mark.parametrize("failure", _failures())
def test_the_key_is_in_no_error_no_representation_and_no_log(
    neon: NeonEmulator, failure: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _failures()[failure](neon)
    points = client(neon)
    with pytest.raises(RunbookError) as caught:
        points.create(NAME, keep_for=DAY)
    errors: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        errors.append(error)
        error = error.__cause__ or error.__context__
    shown = [repr(points), str(points), caplog.text, *map(str, errors), *map(repr, errors)]
    assert len(caplog.text) > 0
    assert not any(TOKEN in text for text in shown)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # noqa: S301 - made here
    assert isinstance(caught.value, (ServiceError, StageError))

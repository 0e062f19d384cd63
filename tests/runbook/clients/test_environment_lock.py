"""The lock of an environment, in a folder and in S3."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from runbook.clients.environment_hold import EnvironmentHold, Hold
from runbook.clients.environment_lock import EnvironmentLock, HeldLock, LockedError, Owner
from runbook.clients.folder_store import FolderStore
from runbook.clients.object_store import ObjectStore
from runbook.clients.process_id import ProcessId, current_process
from runbook.clients.s3_store import S3Store
from runbook.errors import LostLockError, RefusedError, RejectedError
from tests.runbook.s3_server import S3Proxy, loses_the_answer, new_bucket

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytest_plugins = ["tests.runbook.s3_server"]


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "folder":
        tmp_path: Path = request.getfixturevalue("tmp_path")
        return FolderStore(tmp_path / "records")
    client: S3Client = request.getfixturevalue("s3_through")
    return S3Store(client, new_bucket(client), "")


def lock_in(objects: ObjectStore, *, heartbeat_s: float = 30, expires_s: float = 60) -> EnvironmentLock:
    return EnvironmentLock(objects, "production", heartbeat_s=heartbeat_s, expires_s=expires_s)


def owner(run: str, process: ProcessId | None = None, *, machine: str | None = None) -> Owner:
    made = Owner(run=run, procedure="deploy", reason="v2", triggered_by="mira", since=datetime.now(UTC))
    process = process or current_process()
    return made.model_copy(
        update={"pid": process.pid, "create_time": process.create_time, "machine": machine or made.machine}
    )


_never_left: list[AbstractContextManager[HeldLock]] = []


def dead_process() -> ProcessId:
    """A process that has ended; its number may be another's one day, its time of creation will not."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        found = ProcessId(process.pid, time.time())
    return found


def die_with(lock: EnvironmentLock, run: str, *, machine: str | None = None) -> int:
    """Take the lock as a process that is killed then; return its token."""
    context = lock.held(owner(run, dead_process(), machine=machine))
    _never_left.append(context)
    return context.__enter__().token


def test_who_holds_it_is_said_to_whoever_wants_it(objects: ObjectStore) -> None:
    lock = lock_in(objects)
    with lock.held(owner("deploy_1")) as held:
        held.require()
        with pytest.raises(LockedError, match=r"deploy \(deploy_1\) by mira since .* UTC: v2\. Wait until"):
            lock_in(objects).held(owner("rollback_2")).__enter__()
    assert lock.holder() is None
    with lock.held(owner("rollback_2")) as again:
        assert again.token == held.token + 1
        assert again.owner.unfinished == ()


def test_of_many_that_want_it_at_once_one_gets_it(objects: ObjectStore) -> None:
    barrier = Barrier(4)

    def want(number: int) -> bool:
        barrier.wait()
        held = lock_in(objects).held(owner(f"deploy_{number}"))
        _never_left.append(held)
        try:
            held.__enter__()
        except LockedError:
            return False
        return True  # and keeps it

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(want, range(4))) == [False, False, False, True]


def test_the_lock_of_a_dead_process_is_taken_over_at_once_with_what_it_left(objects: ObjectStore) -> None:
    lock = lock_in(objects, expires_s=3600)
    first = die_with(lock, "deploy_1")
    state = lock.holder()
    assert state is not None
    assert lock.is_dead(state)
    die_with(lock, "recover_2")
    with lock.held(owner("recover_3")) as held:
        assert held.token == first + 2
        assert held.owner.unfinished == ("recover_2", "deploy_1")


def test_an_owner_on_another_machine_is_dead_when_it_was_silent_for_too_long(objects: ObjectStore) -> None:
    lock = lock_in(objects, expires_s=3600)
    die_with(lock, "deploy_1", machine="elsewhere")
    with pytest.raises(LockedError), lock.held(owner("rollback_2")):
        pass
    time.sleep(1.1)  # S3 keeps times in seconds
    with lock_in(objects, expires_s=0.1).held(owner("rollback_2")) as held:
        assert held.owner.unfinished == ("deploy_1",)


def test_who_leaves_work_behind_says_so(objects: ObjectStore) -> None:
    lock = lock_in(objects)
    with lock.held(owner("deploy_1")) as held:
        held.unfinished = True
    with lock.held(owner("deploy_2")) as other:
        assert other.owner.unfinished == ("deploy_1",)
    with lock.held(owner("deploy_3")) as last:
        assert last.owner.unfinished == ()


def test_signs_of_life_keep_it(objects: ObjectStore) -> None:
    lock = lock_in(objects, heartbeat_s=0.1, expires_s=2)
    with lock.held(owner("deploy_1", dead_process(), machine="elsewhere")):
        time.sleep(3.5)
        state = lock.holder()
        assert state is not None
        assert not lock.is_dead(state)


def test_who_was_silent_for_too_long_finds_out_before_its_next_effect(objects: ObjectStore) -> None:
    lock = lock_in(objects)
    with lock.held(owner("deploy_1", machine="elsewhere")) as slow:
        time.sleep(1.1)
        with (
            lock_in(objects, expires_s=0.1).held(owner("rollback_2")),
            pytest.raises(LostLockError, match="the lock of production was lost while deploy ran"),
        ):
            slow.require()
        with pytest.raises(LostLockError):
            slow.require()


def test_force_opens_it_says_whose_it_was_and_forgets_nothing(objects: ObjectStore) -> None:
    lock = lock_in(objects)
    with lock.held(owner("deploy_1")) as held:
        was = lock.force(by="ada", reason="it hangs")
        assert was.owner.run == "deploy_1"
        with pytest.raises(LostLockError):
            held.require()
        state = lock.state()
        assert state is not None
        assert state.freed is not None
        assert (state.freed.by, state.freed.reason, state.freed.unfinished) == ("ada", "it hangs", True)
        with pytest.raises(RefusedError, match="nobody holds the lock"):
            lock.force(by="ada", reason="again")
        with lock.held(owner("rollback_2")) as other:
            assert other.owner.unfinished == ("deploy_1",)


def test_old_tokens_do_not_pile_up_and_are_never_given_again(objects: ObjectStore) -> None:
    lock = lock_in(objects)
    tokens: list[int] = []
    for number in range(30):
        with lock.held(owner(f"deploy_{number}")) as held:
            tokens.append(held.token)
    assert tokens == list(range(1, 31))
    assert len(list(objects.objects("locks/production/"))) <= 60


def test_a_lost_answer_is_not_taken_for_another_owner(s3_through: S3Client, s3_proxy: S3Proxy) -> None:
    objects = S3Store(s3_through, new_bucket(s3_through), "")
    s3_proxy.breaks("PutObject", loses_the_answer)
    try:
        with lock_in(objects).held(owner("deploy_1")) as held:
            assert held.token == 1
    except Exception as error:  # noqa: BLE001 - the client gave up after the lost answer; then the lock is not held
        pytest.fail(f"the lock was written, and yet: {error}")


def test_a_lock_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    objects = FolderStore(tmp_path)
    objects.create("locks/production/00000001.json", b"{}")
    with pytest.raises(RejectedError, match="cannot be read as a lock"), lock_in(objects).held(owner("deploy_1")):
        pass


def test_a_hold_is_placed_shown_and_released(objects: ObjectStore) -> None:
    hold = EnvironmentHold(objects, "production")
    hold.require_none()
    hold.place(Hold(reason="SEV1", by="mira", since=datetime.now(UTC), run="rollback_1", bad_version="v6"))
    with pytest.raises(RefusedError, match=r"held since .* by mira after v6 was taken back: SEV1\. When the cause"):
        hold.require_none()
    assert hold.require().run == "rollback_1"
    hold.remove()
    hold.remove()
    hold.require_none()
    with pytest.raises(RefusedError, match="is not held"):
        hold.require()

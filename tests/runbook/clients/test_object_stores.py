"""What every object store promises, asked of each."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import pytest

from runbook.clients.folder_store import FolderStore
from runbook.clients.object_store import CHUNK_BYTES, MissingObjectError, ObjectExistsError, ObjectStore
from runbook.clients.s3_store import S3Store
from runbook.errors import TransientError
from tests.runbook.s3_server import ACCESS_KEY, SECRET_KEY, new_bucket, stream_of

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytest_plugins = ["tests.runbook.s3_server"]

KEY = "database/backups/backup_20250104_120000/dump/toc.dat"
KINDS = ("folder", "bucket", "folder of a bucket", "bucket with versions")


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest) -> ObjectStore:
    if request.param == "folder":
        tmp_path: Path = request.getfixturevalue("tmp_path")
        return FolderStore(tmp_path / "records")
    client: S3Client = request.getfixturevalue("s3_through")
    bucket = new_bucket(client, versioned=request.param == "bucket with versions")
    return S3Store(client, bucket, "production/shop" if request.param == "folder of a bucket" else "")


class SourceError(Exception):
    """The program that made the bytes died."""


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [found.key for found in store.objects(prefix)]


def test_a_store_that_can_be_used_is_found_usable_and_left_empty(store: ObjectStore) -> None:
    store.check()
    store.check()
    assert keys(store) == []


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 1])
def test_what_is_written_is_measured_and_read_back(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    stored = store.write(KEY, io.BytesIO(data))
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(data).hexdigest(), size)
    assert store.read(KEY) == data
    with store.open(KEY) as stream:
        assert b"".join(iter(lambda: stream.read(100_000), b"")) == data


def test_writing_again_replaces(store: ObjectStore) -> None:
    store.write(KEY, io.BytesIO(b"old and long"))
    store.write(KEY, io.BytesIO(b"new"))
    assert store.read(KEY) == b"new"
    assert [found.size_bytes for found in store.objects("")] == [3]


@pytest.mark.parametrize("before", [None, b"what was there"])
def test_a_source_that_fails_changes_nothing_and_its_own_error_comes_out(
    store: ObjectStore, before: bytes | None
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"begun"
        raise SourceError("exit code 1")

    if before is not None:
        store.replace(KEY, before)
    with pytest.raises(SourceError, match="exit code 1"):
        store.write(KEY, stream_of(chunks()))
    if before is None:
        assert keys(store) == []
        with pytest.raises(MissingObjectError):
            store.read(KEY)
    else:
        assert store.read(KEY) == before
    assert store.sweep("", older_than=timedelta(0)) == 0


def test_an_object_appears_when_all_of_it_is_stored(store: ObjectStore) -> None:
    seen: list[list[str]] = []

    def chunks() -> Iterator[bytes]:
        yield b"first"
        seen.append(keys(store))
        yield b"second"

    store.write(KEY, stream_of(chunks()))
    assert seen == [[]]
    assert keys(store) == [KEY]


def test_an_object_is_created_once(store: ObjectStore) -> None:
    store.create(KEY, b"first")
    for data in (b"second", b"first"):
        with pytest.raises(ObjectExistsError, match=re.escape(KEY)):
            store.create(KEY, data)
    assert store.read(KEY) == b"first"


def test_of_writers_that_create_at_the_same_time_one_wins(store: ObjectStore) -> None:
    barrier = Barrier(4)

    def create(_: int) -> bool:
        barrier.wait()
        try:
            store.create(KEY, b"the same")
        except ObjectExistsError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(create, range(4))) == 1
    assert store.read(KEY) == b"the same"


def test_an_object_is_replaced_whether_it_is_there_or_not(store: ObjectStore) -> None:
    for data in (b"one", b"two", b""):
        store.replace(KEY, data)
        assert store.read(KEY) == data


def test_a_missing_object_is_named(store: ObjectStore) -> None:
    def open_it(key: str) -> None:
        with store.open(key):
            pass

    store.create("database/backups/other", b"")
    reads: list[Callable[[str], object]] = [store.read, open_it]
    for read in reads:
        with pytest.raises(MissingObjectError, match=re.escape(KEY)) as caught:
            read(KEY)
        assert not isinstance(caught.value, TransientError)


def test_objects_are_listed_by_key(store: ObjectStore) -> None:
    for key in ("logs/b.json", "logs/a.json", "logs_of_others/a.json", "logs/a/z", "database/x"):
        store.create(key, key.encode())
    assert keys(store) == ["database/x", "logs/a.json", "logs/a/z", "logs/b.json", "logs_of_others/a.json"]
    assert keys(store, "logs/") == ["logs/a.json", "logs/a/z", "logs/b.json"]
    assert keys(store, "logs/a") == ["logs/a.json", "logs/a/z"]
    assert keys(store, "log") == ["logs/a.json", "logs/a/z", "logs/b.json", "logs_of_others/a.json"]
    assert keys(store, "nothing") == []
    first = next(iter(store.objects("")))
    assert first.size_bytes == len("database/x")
    assert first.modified_at.utcoffset() == timedelta(0)


def test_what_is_deleted_is_gone_and_may_be_deleted_again(store: ObjectStore) -> None:
    for key in ("a", "a2", "b/c"):
        store.create(key, b"x")
    store.delete(key for key in ("a", "never-there", "b/c"))
    store.delete(["a"])
    assert keys(store) == ["a2"]
    store.create("a", b"again")
    assert store.read("a") == b"again"


def test_what_is_deleted_twice_over_stays_gone(store: ObjectStore) -> None:
    for data in (b"1", b"2", b"3"):
        store.replace(KEY, data)
    store.delete([KEY])
    with pytest.raises(MissingObjectError):
        store.read(KEY)


def test_nothing_is_protected_unless_it_was_asked_for(store: ObjectStore) -> None:
    store.create(KEY, b"x")
    assert store.locked_until(KEY) is None


def test_sweeping_leaves_what_was_stored(store: ObjectStore) -> None:
    assert store.sweep("database/", older_than=timedelta(0)) == 0
    store.write(KEY, io.BytesIO(b"x"))
    assert store.sweep("", older_than=timedelta(0)) == 0
    assert keys(store) == [KEY]


def test_a_store_shows_its_place_and_no_secret(store: ObjectStore) -> None:
    shown = f"{store.place} {store!r} {store!s}"
    assert store.place
    assert ACCESS_KEY not in shown
    assert SECRET_KEY not in shown

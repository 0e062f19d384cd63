"""S3 as an object store, against a real server behind a proxy that breaks things."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from runbook.clients.object_store import MissingObjectError, ObjectExistsError, ObjectLockedError
from runbook.clients.s3_store import ObjectLock, S3Store
from runbook.clients.s3_upload import part_bytes
from runbook.errors import RejectedError, ServiceError, TransientError
from tests.runbook.s3_server import (
    ACCESS_KEY,
    FOR_EVER,
    SECRET_KEY,
    Fault,
    S3Proxy,
    cuts_the_download,
    damages_the_body,
    does_nothing,
    forgets_header,
    in_pages_of_two,
    loses_the_answer,
    never_answers,
    new_bucket,
    resets_in_the_middle,
    s3_client,
    says,
    stream_of,
    with_header,
    without_date,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytest_plugins = ["tests.runbook.s3_server"]

PROJECT = Path(__file__).parents[3]
KEY = "database/backups/backup_20250104_120000.dump"
MIB = 1 << 20
SEVERAL_PARTS = 2 * part_bytes(1) + 5
HOUR = timedelta(hours=1)
INTERNAL_ERROR = says(500, "InternalError")


@pytest.fixture
def store(s3_through: S3Client, s3_bucket: str) -> S3Store:
    """Its client tries everything store."""
    return S3Store(s3_through, s3_bucket, "production")


@pytest.fixture
def patient(s3_proxy: S3Proxy, s3_bucket: str) -> Generator[S3Store]:
    """The same store by a client that tries three times."""
    with closing(s3_client(s3_proxy.url, attempts=3)) as client:
        yield S3Store(client, s3_bucket, "production")


@pytest.fixture
def impatient(s3_proxy: S3Proxy, s3_bucket: str) -> Generator[S3Store]:
    """The same store by a client that waits a quarter of a second."""
    with closing(s3_client(s3_proxy.url, attempts=1, read_timeout_s=0.25)) as client:
        yield S3Store(client, s3_bucket, "production")


def uploads(client: S3Client, bucket: str) -> int:
    return len(client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


def versions(client: S3Client, bucket: str) -> int:
    listed = client.list_object_versions(Bucket=bucket)
    return len(listed.get("Versions", [])) + len(listed.get("DeleteMarkers", []))


def keys(store: S3Store) -> list[str]:
    return [found.key for found in store.objects("")]


def drain(store: S3Store) -> None:
    with store.open(KEY) as stream:
        while stream.read(MIB):
            pass


CALLS: dict[str, Callable[[S3Store], object]] = {
    "check": lambda store: store.check(),
    "write": lambda store: store.write(KEY, io.BytesIO(b"x")),
    "create": lambda store: store.create(KEY, b"x"),
    "replace": lambda store: store.replace(KEY, b"x"),
    "read": lambda store: store.read(KEY),
    "open": drain,
    "objects": keys,
    "delete": lambda store: store.delete([KEY]),
    "locked_until": lambda store: store.locked_until(KEY),
    "sweep": lambda store: store.sweep("", older_than=HOUR),
}
call = pytest.mark.parametrize("act", CALLS.values(), ids=CALLS)
EVERYTHING = (
    "ListObjectsV2",
    "ListMultipartUploads",
    "GetBucketVersioning",
    "PutObject",
    "GetObject",
    "HeadObject",
    "DeleteObject",
)


# What is written


def test_an_object_of_several_parts_is_whole(store: S3Store, s3_proxy: S3Proxy) -> None:
    data = os.urandom(SEVERAL_PARTS)
    stored = store.write(KEY, stream_of(data[at : at + 99_999] for at in range(0, len(data), 99_999)))
    assert (stored.sha256, stored.size_bytes) == (hashlib.sha256(data).hexdigest(), SEVERAL_PARTS)
    assert s3_proxy.count("UploadPart") == 3
    with store.open(KEY) as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == stored.sha256


def test_an_object_of_exactly_one_part_is_whole(store: S3Store, s3_direct: S3Client) -> None:
    assert store.write(KEY, io.BytesIO(bytes(part_bytes(1)))).size_bytes == part_bytes(1)
    assert [found.size_bytes for found in store.objects("")] == [part_bytes(1)]
    assert uploads(s3_direct, store.bucket) == 0


def test_ten_thousand_parts_hold_five_terabytes() -> None:
    sizes = [part_bytes(number) for number in range(1, 10_001)]
    assert sum(sizes) > 5 * 10**12
    assert sizes == sorted(sizes)
    assert 5 * MIB <= sizes[0] <= sizes[-1] <= 5 << 30


@pytest.mark.parametrize("size", [1, SEVERAL_PARTS])
def test_every_part_is_sent_with_its_checksum(store: S3Store, s3_proxy: S3Proxy, size: int) -> None:
    store.write(KEY, io.BytesIO(bytes(size)))
    sent = [headers for name, _, headers in s3_proxy.requests if name in {"PutObject", "UploadPart"}]
    assert sent
    assert all(headers.get("x-amz-checksum-crc32") for headers in sent)


@pytest.mark.parametrize(("operation", "size"), [("PutObject", 100), ("UploadPart", SEVERAL_PARTS)])
def test_what_was_damaged_on_the_way_is_refused(
    store: S3Store, s3_proxy: S3Proxy, s3_direct: S3Client, operation: str, size: int
) -> None:
    s3_proxy.breaks(operation, damages_the_body)
    with pytest.raises(TransientError, match="BadDigest"):
        store.write(KEY, io.BytesIO(os.urandom(size)))
    assert keys(store) == []
    assert uploads(s3_direct, store.bucket) == 0


def test_a_source_that_fails_after_several_parts_leaves_nothing(
    store: S3Store, s3_proxy: S3Proxy, s3_direct: S3Client
) -> None:
    def dump() -> Iterator[bytes]:
        yield from (bytes(MIB) for _ in range(SEVERAL_PARTS // MIB))
        raise RuntimeError("pg_dump ended with 1")

    with pytest.raises(RuntimeError, match="pg_dump ended with 1"):
        store.write(KEY, stream_of(dump()))
    assert s3_proxy.count("UploadPart") == 2
    assert keys(store) == []
    assert uploads(s3_direct, store.bucket) == 0


def test_an_upload_is_given_up_when_the_service_is_silent(
    impatient: S3Store, store: S3Store, s3_proxy: S3Proxy
) -> None:
    s3_proxy.breaks("UploadPart", never_answers, times=FOR_EVER)
    s3_proxy.breaks("AbortMultipartUpload", INTERNAL_ERROR)
    with pytest.raises(TransientError, match=f"{KEY}, part .: the service does not answer: Read timeout"):
        impatient.write(KEY, io.BytesIO(bytes(SEVERAL_PARTS)))
    assert keys(store) == []


def test_an_object_of_another_size_than_was_sent_is_removed(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("HeadObject", with_header("Content-Length", "4"))
    with pytest.raises(RejectedError, match="5 bytes were sent and the service has 4"):
        store.write(KEY, io.BytesIO(b"12345"))
    assert keys(store) == []


def test_a_bad_new_version_is_removed_and_the_old_one_stays(
    s3_through: S3Client, s3_proxy: S3Proxy, s3_direct: S3Client
) -> None:
    store = S3Store(s3_through, new_bucket(s3_direct, versioned=True))
    store.write(KEY, io.BytesIO(b"old"))
    s3_proxy.breaks("HeadObject", with_header("Content-Length", "4"))
    with pytest.raises(RejectedError, match="5 bytes were sent"):
        store.write(KEY, io.BytesIO(b"12345"))
    assert store.read(KEY) == b"old"
    assert versions(s3_direct, store.bucket) == 1


def test_a_large_stream_is_written_in_little_memory(s3_url: str, s3_direct: S3Client, s3_bucket: str) -> None:
    script = """
import io, sys, tracemalloc
from runbook.clients.s3_store import S3Store
from tests.runbook.s3_server import s3_client, stream_of
store = S3Store(s3_client(sys.argv[1]), sys.argv[2])
store.write("small", io.BytesIO(b"x"))
tracemalloc.start()
stored = store.write("large", stream_of(bytes([number % 251]) * (1 << 20) for number in range(200)))
print(stored.size_bytes, tracemalloc.get_traced_memory()[1])
"""
    argv = [sys.executable, "-c", script, s3_url, s3_bucket]
    done = subprocess.run(argv, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    size, peak_bytes = (int(word) for word in done.stdout.split())
    assert size == 200 * MIB == s3_direct.head_object(Bucket=s3_bucket, Key="large")["ContentLength"]
    assert peak_bytes < 100 * MIB


# What goes wrong on the way


@pytest.mark.parametrize("name", ["write", "delete"])
def test_one_error_of_the_service_is_not_noticed(patient: S3Store, s3_proxy: S3Proxy, name: str) -> None:
    for operation in EVERYTHING:
        s3_proxy.breaks(operation, INTERNAL_ERROR)
    CALLS[name](patient)
    assert len(s3_proxy.requests) > 1


@call
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(INTERNAL_ERROR, id="500"),
        pytest.param(says(503, "SlowDown"), id="503"),
        pytest.param(says(429, "TooManyRequests"), id="429"),
        pytest.param(loses_the_answer, id="lost connection"),
    ],
)
def test_a_service_that_stays_broken_is_worth_another_try(
    store: S3Store, s3_proxy: S3Proxy, act: Callable[[S3Store], object], fault: Fault
) -> None:
    for operation in EVERYTHING:
        s3_proxy.breaks(operation, fault, times=FOR_EVER)
    with pytest.raises(TransientError, match=f"s3://{store.bucket}"):
        act(store)


@pytest.mark.parametrize("name", ["write", "read"])
def test_a_silent_service_is_worth_another_try(impatient: S3Store, s3_proxy: S3Proxy, name: str) -> None:
    for operation in EVERYTHING:
        s3_proxy.breaks(operation, never_answers, times=FOR_EVER)
    with pytest.raises(TransientError, match="does not answer: Read timeout"):
        CALLS[name](impatient)


def test_an_error_that_stays_is_told_after_the_last_try(patient: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("GetObject", INTERNAL_ERROR, times=FOR_EVER)
    with pytest.raises(TransientError, match="GetObject was answered with HTTP 500 InternalError"):
        patient.read(KEY)
    assert s3_proxy.count("GetObject") == 3


def test_a_part_whose_connection_breaks_is_sent_again(patient: S3Store, s3_proxy: S3Proxy) -> None:
    data = os.urandom(SEVERAL_PARTS)
    s3_proxy.breaks("UploadPart", resets_in_the_middle, after=1)
    stored = patient.write(KEY, io.BytesIO(data))
    assert s3_proxy.count("UploadPart") == 4
    assert stored.sha256 == hashlib.sha256(patient.read(KEY)).hexdigest()


def test_a_part_whose_connection_breaks_for_ever_leaves_nothing(
    store: S3Store, s3_proxy: S3Proxy, s3_direct: S3Client
) -> None:
    s3_proxy.breaks("UploadPart", resets_in_the_middle, times=FOR_EVER)
    with pytest.raises(TransientError, match="the service does not answer"):
        store.write(KEY, io.BytesIO(bytes(SEVERAL_PARTS)))
    assert keys(store) == []
    assert uploads(s3_direct, store.bucket) == 0


def test_an_upload_that_somebody_swept_away_is_worth_another_try(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("UploadPart", says(404, "NoSuchUpload"))
    with pytest.raises(TransientError, match="NoSuchUpload"):
        store.write(KEY, io.BytesIO(bytes(SEVERAL_PARTS)))


@pytest.mark.parametrize("name", ["create", "replace"])
def test_a_write_whose_answer_was_lost_is_done(patient: S3Store, s3_proxy: S3Proxy, name: str) -> None:
    s3_proxy.breaks("PutObject", loses_the_answer)
    CALLS[name](patient)
    assert patient.read(KEY) == b"x"


@pytest.mark.parametrize("name", ["write", "create"])
def test_a_write_whose_last_answer_was_lost_is_done(store: S3Store, s3_proxy: S3Proxy, name: str) -> None:
    s3_proxy.breaks("PutObject", loses_the_answer)
    CALLS[name](store)
    assert store.read(KEY) == b"x"


def test_an_upload_whose_last_answer_was_lost_is_done(store: S3Store, s3_proxy: S3Proxy, s3_direct: S3Client) -> None:
    s3_proxy.breaks("CompleteMultipartUpload", loses_the_answer)
    assert store.write(KEY, io.BytesIO(bytes(SEVERAL_PARTS))).size_bytes == SEVERAL_PARTS
    assert uploads(s3_direct, store.bucket) == 0
    s3_proxy.breaks("CompleteMultipartUpload", INTERNAL_ERROR)
    with pytest.raises(TransientError):
        store.write(KEY, io.BytesIO(bytes(SEVERAL_PARTS)))
    assert uploads(s3_direct, store.bucket) == 0


def test_somebody_elses_object_is_not_taken_for_ours(store: S3Store, s3_proxy: S3Proxy) -> None:
    store.create(KEY, b"x")
    with pytest.raises(ObjectExistsError, match=KEY):
        store.create(KEY, b"x")
    s3_proxy.breaks("PutObject", INTERNAL_ERROR)
    with pytest.raises(TransientError, match="HTTP 500"):
        store.write(KEY, io.BytesIO(b"x"))
    s3_proxy.breaks("PutObject", says(409, "ConditionalRequestConflict"))
    with pytest.raises(ObjectExistsError, match="somebody is writing it"):
        store.create(KEY, b"x")


@pytest.mark.parametrize("name", ["read", "open"])
@pytest.mark.parametrize("size", [100, 3 * MIB])
def test_a_download_that_is_cut_is_no_short_object(store: S3Store, s3_proxy: S3Proxy, name: str, size: int) -> None:
    store.write(KEY, io.BytesIO(os.urandom(size)))
    s3_proxy.breaks("GetObject", cuts_the_download, times=FOR_EVER)
    with pytest.raises(TransientError, match=KEY):
        CALLS[name](store)


def test_an_error_of_whoever_reads_comes_out_as_it_is(store: S3Store) -> None:
    store.create(KEY, b"12345")
    with pytest.raises(ZeroDivisionError), store.open(KEY) as stream:
        raise ZeroDivisionError(stream.read(2))
    assert stream.closed


# What the service refuses


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "may not s3:GetObject here"),
        (403, "InvalidAccessKeyId", "does not know the access key"),
        (403, "SignatureDoesNotMatch", "the secret does not fit the access key"),
        (400, "ExpiredToken", "has expired"),
        (403, "RequestTimeTooSkewed", "the clock of this machine"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region"),
        (404, "NoSuchBucket", "there is no such bucket"),
        (501, "NotImplemented", "GetObject was answered with HTTP 501 NotImplemented"),
    ],
)
def test_a_refusal_is_put_in_words_and_tried_once(
    patient: S3Store, s3_proxy: S3Proxy, status: int, code: str, words: str
) -> None:
    s3_proxy.breaks("GetObject", says(status, code), times=FOR_EVER)
    with pytest.raises(RejectedError, match=words) as caught:
        patient.read(KEY)
    assert not isinstance(caught.value, MissingObjectError)
    assert s3_proxy.count("GetObject") == 1


def test_a_bucket_elsewhere_is_named_with_its_region(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks(
        "GetObject", says(301, "PermanentRedirect", headers={"x-amz-bucket-region": "eu-west-1"}), times=FOR_EVER
    )
    with pytest.raises(RejectedError, match=r"another region \(eu-west-1\)"):
        store.read(KEY)


@call
@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_no_key_is_in_any_error(store: S3Store, s3_proxy: S3Proxy, act: Callable[[S3Store], object], code: str) -> None:
    indiscreet = says(403, code, f"{ACCESS_KEY} signed with {SECRET_KEY}")
    for operation in EVERYTHING:
        s3_proxy.breaks(operation, indiscreet, times=FOR_EVER)
    with pytest.raises(RejectedError) as caught:
        act(store)
    shown = "".join(traceback.format_exception(caught.value))
    assert ACCESS_KEY not in shown
    assert SECRET_KEY not in shown


@call
def test_a_missing_bucket_is_not_worth_another_try(s3_through: S3Client, act: Callable[[S3Store], object]) -> None:
    with pytest.raises(RejectedError, match="s3://no-such-bucket"):
        act(S3Store(s3_through, "no-such-bucket"))


def test_a_service_that_is_not_there_is_worth_another_try() -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        client = s3_client(f"http://127.0.0.1:{reserved.getsockname()[1]}", attempts=1)
        with closing(client), pytest.raises(TransientError, match=r"Could not connect .* check the endpoint"):
            S3Store(client, "backups").check()


def test_a_certificate_that_nobody_vouches_for_is_refused(s3_tls_proxy: S3Proxy) -> None:
    client = s3_client(s3_tls_proxy.url, attempts=1)
    with closing(client), pytest.raises(RejectedError, match="certificate of the service is not trusted"):
        S3Store(client, "backups").check()


# The check before a deploy


@pytest.mark.parametrize(
    ("operation", "permission"),
    [
        ("ListObjectsV2", "s3:ListBucket here"),
        ("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
        ("CreateMultipartUpload", "s3:PutObject"),
        ("AbortMultipartUpload", "s3:AbortMultipartUpload"),
        ("PutObject", "s3:PutObject"),
        ("GetObject", "s3:GetObject"),
        ("GetBucketVersioning", "s3:GetBucketVersioning"),
        ("DeleteObject", "s3:DeleteObject"),
    ],
)
def test_the_check_names_the_permission_that_is_missing(
    store: S3Store, s3_proxy: S3Proxy, operation: str, permission: str
) -> None:
    s3_proxy.breaks(operation, says(403, "AccessDenied"), times=FOR_EVER)
    with pytest.raises(RejectedError, match=f"may not {permission}"):
        store.check()


@pytest.mark.parametrize(
    ("operation", "permission"),
    [
        ("GetObjectLockConfiguration", "s3:GetBucketObjectLockConfiguration"),
        ("GetObjectRetention", "s3:GetObjectRetention"),
        ("ListObjectVersions", "s3:ListBucketVersions"),
    ],
)
def test_the_check_names_the_permission_that_is_missing_for_object_lock(
    s3_through: S3Client, s3_direct: S3Client, s3_proxy: S3Proxy, operation: str, permission: str
) -> None:
    store = S3Store(s3_through, new_bucket(s3_direct, lockable=True), "", ObjectLock("GOVERNANCE", 1))
    s3_proxy.breaks("GetObjectRetention", says(404, "NoSuchObjectLockConfiguration"))
    s3_proxy.breaks(operation, says(403, "AccessDenied"))
    with pytest.raises(RejectedError, match=f"may not {permission} here"):
        store.check()


def test_the_check_refuses_a_service_that_lets_two_writers_win(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("PutObject", forgets_header("If-None-Match"), times=FOR_EVER)
    with pytest.raises(RejectedError, match="ignores `If-None-Match`"):
        store.check()
    assert keys(store) == []


def test_the_check_refuses_a_bucket_that_cannot_lock(s3_through: S3Client, s3_bucket: str) -> None:
    with pytest.raises(RejectedError, match="the bucket has no Object Lock"):
        S3Store(s3_through, s3_bucket, "", ObjectLock("COMPLIANCE", 1)).check()


def test_the_check_passes_a_bucket_that_locks_and_leaves_nothing(
    s3_through: S3Client, s3_direct: S3Client, s3_proxy: S3Proxy
) -> None:
    store = S3Store(s3_through, new_bucket(s3_direct, lockable=True), "", ObjectLock("COMPLIANCE", 1))
    s3_proxy.breaks("GetObjectRetention", says(404, "NoSuchObjectLockConfiguration"))
    store.check()
    assert versions(s3_direct, store.bucket) == 0


def test_the_check_hides_its_probe_where_the_bucket_locks_whatever_is_new(
    s3_through: S3Client, s3_direct: S3Client
) -> None:
    bucket = new_bucket(s3_direct, lockable=True)
    s3_direct.put_object_lock_configuration(
        Bucket=bucket,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}},
        },
    )
    store = S3Store(s3_through, bucket)
    store.check()
    assert keys(store) == []


# Versions and Object Lock


def test_deleting_in_a_bucket_with_versions_frees_the_room(
    s3_through: S3Client, s3_direct: S3Client, s3_proxy: S3Proxy
) -> None:
    bucket = new_bucket(s3_direct, versioned=True)
    store = S3Store(s3_through, bucket)
    for data in (b"1", b"2", b"3"):
        store.replace(KEY, data)
    s3_direct.delete_object(Bucket=bucket, Key=KEY)
    store.replace(KEY, b"4")
    store.replace(f"{KEY}.meta.json", b"{}")
    s3_proxy.breaks("ListObjectVersions", in_pages_of_two, times=FOR_EVER)
    store.delete([KEY])
    assert versions(s3_direct, bucket) == 1
    assert keys(store) == [f"{KEY}.meta.json"]
    assert s3_proxy.count("ListObjectVersions") > 1


def test_an_interrupted_deletion_brings_no_old_version_back(
    s3_through: S3Client, s3_direct: S3Client, s3_proxy: S3Proxy
) -> None:
    store = S3Store(s3_through, new_bucket(s3_direct, versioned=True))
    for data in (b"1", b"2", b"3"):
        store.replace(KEY, data)
    s3_proxy.breaks("DeleteObject", says(403, "AccessDenied"), after=2)
    with pytest.raises(RejectedError, match="s3:DeleteObject"):
        store.delete([KEY])
    assert store.read(KEY) == b"3"


def test_a_service_that_knows_no_versions_is_deleted_from(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("GetBucketVersioning", says(501, "NotImplemented"))
    store.create(KEY, b"x")
    store.delete([KEY])
    assert keys(store) == []


@pytest.fixture
def locking(s3_through: S3Client, s3_direct: S3Client) -> S3Store:
    return S3Store(s3_through, new_bucket(s3_direct, lockable=True), "production", ObjectLock("GOVERNANCE", 3))


def write_parts(store: S3Store) -> None:
    store.write(KEY, io.BytesIO(bytes(SEVERAL_PARTS)))


def create_protected(store: S3Store) -> None:
    store.create(KEY, b"x", protected=True)


@pytest.mark.parametrize("act", [CALLS["create"], CALLS["replace"]], ids=["create", "replace"])
def test_a_record_that_has_to_change_is_not_protected(locking: S3Store, act: Callable[[S3Store], object]) -> None:
    act(locking)
    assert locking.locked_until(KEY) is None
    locking.delete([KEY])
    assert keys(locking) == []


@pytest.mark.parametrize(
    "act", [CALLS["write"], write_parts, create_protected], ids=["in one piece", "in parts", "created"]
)
def test_what_a_backup_is_made_of_is_protected_from_deletion(
    locking: S3Store, s3_direct: S3Client, act: Callable[[S3Store], object]
) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    act(locking)
    until = locking.locked_until(KEY)
    assert until is not None
    assert before <= until - timedelta(days=3) <= datetime.now(UTC)
    with pytest.raises(ObjectLockedError, match=f"until {until:%Y-%m-%d %H:%M:%S} UTC") as caught:
        locking.delete([KEY])
    assert not isinstance(caught.value, TransientError)
    assert keys(locking) == [KEY]
    found = s3_direct.list_object_versions(Bucket=locking.bucket).get("Versions", [])
    s3_direct.delete_object(  # what GOVERNANCE lets somebody with the right to do
        Bucket=locking.bucket,
        Key=found[0].get("Key", ""),
        VersionId=found[0].get("VersionId", ""),
        BypassGovernanceRetention=True,
    )
    assert keys(locking) == []


def test_protection_ends_by_the_clock_of_the_service(locking: S3Store, s3_proxy: S3Proxy) -> None:
    ahead = datetime(2050, 1, 1, tzinfo=UTC)
    s3_proxy.clock = lambda: ahead
    locking.create(KEY, b"x", protected=True)
    assert locking.locked_until(KEY) == ahead + timedelta(days=3)
    s3_proxy.clock = lambda: ahead + timedelta(days=4)
    assert locking.locked_until(KEY) is None


def test_a_legal_hold_has_no_end(s3_through: S3Client, s3_direct: S3Client) -> None:
    store = S3Store(s3_through, new_bucket(s3_direct, lockable=True))
    store.create(KEY, b"x")
    s3_direct.put_object_legal_hold(Bucket=store.bucket, Key=KEY, LegalHold={"Status": "ON"})
    assert store.locked_until(KEY) == datetime.max.replace(tzinfo=UTC)
    with pytest.raises(ObjectLockedError, match="by a legal hold"):
        store.delete([KEY])


def test_an_object_that_should_be_protected_and_is_not_is_refused(locking: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("CreateMultipartUpload", forgets_header("x-amz-object-lock-mode"))
    s3_proxy.breaks("PutObjectRetention", does_nothing)
    with pytest.raises(RejectedError, match="does not say that Object Lock protects it"):
        write_parts(locking)
    assert keys(locking) == []


def test_the_protection_of_a_missing_object_is_not_made_up(store: S3Store) -> None:
    with pytest.raises(MissingObjectError, match=KEY):
        store.locked_until(KEY)


# Lists, sweeps, keys


def test_long_lists_are_listed_to_their_end(store: S3Store, s3_proxy: S3Proxy) -> None:
    expected = [f"logs/{number}.json" for number in range(5)]
    for key in expected:
        store.create(key, b"{}")
    s3_proxy.breaks("ListObjectsV2", in_pages_of_two, times=FOR_EVER)
    assert keys(store) == expected
    assert s3_proxy.count("ListObjectsV2") == 3


def test_a_list_that_breaks_off_is_no_short_list(store: S3Store, s3_proxy: S3Proxy) -> None:
    for number in range(5):
        store.create(f"logs/{number}.json", b"{}")
    s3_proxy.breaks("ListObjectsV2", in_pages_of_two)
    listed = store.objects("")
    next(listed)
    s3_proxy.breaks("ListObjectsV2", INTERNAL_ERROR)
    with pytest.raises(TransientError, match="ListObjectsV2"):
        list(listed)


def test_a_folder_made_in_a_console_is_no_object(store: S3Store, s3_direct: S3Client) -> None:
    for key in ("production/", "production/logs/"):
        s3_direct.put_object(Bucket=store.bucket, Key=key)
    store.create("logs/a.json", b"{}")
    assert keys(store) == ["logs/a.json"]


def test_unfinished_uploads_are_swept_by_the_clock_of_the_service(
    store: S3Store, s3_direct: S3Client, s3_proxy: S3Proxy
) -> None:
    for key in ("production/database/a", "production/database/b", "production/logs/c", "production2/database/d"):
        s3_direct.create_multipart_upload(Bucket=store.bucket, Key=key)
    begun = datetime(2010, 11, 10, 20, 48, 33, tzinfo=UTC)  # what the server says of every upload
    s3_proxy.clock = lambda: begun + HOUR
    assert store.sweep("database/", older_than=2 * HOUR) == 0
    assert uploads(s3_direct, store.bucket) == 4
    assert store.sweep("database/", older_than=HOUR / 2) == 2
    assert store.sweep("database/", older_than=HOUR / 2) == 0
    assert store.sweep("", older_than=HOUR / 2) == 1
    assert uploads(s3_direct, store.bucket) == 1


def test_an_upload_that_ended_before_it_was_swept_is_not_counted(
    store: S3Store, s3_direct: S3Client, s3_proxy: S3Proxy
) -> None:
    s3_direct.create_multipart_upload(Bucket=store.bucket, Key="production/a")
    s3_proxy.breaks("AbortMultipartUpload", says(404, "NoSuchUpload"))
    assert store.sweep("", older_than=HOUR) == 0


def test_a_service_without_a_clock_is_not_swept(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("ListMultipartUploads", without_date)
    with pytest.raises(RejectedError, match="does not say what time it is"):
        store.sweep("", older_than=HOUR)


@pytest.mark.parametrize(
    "key", ["with space", "ü/ñ/日本", "a+b&c=d?e#f", "100%/%2F", "quo\"te's", "<xml>&amp;", "~/.hidden", "emoji 🐘"]
)
def test_odd_keys_are_keys(store: S3Store, key: str) -> None:
    store.write(key, io.BytesIO(b"1"))
    with pytest.raises(ObjectExistsError):
        store.create(key, b"2")
    assert keys(store) == [key]
    assert [found.key for found in store.objects(key)] == [key]
    assert store.read(key) == b"1"
    store.delete([key])
    assert keys(store) == []


def test_stores_in_one_bucket_do_not_see_each_other(s3_through: S3Client, s3_bucket: str) -> None:
    prefixes = ["a", "ab", "a/b"]
    stores = [S3Store(s3_through, s3_bucket, prefix) for prefix in prefixes]
    for store, prefix in zip(stores, prefixes, strict=True):
        store.create("x", prefix.encode())
    assert [keys(store) for store in stores] == [["b/x", "x"], ["x"], ["x"]]
    stores[0].delete(["x"])
    assert [store.read("x") for store in stores[1:]] == [b"ab", b"a/b"]


@pytest.mark.parametrize("prefix", ["production", "/production/", "production/"])
def test_slashes_around_a_prefix_mean_nothing(s3_through: S3Client, s3_bucket: str, prefix: str) -> None:
    store = S3Store(s3_through, s3_bucket, prefix)
    store.create(KEY, b"x")
    assert store.place == f"s3://{s3_bucket}/production"
    assert S3Store(s3_through, s3_bucket).read(f"production/{KEY}") == b"x"


def test_every_error_is_one_of_the_runbook(store: S3Store, s3_proxy: S3Proxy) -> None:
    s3_proxy.breaks("GetObject", says(418, "Teapot", "short and stout"))
    with pytest.raises(ServiceError, match="HTTP 418 Teapot: short and stout"):
        store.read(KEY)

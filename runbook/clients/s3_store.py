"""An object store in a bucket of S3, or of any service that speaks its protocol."""

from __future__ import annotations

import io
import secrets
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, BinaryIO

from botocore.config import Config
from botocore.exceptions import ClientError

from runbook.clients.object_store import (
    CHUNK_BYTES,
    ObjectExistsError,
    ObjectInfo,
    ObjectLockedError,
)
from runbook.clients.s3_errors import forbidden, not_implemented, s3_errors, service_time
from runbook.clients.s3_object import CURRENT, ONLY_NEW, LockMode, Retention, S3Object, Version, write_token
from runbook.clients.s3_upload import Upload
from runbook.errors import RejectedError, TransientError
from runbook.manifest import StoredFile

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class ObjectLock:
    """Protection of every new object against deletion, for so many days.

    GOVERNANCE can be lifted by somebody with the right to; COMPLIANCE by nobody.
    """

    mode: LockMode
    days: int


def client_config(*, path_style: bool) -> Config:
    """Return how a client of a store behaves: each request is tried 5 times, and never waits for ever.

    Connecting may take 5 s, and the service may be silent for 60 s. `path_style` is what services other than S3
    itself need.
    """
    return Config(
        connect_timeout=5,
        read_timeout=60,
        retries={"mode": "standard", "total_max_attempts": 5},
        max_pool_connections=32,
        tcp_keepalive=True,
        s3={"addressing_style": "path" if path_style else "auto"},
    )


@dataclass(frozen=True)
class S3Store:
    """See `ObjectStore`. Keys are below `prefix`.

    The credentials need, on the bucket: s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetBucketVersioning; when it
    is versioned s3:ListBucketVersions; with Object Lock s3:GetBucketObjectLockConfiguration. On the objects below
    `prefix`: s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload; when versioned
    s3:DeleteObjectVersion; with Object Lock s3:PutObjectRetention, s3:GetObjectRetention, s3:GetObjectLegalHold.
    """

    client: S3Client = field(repr=False)
    bucket: str
    prefix: str = ""
    lock: ObjectLock | None = None

    @property
    def place(self) -> str:
        """See `ObjectStore.place`."""
        return f"s3://{self.bucket}/{self._full('')}".rstrip("/")

    def check(self) -> None:
        """See `ObjectStore.check`; tries each kind of request that the store makes, and leaves nothing behind."""
        self.now()
        with s3_errors(self.place):
            if self.lock:
                self._require_object_lock()
            self.client.list_multipart_uploads(Bucket=self.bucket, Prefix=self._full(""), MaxUploads=1)
        key = f".probe-{secrets.token_hex(8)}"
        probe, data = self._object(key), secrets.token_bytes(64)
        self._check_upload(probe)
        probe.put(data, write_token(), Retention(), ONLY_NEW)
        try:
            self._check_probe(probe, data)
        finally:
            try:
                self.delete([key])
            except ObjectLockedError:  # the bucket protects whatever is new
                probe.delete()

    def write(self, key: str, source: BinaryIO) -> StoredFile:
        """See `ObjectStore.write`; in parts, of which S3 checks each against its checksum."""
        return Upload(self._object(key), self._retention()).write(source)

    def create(self, key: str, data: bytes, *, protected: bool = False) -> None:
        """See `ObjectStore.create`."""
        target, token = self._object(key), write_token()
        try:
            target.put(data, token, self._retention() if protected else Retention(), ONLY_NEW)
        except TransientError:
            if target.written_with(token) is None:  # else only an answer was lost
                raise

    def replace(self, key: str, data: bytes) -> None:
        """See `ObjectStore.replace`."""
        self._object(key).put(data, write_token(), Retention())

    def read(self, key: str) -> bytes:
        """See `ObjectStore.read`."""
        with self.open(key) as stream:
            return stream.read()

    @contextmanager
    def open(self, key: str) -> Generator[BinaryIO]:
        """See `ObjectStore.open`; a connection that breaks is a `TransientError`, never an early end."""
        target = self._object(key)
        with s3_errors(target.place):
            body = self.client.get_object(Bucket=self.bucket, Key=target.key)["Body"]
        with io.BufferedReader(_Body(body, target.place), CHUNK_BYTES) as stream:
            yield stream

    def objects(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `ObjectStore.objects`; without the empty objects by which consoles mark folders."""
        above = len(self._full(""))
        with s3_errors(self.place):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._full(prefix))
            for page in pages:
                listed: list[Any] = page.get("Contents", [])
                for found in listed:
                    if not found["Key"].endswith("/"):
                        yield ObjectInfo(found["Key"][above:], found["Size"], found["LastModified"].astimezone(UTC))

    def delete(self, keys: Iterable[str]) -> None:
        """See `ObjectStore.delete`; in a versioned bucket with all versions, so that it takes no room any more."""
        versioned = self._is_versioned()
        for key in keys:
            target = self._object(key)
            for version in self._versions(target) if versioned else [CURRENT]:
                target.delete(version)

    def locked_until(self, key: str) -> datetime | None:
        """See `ObjectStore.locked_until`; `datetime.max` in UTC for a legal hold."""
        return self._object(key).locked_until()

    def sweep(self, prefix: str, *, older_than: timedelta) -> int:
        """See `ObjectStore.sweep`; aborts multipart uploads, whose parts nobody sees and everybody pays for."""
        swept = 0
        with s3_errors(self.place):
            pages = self.client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self.bucket, Prefix=self._full(prefix)
            )
            for page in pages:
                latest = service_time(page, self.place) - older_than
                listed: list[Any] = page.get("Uploads", [])
                for found in listed:
                    if found["Initiated"] < latest:
                        with suppress(self.client.exceptions.NoSuchUpload):
                            self._abort(found["Key"], found["UploadId"])
                            swept += 1
        return swept

    def _full(self, key: str) -> str:
        below = self.prefix.strip("/")
        return f"{below}/{key}" if below else key

    def _object(self, key: str) -> S3Object:
        return S3Object(self.client, self.bucket, self._full(key))

    def now(self) -> datetime:
        """See `ObjectStore.now`."""
        with s3_errors(self.place):
            answer = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._full(""), MaxKeys=1)
        return service_time(answer, self.place)

    def _retention(self) -> Retention:
        if self.lock is None:
            return Retention()
        until = self.now() + timedelta(days=self.lock.days)
        return Retention(ObjectLockMode=self.lock.mode, ObjectLockRetainUntilDate=until)

    def _abort(self, full_key: str, upload_id: str) -> None:
        self.client.abort_multipart_upload(Bucket=self.bucket, Key=full_key, UploadId=upload_id)

    def _is_versioned(self) -> bool:
        """Whether a bucket keeps versions; also one that did once, and may have some left."""
        with s3_errors(self.place):
            try:
                return bool(self.client.get_bucket_versioning(Bucket=self.bucket).get("Status"))
            except ClientError as error:
                if not_implemented(error):
                    return False
                raise

    def _versions(self, target: S3Object) -> list[Version]:
        """Return all versions of one object, the current one last: none of the older ones comes back meanwhile."""
        found: list[tuple[bool, str]] = []
        with s3_errors(target.place):
            pages = self.client.get_paginator("list_object_versions").paginate(Bucket=self.bucket, Prefix=target.key)
            for page in pages:
                listed = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
                own = [entry for entry in listed if entry.get("Key") == target.key]
                found += [(entry.get("IsLatest", False), entry.get("VersionId", "null")) for entry in own]
                if len(own) < len(listed):  # keys that begin with this one come after it
                    break
        return [Version(VersionId=version_id) for _, version_id in sorted(found, key=lambda entry: entry[0])]

    def _require_object_lock(self) -> None:
        answer = self.client.get_object_lock_configuration(Bucket=self.bucket)
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise RejectedError(
                f"{self.place}: the bucket has no Object Lock. Enable it on the bucket, or leave the store's lock mode "
                "and days empty."
            )

    def _check_upload(self, probe: S3Object) -> None:
        """Begin an upload as `write` does, and give it up."""
        retention = self._retention()
        with s3_errors(probe.place):
            begun = self.client.create_multipart_upload(
                Bucket=self.bucket, Key=probe.key, ChecksumAlgorithm="CRC32", **retention
            )
            self._abort(probe.key, begun["UploadId"])

    def _check_probe(self, probe: S3Object, data: bytes) -> None:
        with s3_errors(probe.place):
            answer = self.client.get_object(Bucket=self.bucket, Key=probe.key)
            if answer["Body"].read() != data:
                raise RejectedError(f"{probe.place}: what was read is not what was written; use another service.")
        with suppress(ObjectExistsError):
            probe.put(data, write_token(), Retention(), ONLY_NEW)
            raise RejectedError(
                f"{probe.place}: the service let a second writer overwrite the first (it ignores `If-None-Match`). "
                "Two deploys could not be kept apart; use another service, or a newer release of this one."
            )
        if self.lock:
            self._check_reading_protection(probe)

    def _check_reading_protection(self, probe: S3Object) -> None:
        """Without the permission `HeadObject` keeps silent about protection; any other answer than 403 shows it."""
        with s3_errors(probe.place):
            try:
                self.client.get_object_retention(Bucket=self.bucket, Key=probe.key)
            except ClientError as error:
                if forbidden(error):
                    raise


class _Body(io.RawIOBase):
    """The body of an answer, with its errors in words."""

    def __init__(self, body: StreamingBody, what: str) -> None:
        self._body = body
        self._what = what

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        with s3_errors(self._what):
            data = self._body.read(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._body.close()
        super().close()

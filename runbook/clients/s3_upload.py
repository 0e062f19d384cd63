"""Writing a stream of unknown length to S3, in parts, in parallel, in constant memory.

Parts are 16 MiB for the first 78 GiB and then double, so that 10,000 parts, which S3 allows, hold 7.8 TiB. A part
must be at hand until the service has it, to be sent again. Parts of 16 MiB are kept in memory (64 MiB in all), larger
ones in unnamed files in the temporary folder (`TMPDIR`; two parts at a time, so at most 8 GiB when an object is
larger than 1.9 TiB). Services that want parts of one size (Cloudflare R2) take objects of up to 78 GiB.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import zlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, BinaryIO

from runbook.clients.object_store import CHUNK_BYTES
from runbook.clients.s3_errors import s3_errors
from runbook.clients.s3_object import Retention, S3Object, Version, checksum, version_of, write_token
from runbook.errors import RejectedError, ServiceError
from runbook.manifest import StoredFile

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

_log = logging.getLogger(__name__)

_SMALL_PART_BYTES = 16 << 20
_SMALL_PARTS_AT_ONCE = 4
_LARGE_PARTS_AT_ONCE = 2


def part_bytes(number: int) -> int:
    """Return the size of a part; `number` from 1 to 10,000."""
    return _SMALL_PART_BYTES << min(8, max(0, number // 500 - 9))


@dataclass
class _Part:
    """A part that was read and is not stored yet."""

    body: IO[bytes]
    size_bytes: int = 0
    crc32: int = 0

    def append(self, data: bytes) -> None:
        try:
            self.body.write(data)
        except OSError as error:
            raise RejectedError(
                f"a part of an upload does not fit into {tempfile.gettempdir()}: {error}. Make room there, or name "
                "another folder in TMPDIR."
            ) from error
        self.size_bytes += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)


class _Source:
    """Cuts a stream into parts; counts and hashes it on the way."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self.ended = False

    @property
    def stored(self) -> StoredFile:
        return StoredFile(sha256=self._sha256.hexdigest(), size_bytes=self._size_bytes)

    def part(self, size: int) -> _Part:
        """Read a part; it is shorter than `size` only at the end of the stream."""
        part = _Part(tempfile.SpooledTemporaryFile(max_size=_SMALL_PART_BYTES))  # noqa: SIM115 - whoever sends it
        try:
            while part.size_bytes < size and not self.ended:
                data = self._stream.read(min(CHUNK_BYTES, size - part.size_bytes))
                self._sha256.update(data)
                self._size_bytes += len(data)
                self.ended = not data
                part.append(data)
            part.body.seek(0)
        except BaseException:
            part.body.close()
            raise
        return part


@dataclass(frozen=True)
class Upload:
    """One write of one object."""

    target: S3Object
    retention: Retention
    token: dict[str, str] = field(default_factory=write_token)

    def write(self, stream: BinaryIO) -> StoredFile:
        """Store what `stream` gives; see `ObjectStore.write`. An error of `stream` comes out as it is."""
        source = _Source(stream)
        first = source.part(part_bytes(1))
        with first.body:
            version = self._whole(first) if source.ended else self._in_parts(first, source)
        self._confirm(source.stored, version)
        return source.stored

    def _whole(self, part: _Part) -> Version:
        try:
            return self.target.put(part.body.read(), self.token, self.retention)
        except ServiceError as error:
            return self._unless_stored(error)

    def _in_parts(self, first: _Part, source: _Source) -> Version:
        to = self.target
        with s3_errors(to.place):
            upload_id = to.client.create_multipart_upload(
                Bucket=to.bucket, Key=to.key, Metadata=self.token, ChecksumAlgorithm="CRC32", **self.retention
            )["UploadId"]
        try:
            parts = self._send_all(upload_id, first, source)
            return self._complete(upload_id, parts)
        except BaseException:
            self._abort(upload_id)
            raise

    def _send_all(self, upload_id: str, first: _Part, source: _Source) -> list[CompletedPartTypeDef]:
        sent: list[CompletedPartTypeDef] = []
        under_way: deque[Future[CompletedPartTypeDef]] = deque()
        part, number = first, 1
        with ThreadPoolExecutor(_SMALL_PARTS_AT_ONCE, "s3-upload") as pool:
            while part.size_bytes:
                under_way.append(pool.submit(self._send, upload_id, number, part))
                number += 1
                size = part_bytes(number)
                at_once = _SMALL_PARTS_AT_ONCE if size == _SMALL_PART_BYTES else _LARGE_PARTS_AT_ONCE
                while len(under_way) >= at_once:  # the part read next is one of them
                    sent.append(under_way.popleft().result())
                part = source.part(size)
            part.body.close()
            sent.extend(future.result() for future in under_way)
        return sent

    def _send(self, upload_id: str, number: int, part: _Part) -> CompletedPartTypeDef:
        to, crc32 = self.target, checksum(part.crc32)
        with part.body, s3_errors(f"{to.place}, part {number}"):
            answer = to.client.upload_part(
                Bucket=to.bucket,
                Key=to.key,
                UploadId=upload_id,
                PartNumber=number,
                Body=part.body,
                ContentLength=part.size_bytes,
                ChecksumAlgorithm="CRC32",
                ChecksumCRC32=crc32,
            )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": crc32}

    def _complete(self, upload_id: str, parts: list[CompletedPartTypeDef]) -> Version:
        to = self.target
        try:
            with s3_errors(to.place):
                answer = to.client.complete_multipart_upload(
                    Bucket=to.bucket, Key=to.key, UploadId=upload_id, MultipartUpload={"Parts": parts}
                )
        except ServiceError as error:
            return self._unless_stored(error)
        return version_of(answer.get("VersionId"))

    def _unless_stored(self, error: ServiceError) -> Version:
        """Raise `error`, unless only the answer was lost and the object is there."""
        version = self.target.written_with(self.token)
        if version is None:
            raise error
        return version

    def _confirm(self, expected: StoredFile, version: Version) -> None:
        """Raise, and remove the object, unless the service has what was sent, protected as it was asked to be."""
        try:
            head = self.target.head(version)
            if head["ContentLength"] != expected.size_bytes:
                raise RejectedError(
                    f"{self.target.place}: {expected.size_bytes} bytes were sent and the service has "
                    f"{head['ContentLength']}. The object was removed. Write it again; when that gives the same, the "
                    "service is not to be trusted."
                )
            mode, until = self.retention.get("ObjectLockMode"), self.retention.get("ObjectLockRetainUntilDate")
            if mode and until and not head.get("ObjectLockRetainUntilDate"):
                self.target.protect(mode, until, version)
        except ServiceError:
            self._remove(version)
            raise

    def _remove(self, version: Version) -> None:
        try:
            self.target.delete(version)
        except ServiceError as error:
            _log.warning("an object that is not to be used may be left: %s", error)

    def _abort(self, upload_id: str) -> None:
        to = self.target
        try:
            with s3_errors(to.place):
                to.client.abort_multipart_upload(Bucket=to.bucket, Key=to.key, UploadId=upload_id)
        except ServiceError as error:
            _log.warning("parts of an unfinished upload may be left until the next sweep: %s", error)

"""One object in a bucket: written whole, looked at, deleted for good."""

from __future__ import annotations

import base64
import secrets
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypedDict

from runbook.clients.object_store import MissingObjectError, ObjectLockedError
from runbook.clients.s3_errors import s3_errors, service_time
from runbook.errors import RejectedError, ServiceError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

LockMode = Literal["GOVERNANCE", "COMPLIANCE"]
_TOKEN = "runbook-write"  # noqa: S105 - the name of a field, not a secret
_FOR_EVER = datetime.max.replace(tzinfo=UTC)


class Retention(TypedDict, total=False):
    """How long a new object is protected, as the service wants it; empty: not at all."""

    ObjectLockMode: LockMode
    ObjectLockRetainUntilDate: datetime


class Condition(TypedDict, total=False):
    """When a new object may be written; empty: always."""

    IfNoneMatch: str


class Version(TypedDict, total=False):
    """Which version of an object; empty: the current one."""

    VersionId: str


CURRENT = Version()
ALWAYS = Condition()
ONLY_NEW = Condition(IfNoneMatch="*")


def write_token() -> dict[str, str]:
    """Return the metadata that tells the object of this write from every other one."""
    return {_TOKEN: secrets.token_hex(16)}


def checksum(crc32: int) -> str:
    """Return a CRC32 as the service wants it."""
    return base64.b64encode(crc32.to_bytes(4, "big")).decode()


@dataclass(frozen=True)
class S3Object:
    """An object by its full key."""

    client: S3Client = field(repr=False)
    bucket: str
    key: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"s3://{self.bucket}/{self.key}"

    def put(self, data: bytes, token: dict[str, str], retention: Retention, condition: Condition = ALWAYS) -> Version:
        """Store it in one request; return which version it became."""
        with s3_errors(self.place):
            answer = self.client.put_object(
                Bucket=self.bucket,
                Key=self.key,
                Body=data,
                Metadata=token,
                ChecksumAlgorithm="CRC32",
                ChecksumCRC32=checksum(zlib.crc32(data)),
                **retention,
                **condition,
            )
        return version_of(answer.get("VersionId"))

    def head(self, version: Version = CURRENT) -> HeadObjectOutputTypeDef:
        """Ask what the service knows about it; `MissingObjectError` when there is none."""
        with s3_errors(self.place):
            return self.client.head_object(Bucket=self.bucket, Key=self.key, **version)

    def written_with(self, token: dict[str, str]) -> Version | None:
        """Return the version that the write with this token made, if it is there and the service can be asked."""
        try:
            head = self.head()
        except ServiceError:
            return None
        return version_of(head.get("VersionId")) if head["Metadata"].get(_TOKEN) == token[_TOKEN] else None

    def protect(self, mode: LockMode, until: datetime, version: Version) -> None:
        """Protect it after it was written: some services overlook the protection of an upload in parts.

        Raises:
            RejectedError: it is still not protected, or the credentials may not see that it is.
        """
        with s3_errors(self.place):
            self.client.put_object_retention(
                Bucket=self.bucket, Key=self.key, Retention={"Mode": mode, "RetainUntilDate": until}, **version
            )
        if not self.head(version).get("ObjectLockRetainUntilDate"):
            raise RejectedError(
                f"{self.place}: the service does not say that Object Lock protects it. Allow the store's credentials "
                "s3:GetObjectRetention, or leave the store's lock mode and days empty."
            )

    def delete(self, version: Version = CURRENT) -> None:
        """Delete it, or one version of it for good; no error when it is gone.

        Raises:
            ObjectLockedError: Object Lock protects it; the message names the date.
        """
        try:
            with s3_errors(self.place):
                self.client.delete_object(Bucket=self.bucket, Key=self.key, **version)
        except MissingObjectError:
            return
        except RejectedError:
            until = self._protection(version)
            if until is None:
                raise
            rule = "by a legal hold" if until == _FOR_EVER else f"until {until:%Y-%m-%d %H:%M:%S} UTC"
            raise ObjectLockedError(
                f"{self.place} is protected by Object Lock {rule} and was not deleted. Delete it after that."
            ) from None

    def locked_until(self, version: Version = CURRENT) -> datetime | None:
        """Return until when it is protected by the service's clock, `datetime.max` for a legal hold, or None."""
        head = self.head(version)
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            return _FOR_EVER
        until = head.get("ObjectLockRetainUntilDate")
        return until.astimezone(UTC) if until and until > service_time(head, self.place) else None

    def _protection(self, version: Version) -> datetime | None:
        try:
            return self.locked_until(version)
        except ServiceError:  # that deleting was refused says more
            return None


def version_of(version_id: str | None) -> Version:
    """Return the version that an answer names; `null` is what some services call the only one there is."""
    return Version(VersionId=version_id) if version_id not in (None, "null") else CURRENT

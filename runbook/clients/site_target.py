"""Where the files of the status page are written: a folder that a web server serves, or a bucket of S3."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from runbook.clients.s3_errors import s3_errors
from runbook.errors import RejectedError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_KEEP_S = 30
_READABLE = 0o644  # the page is public


class SiteTarget(Protocol):
    """A place that users can read. Every method raises `ServiceError` when it cannot be written to."""

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        ...

    def write(self, name: str, data: bytes, *, content_type: str) -> None:
        """Write a file in place of the one there; a reader sees the old or the new one."""
        ...


@dataclass(frozen=True)
class FolderSite:
    """A folder."""

    path: Path

    @property
    def place(self) -> str:
        """Where it is."""
        return str(self.path)

    def write(self, name: str, data: bytes, *, content_type: str) -> None:  # noqa: ARG002 - by the name of the file
        """Write a file; the server that serves it knows the kind by its name."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor, fresh = tempfile.mkstemp(prefix=f".{name}-", dir=self.path)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    os.fchmod(file.fileno(), _READABLE)
                Path(fresh).replace(self.path / name)
            except OSError:
                Path(fresh).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise RejectedError(f"the status page cannot be written to {self.path}: {error}") from error


@dataclass(frozen=True)
class S3Site:
    """A folder in a bucket, which the bucket's policy lets everybody read."""

    client: S3Client
    bucket: str
    folder: str = ""

    @property
    def place(self) -> str:
        """Where it is."""
        return f"s3://{self.bucket}/{self.folder}".rstrip("/")

    def write(self, name: str, data: bytes, *, content_type: str) -> None:
        """Write a file with its kind; browsers and caches ask again after half a minute."""
        key = f"{self.folder.strip('/')}/{name}".lstrip("/")
        with s3_errors(self.place):
            self.client.put_object(
                Bucket=self.bucket, Key=key, Body=data, ContentType=content_type, CacheControl=f"max-age={_KEEP_S}"
            )

"""Where the static status page is written, as a form."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, S3Bucket
from pydantic import Field, HttpUrl, model_validator

from blocks.s3_store import connect_s3
from runbook.clients.site_target import FolderSite, S3Site, SiteTarget


class StatusSite(Block):
    """A folder that a web server serves, or a bucket of S3."""

    _block_type_name = "Runbook Status Site"
    _block_type_slug = "runbook-status-site"
    _description = "Where the static status page is written: a folder that a web server serves, or a bucket of S3."
    _logo_url = S3Bucket._logo_url  # pyright: ignore[reportPrivateUsage] - how a block is presented
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AmazonS3/latest/userguide/WebsiteHosting.html")

    folder: str = Field(description="Path of the folder; with a bucket: the folder in it, empty for none.")
    bucket: str = Field(default="", description="Name of the bucket; empty: a folder of the worker's machine.")
    credentials: AwsCredentials | None = Field(default=None, repr=False, description="Keys or role for the bucket.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.bucket) != (self.credentials is not None):
            raise ValueError("bucket and credentials belong together: give both, or none")
        if not self.bucket and not Path(self.folder).is_absolute():
            raise ValueError("folder has to be an absolute path: the worker's own folder is not served")
        return self

    def get_client(self) -> SiteTarget:
        """Return the place."""
        if self.credentials is None:
            return FolderSite(Path(self.folder))
        return S3Site(connect_s3(self.credentials, self.bucket), self.bucket, self.folder)

    def check(self) -> str:
        """Return where it is, after writing a file there.

        Raises:
            ServiceError: in words a person can act on.
        """
        target = self.get_client()
        target.write("check.txt", b"written by a check\n", content_type="text/plain")
        return f"{target.place} can be written"

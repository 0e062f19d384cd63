"""A backup store in a bucket of S3, or of a service that speaks its protocol, as a form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from prefect.blocks.core import Block
from prefect_aws import AwsCredentials, S3Bucket
from pydantic import Field, HttpUrl, model_validator

from runbook.clients.backup_store import BackupStore
from runbook.clients.s3_errors import s3_errors
from runbook.clients.s3_store import ObjectLock, S3Store, client_config
from runbook.errors import InvalidInputError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class S3BackupStore(Block):
    """A bucket that holds `database/backups/` and `logs/`."""

    _block_type_name = "S3 Backup Store"
    _block_type_slug = "s3-backup-store"
    _description = "Backups and the records of runs in a bucket of S3, or of a service that speaks its protocol."
    _logo_url = S3Bucket._logo_url  # pyright: ignore[reportPrivateUsage] - how a block is presented
    _documentation_url = HttpUrl("https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html")

    # Not an `S3Bucket`: its credentials are of two kinds, and Prefect's server answers 500 about the schema of a block,
    # such as an environment with two stores, that has such a choice in it twice.
    credentials: AwsCredentials = Field(
        repr=False,
        description="Keys, role or profile, and region. For another service than S3 their client parameters name its "
        "endpoint.",
    )
    bucket: str = Field(description="Name of the bucket.")
    folder: str = Field(default="", description="Folder in the bucket; empty: none.")
    lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = Field(
        default=None,
        description="Protect every new object with Object Lock. GOVERNANCE: somebody with the right to can lift it. "
        "COMPLIANCE: nobody can. Empty: no protection.",
    )
    lock_days: int | None = Field(default=None, ge=1, description="Days an object is protected; empty: none.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.lock_mode is None) != (self.lock_days is None):
            raise ValueError("lock_mode and lock_days belong together: give both, or none")
        parameters = self.credentials.aws_client_parameters
        if parameters.verify is False or (not parameters.use_ssl and parameters.endpoint_url is None):
            raise ValueError(
                "the certificate of the service is always verified: leave `verify` and `use_ssl` on, and give the file "
                "of a private authority as `verify_cert_path`"
            )
        if parameters.verify_cert_path and parameters.verify is None:
            raise ValueError("turn `verify` on: a saved block without it forgets its `verify_cert_path`")
        return self

    def get_client(self) -> BackupStore:
        """Return the client of this store.

        Raises:
            InvalidInputError: the endpoint is no URL.
            RejectedError: the credentials name a profile, region or role that cannot be used.
        """
        lock = ObjectLock(self.lock_mode, self.lock_days) if self.lock_mode and self.lock_days else None
        return BackupStore(S3Store(connect_s3(self.credentials, self.bucket), self.bucket, self.folder, lock))

    def check(self) -> str:
        """Return where the backups are, after writing there and reading it back.

        Raises:
            ServiceError: in words a person can act on: the bucket, the keys or what they may not do.
        """
        store = self.get_client()
        store.check()
        return f"{store.place} can be written and read"


def connect_s3(credentials: AwsCredentials, bucket: str) -> S3Client:
    """Return a client of the service that a bucket is at.

    Raises:
        InvalidInputError: the endpoint is no URL.
        RejectedError: the credentials name a profile, region or role that cannot be used.
    """
    parameters = credentials.aws_client_parameters.get_params_override()
    config = client_config(path_style="endpoint_url" in parameters)
    if own := parameters.pop("config", None):
        config = config.merge(own)
    with s3_errors(f"s3://{bucket}"):
        session: Any = credentials.get_boto3_session()
        try:
            return session.client("s3", region_name=credentials.region_name, config=config, **parameters)
        except ValueError as error:
            raise InvalidInputError(
                "endpoint_url", parameters.get("endpoint_url"), "a URL, such as https://s3.example.com", str(error)
            ) from error

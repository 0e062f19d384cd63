"""What S3 and the library that speaks to it say, in errors of the runbook.

No message of the service about credentials is repeated, and no error of the library is kept as the cause: both can
hold key ids and signatures.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from runbook.clients.object_store import MissingObjectError, ObjectExistsError
from runbook.errors import RejectedError, ServiceError, TransientError

_MISSING = {"404", "NoSuchKey", "NoSuchVersion"}
_EXISTS = {"412", "PreconditionFailed", "ConditionalRequestConflict"}
_TRANSIENT = {
    "BadDigest",
    "IncompleteBody",
    "InternalError",
    "NoSuchUpload",  # somebody swept it away
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_NOT_IMPLEMENTED = 501
_FORBIDDEN = (401, 403)

_CREDENTIALS = "Mend the access key and its secret in the store's credentials block"
_REGION = "the bucket is in another region{region}. Give that region in the store's credentials block"
_WORDS = {
    "NoSuchBucket": "there is no such bucket. Mend its name in the store's block, or make the bucket",
    "InvalidBucketName": "no bucket can have this name. Mend it in the store's block",
    "InvalidAccessKeyId": f"the service does not know the access key. {_CREDENTIALS}",
    "SignatureDoesNotMatch": f"the secret does not fit the access key. {_CREDENTIALS}",
    "InvalidToken": f"the session token is not valid. {_CREDENTIALS}",
    "ExpiredToken": f"the session token has expired. {_CREDENTIALS}",
    "RequestTimeTooSkewed": "the clock of this machine is more than 15 minutes off. Set it",
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "301": _REGION,
    "ObjectLockConfigurationNotFoundError": "the bucket has no Object Lock. Enable it on the bucket, or leave the "
    "store's lock mode and days empty",
}
_ACTIONS = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject (in a versioned bucket s3:DeleteObjectVersion)",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetObject": "s3:GetObject",
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration",
    "GetObjectRetention": "s3:GetObjectRetention",
    "HeadObject": "s3:GetObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListObjectsV2": "s3:ListBucket",
}
_WRITE_ACTIONS = "s3:PutObject (with Object Lock also s3:PutObjectRetention)"


@contextmanager
def s3_errors(what: str) -> Generator[None]:
    """Raise what fails in the body of the `with` as a `ServiceError` that begins with `what`."""
    try:
        yield
    except ClientError as error:
        raise _answered(error, what) from None
    except BotoCoreError as error:
        raise _not_answered(error, what) from None
    except HTTPError as error:  # the library lets some of a body's through
        raise TransientError(f"{what}: the connection failed ({type(error).__name__}). Try again") from None


def not_implemented(error: ClientError) -> bool:
    """Whether a compatible service says that it does not know the operation."""
    return _status(error) == _NOT_IMPLEMENTED or error.response.get("Error", {}).get("Code") == "NotImplemented"


def forbidden(error: ClientError) -> bool:
    """Whether the credentials lack a permission, or are wrong."""
    return _status(error) in _FORBIDDEN


def service_time(answer: Mapping[str, Any], what: str) -> datetime:
    """Return the service's own time, aware UTC, whole seconds, from the headers of an answer.

    Raises:
        RejectedError: there is none.
    """
    date = str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))
    try:
        return parsedate_to_datetime(date).astimezone(UTC)
    except ValueError as error:
        raise RejectedError(
            f"{what}: the service does not say what time it is (header Date: {date!r}). Object Lock and sweeping "
            "need it; use a service that sends it."
        ) from error


def _status(error: ClientError) -> int:
    return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _answered(error: ClientError, what: str) -> ServiceError:
    code = error.response.get("Error", {}).get("Code", "")
    status = _status(error)
    said = f"{error.operation_name} was answered with HTTP {status} {'' if code == str(status) else code}".rstrip()
    if code in _MISSING:
        return MissingObjectError(f"{what} does not exist")
    if code in _EXISTS:
        return ObjectExistsError(f"{what} exists already, or somebody is writing it")
    if code in _TRANSIENT or status == 429 or (status >= 500 and status != _NOT_IMPLEMENTED):
        return TransientError(f"{what}: {said}. Try again; when it goes on, see the status page of the service.")
    if words := _WORDS.get(code):
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        region = headers.get("x-amz-bucket-region")
        return RejectedError(f"{what}: {words.format(region=f' ({region})' if region else '')} ({said}).")
    if forbidden(error):
        action = _ACTIONS.get(error.operation_name, _WRITE_ACTIONS)
        return RejectedError(
            f"{what}: the store's credentials may not {action} here ({said}). Allow it in the policy of their user, "
            "role or bucket."
        )
    message = error.response.get("Error", {}).get("Message", "")
    return RejectedError(f"{what}: {said}: {message or 'without a reason'}")


def _not_answered(error: BotoCoreError, what: str) -> ServiceError:
    text = re.sub(r"//[^/@\s]*@", "//", str(error))
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return RejectedError(
            f"{what}: the certificate of the service is not trusted: {text}. Give the file of its authority as "
            "`verify_cert_path`, with `verify` on, in the client parameters of the store's credentials block."
        )
    if isinstance(error, (HTTPClientError, BotoConnectionError)):
        return TransientError(
            f"{what}: the service does not answer: {text}. Try again; when it goes on, check the endpoint in the "
            "store's credentials block and the network."
        )
    if isinstance(error, (IncompleteReadError, ChecksumError, FlexibleChecksumError)):
        return TransientError(f"{what}: what arrived is damaged: {text}. Try again")
    return RejectedError(f"{what}: {text}. Mend the store's block or its credentials block.")

"""The S3 backup store as a form: what it asks, what it refuses, what it leads to."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters
from pydantic import SecretStr, ValidationError

from blocks.s3_store import S3BackupStore
from runbook.clients.s3_store import ObjectLock, S3Store
from runbook.errors import InvalidInputError, RejectedError
from tests.runbook.s3_server import ACCESS_KEY, REGION, SECRET_KEY, S3Proxy

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytest_plugins = ["tests.runbook.s3_server"]


def aws(**parameters: Any) -> AwsCredentials:  # noqa: ANN401 - the form's own fields
    return AwsCredentials(
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SecretStr(SECRET_KEY),
        region_name=REGION,
        aws_client_parameters=AwsClientParameters(**parameters),
    )


def form(credentials: AwsCredentials, bucket: str = "backups", **fields: Any) -> S3BackupStore:  # noqa: ANN401
    return S3BackupStore(credentials=credentials, bucket=bucket, folder="production", **fields)


def saved(block: S3BackupStore) -> S3BackupStore:
    """What becomes of a block on its way to the server, which keeps JSON, and back."""
    return S3BackupStore.model_validate(json.loads(block.model_dump_json(context={"include_secrets": True})))


def objects(block: S3BackupStore) -> S3Store:
    store = block.get_client().objects
    assert isinstance(store, S3Store)
    return store


def test_the_form_asks_for_a_bucket_and_explains_every_field() -> None:
    schema: dict[str, Any] = S3BackupStore.model_json_schema()
    assert S3BackupStore.get_block_type_slug() == "s3-backup-store"
    assert list(schema["properties"]) == ["credentials", "bucket", "folder", "lock_mode", "lock_days"]
    assert schema["required"] == ["credentials", "bucket"]
    assert all(field["description"] for field in schema["properties"].values())
    assert "credentials.aws_secret_access_key" in schema["secret_fields"]


def test_a_saved_store_leads_to_the_bucket(s3_url: str, s3_bucket: str, s3_direct: S3Client) -> None:
    credentials = aws(endpoint_url=s3_url)
    store = saved(form(credentials, s3_bucket)).get_client()
    store.check()
    assert store.place == f"s3://{s3_bucket}/production"
    store.objects.create("logs/a.json", b"{}")
    assert s3_direct.get_object(Bucket=s3_bucket, Key="production/logs/a.json")["Body"].read() == b"{}"


def test_no_key_is_in_what_a_store_shows(s3_url: str) -> None:
    block = saved(form(aws(endpoint_url=s3_url)))
    shown = f"{block!r} {block!s} {block.get_client()!r} {objects(block)!r}"
    assert ACCESS_KEY not in shown
    assert SECRET_KEY not in shown
    assert SECRET_KEY not in block.model_dump_json()


def test_a_client_is_patient_within_bounds(s3_url: str) -> None:
    config = objects(form(aws(endpoint_url=s3_url))).client.meta.config
    settings: Any = config
    assert settings.retries == {"mode": "standard", "total_max_attempts": 5}
    assert (settings.connect_timeout, settings.read_timeout) == (5, 60)
    assert settings.s3 == {"addressing_style": "path"}


def test_what_the_credentials_configure_comes_first(s3_url: str) -> None:
    credentials = aws(endpoint_url=s3_url, config={"read_timeout": 7, "s3": {"addressing_style": "virtual"}})
    settings: Any = objects(form(credentials)).client.meta.config
    assert (settings.connect_timeout, settings.read_timeout) == (5, 7)
    assert settings.s3 == {"addressing_style": "virtual"}


def test_a_lock_is_handed_on() -> None:
    assert objects(form(aws(), lock_mode="COMPLIANCE", lock_days=30)).lock == ObjectLock("COMPLIANCE", 30)
    assert objects(form(aws())).lock is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lock_mode": "COMPLIANCE"}, "belong together"),
        ({"lock_days": 30}, "belong together"),
        ({"lock_mode": "COMPLIANCE", "lock_days": 0}, "greater than or equal to 1"),
        ({"lock_mode": "FOREVER", "lock_days": 1}, "'GOVERNANCE' or 'COMPLIANCE'"),
    ],
)
def test_half_a_lock_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        form(aws(), **fields)


@pytest.mark.parametrize("parameters", [{"verify": False}, {"use_ssl": False}])
def test_a_service_that_is_not_verified_is_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="always verified") as caught:
        form(aws(**parameters))
    assert SECRET_KEY not in str(caught.value)


def test_a_private_authority_is_verified_against(s3_tls_proxy: S3Proxy, s3_bucket: str) -> None:
    stranger = aws(endpoint_url=s3_tls_proxy.url, config={"retries": {"total_max_attempts": 1}})
    with pytest.raises(RejectedError, match="not trusted"):
        form(stranger, s3_bucket).get_client().check()
    credentials = aws(endpoint_url=s3_tls_proxy.url, verify=True, verify_cert_path=s3_tls_proxy.certificate)
    store = saved(form(credentials, s3_bucket)).get_client()
    store.check()
    data = bytes(20 << 20)
    assert store.objects.write("parts", io.BytesIO(data)).size_bytes == len(store.objects.read("parts"))


def test_an_authority_that_would_be_forgotten_is_refused(tmp_path: Path) -> None:
    (tmp_path / "authority.pem").touch()
    with pytest.raises(ValidationError, match="turn `verify` on"):
        form(aws(endpoint_url="https://s3.example.invalid", verify_cert_path=tmp_path / "authority.pem"))


def test_an_endpoint_that_is_no_url_is_named() -> None:
    with pytest.raises(InvalidInputError, match="endpoint_url: 'nonsense'"):
        form(aws(endpoint_url="nonsense")).get_client()


def test_a_profile_that_is_not_there_is_named() -> None:
    with pytest.raises(RejectedError, match="no-such-profile"):
        form(AwsCredentials(profile_name="no-such-profile", region_name=REGION)).get_client()

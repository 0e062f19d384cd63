"""Encryption for recipients: the age tool reads it, a changed byte is found, no key is ever shown."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runbook.clients.encryption import Identity, decrypted, encrypted, read_identities
from runbook.errors import DamagedBackupError, InvalidInputError, StageError

KEY = Identity.generate()
RECIPIENT = str(KEY.to_public())


def seal(data: bytes, *recipients: str) -> bytes:
    with encrypted(io.BytesIO(data), recipients or [RECIPIENT]) as stream:
        return read(stream, 1 << 16)


def read(stream: BinaryIO, chunk: int) -> bytes:
    found = b""
    while data := stream.read(chunk):
        found += data
    return found


def unseal(data: bytes, key: Identity = KEY) -> bytes:
    with decrypted(io.BytesIO(data), [key], "backup: file") as stream:
        return read(stream, 1 << 16)


@settings(max_examples=25)
@given(data=st.binary(max_size=200_000), chunk=st.integers(1000, 100_000))
def test_what_was_encrypted_comes_back(data: bytes, chunk: int) -> None:
    with encrypted(io.BytesIO(data), [RECIPIENT]) as stream:
        sealed = read(stream, chunk)
    assert data == unseal(sealed)
    assert len(data) < 20 or data not in sealed


def test_every_recipient_can_decrypt() -> None:
    other = Identity.generate()
    sealed = seal(b"rows", RECIPIENT, str(other.to_public()))
    assert unseal(sealed) == unseal(sealed, other) == b"rows"


def test_the_wrong_key_is_an_input_to_mend_and_no_damage() -> None:
    with pytest.raises(InvalidInputError, match=r"identity_file.*a key that backup: file was encrypted for"):
        unseal(seal(b"rows"), Identity.generate())


@pytest.mark.parametrize(
    ("end", "changed_at", "added"),
    [
        pytest.param(-1, None, b"", id="cut by a byte"),
        pytest.param(150_000, None, b"", id="cut in the middle"),
        pytest.param(None, -20, b"", id="a bit at the end"),
        pytest.param(None, 100_000, b"", id="a bit in the middle"),
        pytest.param(None, None, b"more", id="longer"),
        pytest.param(0, None, b"", id="empty"),
        pytest.param(0, None, b"not age at all", id="something else"),
    ],
)
def test_what_was_changed_does_not_decrypt(end: int | None, changed_at: int | None, added: bytes) -> None:
    damaged = bytearray(seal(os.urandom(300_000))[:end] + added)
    if changed_at is not None:
        damaged[changed_at] ^= 1
    with pytest.raises(DamagedBackupError, match="backup: file cannot be decrypted"):
        unseal(bytes(damaged))


def test_an_error_of_the_source_comes_out_as_it_is() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            if not data:
                raise StageError("pg_dump was killed")
            return data

    with (
        pytest.raises(StageError, match="pg_dump was killed"),
        encrypted(Broken(bytes(100_000)), [RECIPIENT]) as stream,
    ):
        read(stream, 1000)
    with pytest.raises(StageError), decrypted(Broken(seal(bytes(100_000))[:-10]), [KEY], "x") as stream:
        read(stream, 1000)


def test_leaving_early_hangs_nothing() -> None:
    with encrypted(io.BytesIO(bytes(10_000_000)), [RECIPIENT]) as stream:
        assert stream.read(10)


@pytest.mark.skipif(shutil.which("age") is None, reason="the age tool is not installed")
def test_the_age_tool_decrypts_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    done = subprocess.run(
        ["age", "--decrypt", "--identity", tmp_path / "key"], input=seal(b"rows"), capture_output=True, check=True
    )
    assert done.stdout == b"rows"


def test_a_file_of_keys_is_read_as_age_keygen_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "key.txt"
    path.write_text(f"# created: 2025-01-04\n# public key: {RECIPIENT}\n{KEY}\n\n")
    path.chmod(0o600)
    (found,) = read_identities(path)
    assert unseal(seal(b"rows"), found) == b"rows"


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        pytest.param(f"{KEY}\n", 0o644, "others may read it", id="readable for others"),
        pytest.param("# nothing\n", 0o600, "it holds no key", id="no key"),
        pytest.param(f"{str(KEY)[:-1]}\n", 0o600, "no age secret key", id="a cut key"),
        pytest.param(f"{RECIPIENT}\n", 0o600, "no age secret key", id="a public key"),
        pytest.param(None, 0o600, "No such file", id="missing"),
    ],
)
def test_a_file_that_holds_no_usable_key_is_named_and_not_shown(
    tmp_path: Path, content: str | None, mode: int, said: str
) -> None:
    path = tmp_path / "key.txt"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(InvalidInputError, match=said) as raised:
        read_identities(path)
    assert str(path) in str(raised.value)
    assert str(KEY)[:20] not in str(raised.value)

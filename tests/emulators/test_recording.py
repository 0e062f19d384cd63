"""What is kept of an exchange with an emulator."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.emulators.recording import Recorder, read_records
from tests.emulators.service import Call, Emulator, Reply

TOKEN = "key_never_to_be_seen_0123456789"
BYPASS = "bypass_never_to_be_seen_0123456789"


class Echo(Emulator):
    """Says what it was told, which no service should."""

    root = "/api"
    token = TOKEN

    @property
    def secrets(self) -> list[str]:
        return [TOKEN, BYPASS]

    def handle(self, call: Call) -> Reply:
        return Reply(200, {"told": call.raw.decode(), "uri": "postgresql://owner:s3cret@host/shop"}, {"X-Key": TOKEN})


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Echo:
    emulator = Echo()
    monkeypatch.setattr(Emulator, "hear", Recorder(tmp_path / "exchanges"))
    with emulator.serving(), httpx.Client() as client:
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Vercel-Protection-Bypass": BYPASS}
        client.post(f"{emulator.url}/{TOKEN}?key={TOKEN}&a=1&a=2", headers=headers, content=f"token={TOKEN}")
        emulator.refuse("GET", "", 503)
        client.get(f"{emulator.url}/state")
    return emulator


def test_an_exchange_is_kept_with_all_that_a_contract_speaks_of(echo: Echo, tmp_path: Path) -> None:
    said, refused = read_records(tmp_path / "exchanges")
    assert (said.service, said.method, said.query) == ("test_recording", "POST", "key=*****&a=1&a=2")
    assert said.test.endswith("test_an_exchange_is_kept_with_all_that_a_contract_speaks_of")
    assert (said.body, said.status, said.emulated) == ("token=*****", 200, False)
    assert said.answer_headers["content-type"] == "application/json; charset=utf-8"
    assert (refused.path, refused.body, refused.status, refused.emulated) == ("/state", None, 503, True)


def test_no_key_and_no_password_reaches_the_file(echo: Echo, tmp_path: Path) -> None:
    file = next((tmp_path / "exchanges").iterdir())
    kept = file.read_text()
    assert [secret for secret in (TOKEN, BYPASS, "s3cret") if secret in kept] == []
    assert "postgresql://owner:*****@host/shop" in kept
    assert file.stat().st_mode & 0o777 == 0o600

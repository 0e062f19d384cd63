"""Every exchange with an emulator in a file, one JSON object a line, without a key or a password."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.emulators.service import Emulator, Exchange

_PASSWORD = re.compile(r"(?<=://)([^:/@\s\"]+):[^@/\s\"]+(?=@)")
_BLOT = "*****"


@dataclass(frozen=True)
class Record:
    """One exchange as it is kept; bodies are text, None where there was none."""

    service: str
    test: str
    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: str | None
    status: int
    answer_headers: Mapping[str, str]
    answer: str | None
    lost: bool = False
    emulated: bool = False


def record_of(emulator: Emulator, exchange: Exchange, test: str = "") -> Record:
    """Return what is kept of an exchange."""
    call, reply = exchange.call, exchange.reply
    kind = {} if reply.content is None else {"content-type": "application/json; charset=utf-8"}
    secrets = emulator.secrets
    return Record(
        service=type(emulator).__module__.rpartition(".")[2],
        test=test,
        method=call.method,
        path=_blotted(call.path, secrets),
        query=_blotted(call.query_string, secrets),
        headers={name: _blotted(value, secrets) for name, value in call.headers.items()},
        body=_blotted(call.raw.decode(errors="replace"), secrets) if call.raw else None,
        status=reply.status,
        answer_headers={name.lower(): _blotted(value, secrets) for name, value in (kind | dict(reply.headers)).items()},
        answer=_blotted(reply.raw.decode(errors="replace"), secrets) if reply.raw else None,
        lost=exchange.lost,
        emulated=exchange.emulated,
    )


def read_records(folder: Path) -> list[Record]:
    """Return what all processes of a test run have recorded in a folder."""
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [Record(**json.loads(line)) for line in lines]


class Recorder:
    """Writes the exchanges of this process to a file of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{os.getpid()}.jsonl"
        self._file.touch(mode=0o600)
        self._lock = threading.Lock()

    def __call__(self, emulator: Emulator, exchange: Exchange) -> None:
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
        line = json.dumps(asdict(record_of(emulator, exchange, test)))
        with self._lock, self._file.open("a") as file:
            file.write(line + "\n")


def _blotted(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, _BLOT) if secret else text
    return _PASSWORD.sub(rf"\1:{_BLOT}", text)

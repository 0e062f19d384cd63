"""Processes of the local application host: start, recognise, ask and stop them."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import psutil

from runbook.clients.process_id import ProcessId

# Below the range from which Linux takes ports of outgoing connections, so that a port is still free after a restart.
_PORTS = range(20_000, 32_000)


def spawn(argv: Sequence[str], *, directory: Path, environment: Mapping[str, str], log: Path) -> ProcessId:
    """Start a process in a session of its own, so that it outlives its parent; its output goes to the end of `log`.

    Raises:
        OSError: the program cannot be started.
    """
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as out:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return ProcessId(process.pid, psutil.Process(process.pid).create_time())


def stop_groups(processes: Iterable[ProcessId], *, grace_s: float = 5.0) -> None:
    """End the process groups that these processes lead: politely, and after `grace_s` by force."""
    running = [process for process in processes if process.alive()]
    for process in running:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(process.alive() for process in running):
        time.sleep(0.01)
    for process in running:
        _signal_group(process, signal.SIGKILL)  # also what outlived its leader
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and any(process.alive() for process in running):
        time.sleep(0.01)


def _signal_group(process: ProcessId, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def kill_strays(releases: Path) -> None:
    """Kill every process that was started for a release under this directory, recorded or not."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            directory = process.cwd()
            if Path(directory).is_relative_to(releases) and "RELEASE_SHA" in process.environ():
                process.kill()


def listening_socket(preferred: int | None) -> socket.socket:
    """Return a socket that listens on 127.0.0.1, on the preferred port when it is free.

    Raises:
        OSError: no free port was found.
    """
    for port in _candidates(preferred):
        candidate = _bound(port)
        if candidate is not None:
            candidate.setblocking(False)
            return candidate
    raise OSError("no free port on 127.0.0.1")


def free_port(preferred: int | None) -> int:
    """Return a port of 127.0.0.1 that nobody listens on, the preferred one when it is free.

    Raises:
        OSError: no free port was found.
    """
    for port in _candidates(preferred):
        candidate = _bound(port)
        if candidate is not None:
            candidate.close()
            return port
    raise OSError("no free port on 127.0.0.1")


def _candidates(preferred: int | None) -> list[int]:
    return [*([preferred] if preferred else []), *(secrets.choice(_PORTS) for _ in range(100))]


def _bound(port: int) -> socket.socket | None:
    candidate = socket.socket()
    candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        candidate.bind(("127.0.0.1", port))
        candidate.listen(2048)  # where the address may be reused, only this fails for a port that is taken
    except OSError:
        candidate.close()
        return None
    return candidate


def answers(port: int, path: str, *, timeout_s: float) -> bool:
    """Return whether GET `path` on this port of 127.0.0.1 answers 200."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()

"""A Python that has imported what a command needs, once; each command is a fork of it.

What runs is the command's own code with its own arguments, output and exit code. Only the seconds of importing Prefect,
the same for every command, are spent once for all of them.
"""

from __future__ import annotations

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_CLIENT = """
import array, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect(sys.argv[1])
streams = array.array("i", [0, 1, 2])
server.sendmsg([sys.argv[2].encode() + b"\\n"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
answer = server.recv(16)
sys.exit(int(answer) if answer else 1)
"""


class Preloaded:
    """Commands `python -m MODULE ARGUMENTS` without the time that `imports` take, all in the same variables."""

    def __init__(self, folder: Path, imports: Sequence[str], environment: Mapping[str, str]) -> None:
        self._address = str(folder / "preloaded")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(self._address)
        listening.listen()
        argv = [sys.executable, "-m", __name__, str(listening.fileno()), *imports]
        with listening:
            self._process = subprocess.Popen(argv, env=environment, pass_fds=[listening.fileno()])

    def start(self, module: str, *arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401
        """Start a command, with what `subprocess.Popen` takes for its streams; killing it kills the command."""
        order = json.dumps([module, arguments, str(cwd)])
        argv = [sys.executable, "-I", "-S", "-c", _CLIENT, self._address, order]
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, text=True, **options)

    def stop(self) -> None:
        """End it; commands that run go on."""
        self._process.kill()
        self._process.wait()


def serve(listening: socket.socket) -> None:
    """Fork for every command, for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait for the commands
    while True:
        client, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _attend(client)
        client.close()


def _attend(client: socket.socket) -> None:
    order, streams, _, _ = socket.recv_fds(client, 1 << 16, 3)
    command = os.fork()
    if command == 0:
        client.close()
        _perform(json.loads(order), streams)
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(command)
    readable, _, _ = select.select([ended, client], [], [])
    if ended not in readable:  # whoever asked is gone
        os.kill(command, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with suppress(OSError):
        client.sendall(str(code).encode())
    os._exit(0)


def _perform(order: tuple[str, list[str], str], streams: list[int]) -> None:
    module, arguments, cwd = order
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(cwd)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()  # as any program ends: what waits to be sent at exit is sent


def main() -> None:
    """Import, and serve."""
    number, *imports = sys.argv[1:]
    for name in imports:
        __import__(name)
    serve(socket.socket(fileno=int(number)))


if __name__ == "__main__":
    main()

"""Which process on which machine: recognised also after its number was given to another."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_CLOCK_TOLERANCE_S = 2.0  # psutil derives the time of creation from the wall clock, which may be set right
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NUMBERS = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class ProcessId:
    """A process that is recognised even after its number was given to another: number and time of creation."""

    pid: int
    create_time: float

    def alive(self) -> bool:
        """Return whether this very process still runs; a child that ended is reaped."""
        with suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.create_time) < _CLOCK_TOLERANCE_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def current_process() -> ProcessId:
    """Return the process that asks."""
    return ProcessId(os.getpid(), psutil.Process().create_time())


def machine() -> str:
    """Return what is the same exactly where the number of a process means the same: host, boot and namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [_BOOT.read_text(encoding="ascii").strip(), str(_NUMBERS.readlink())]
    return " ".join(parts)

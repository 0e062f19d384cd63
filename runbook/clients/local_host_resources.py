"""What the processes of a release, and the machine they run on, have used of CPU, memory, disk and network."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from runbook.clients.process_id import ProcessId
from runbook.rules.infrastructure import Resources


def used_resources(process: ProcessId, folder: Path) -> Resources:
    """Return what a process with its children, and this machine, have used up to now.

    A process that ended counts no more, so two looks may show less than before.

    Args:
        process: leads the release; it may have ended.
        folder: on the disk whose room is told.
    """
    cpu_s, memory_bytes, disk_bytes, processes = 0.0, 0, 0, 0
    knows_disk = True
    for one in _family(process):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            with one.oneshot():
                times, memory = one.cpu_times(), one.memory_info()
                cpu_s += times.user + times.system
                memory_bytes += memory.rss
                processes += 1
            try:
                counted = one.io_counters()
                disk_bytes += counted.read_bytes + counted.write_bytes
            except (AttributeError, psutil.AccessDenied):  # macOS has none; a container may forbid it
                knows_disk = False
    busy = psutil.cpu_times()
    network = psutil.net_io_counters()
    return Resources(
        at=datetime.now(UTC),
        processes=processes,
        cpu_s=cpu_s,
        memory_bytes=memory_bytes,
        disk_bytes=disk_bytes if knows_disk else None,
        cpus=psutil.cpu_count() or 1,
        machine_cpu_s=sum(busy) - busy.idle - getattr(busy, "iowait", 0.0) - _counted_twice(busy),
        machine_memory_pct=psutil.virtual_memory().percent,
        disk_usage_pct=psutil.disk_usage(str(folder)).percent,
        network_bytes=network.bytes_recv + network.bytes_sent if network else None,
    )


def _counted_twice(times: object) -> float:
    """Return what is in the times of users a second time: guests, on Linux."""
    return float(getattr(times, "guest", 0.0)) + float(getattr(times, "guest_nice", 0.0))


def _family(process: ProcessId) -> list[psutil.Process]:
    if not process.alive():
        return []
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        leader = psutil.Process(process.pid)
        return [leader, *leader.children(recursive=True)]
    return []

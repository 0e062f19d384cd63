"""CPU, memory, disk and network between two looks. Source: runbook, "Key Metrics to Monitor" (Infrastructure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from runbook.rules.samples import Sample, sample


@dataclass(frozen=True)
class Resources:
    """What a release and its machine have used up to a moment; two of them make rates. None is not known.

    `cpu_s` are seconds of CPU time of the release's processes, `machine_cpu_s` of everything on its `cpus`.
    `disk_bytes` were read and written by the release, `network_bytes` received and sent by the machine.
    """

    at: datetime
    processes: int
    cpu_s: float
    memory_bytes: int
    disk_bytes: int | None
    cpus: int
    machine_cpu_s: float
    machine_memory_pct: float
    disk_usage_pct: float
    network_bytes: int | None


def resource_samples(before: Resources, now: Resources) -> Sequence[Sample]:
    """Return what a release and its machine use, by two looks at them; no rate when no time lies between.

    CPU is percent of all CPUs of the machine (0-100). What has fallen, as after a restart, counts as nothing.
    """
    found = [
        sample(now.at, "memory_usage_pct", now.machine_memory_pct),
        sample(now.at, "application_memory_bytes", now.memory_bytes),
        sample(now.at, "disk_usage_pct", now.disk_usage_pct),
    ]
    passed_s = (now.at - before.at).total_seconds()
    if passed_s <= 0:
        return found

    def rate(earlier: float, later: float) -> float:
        return max(0.0, later - earlier) / passed_s

    found += [
        sample(now.at, "cpu_usage_pct", min(100.0, 100 * rate(before.machine_cpu_s, now.machine_cpu_s) / now.cpus)),
        sample(now.at, "application_cpu_pct", min(100.0, 100 * rate(before.cpu_s, now.cpu_s) / now.cpus)),
    ]
    if before.disk_bytes is not None and now.disk_bytes is not None:
        found.append(sample(now.at, "application_disk_bytes_per_s", rate(before.disk_bytes, now.disk_bytes)))
    if before.network_bytes is not None and now.network_bytes is not None:
        found.append(sample(now.at, "network_bytes_per_s", rate(before.network_bytes, now.network_bytes)))
    return found

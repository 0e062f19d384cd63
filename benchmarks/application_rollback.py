"""Rolling the application back by switching to a warm release, beside deploying the old commit again."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from deployments.demo.facts import served_version
from deployments.demo.repository import build_repository
from runbook.clients.local_host import LocalHost, LocalHostConfig


@dataclass(frozen=True)
class Result:
    """Seconds until the public URL serves the earlier release."""

    warm_s: float
    slowest_warm_s: float
    again_s: float
    slowest_again_s: float


def measure(rounds: int) -> Result:
    """Alternate between both ways on one application host, so that both see the same machine."""
    with tempfile.TemporaryDirectory(prefix="runbook-bench-") as folder:
        repository = Path(folder) / "repository"
        tags = build_repository(repository)
        root = Path(folder) / "host"
        host = LocalHost.start(root, LocalHostConfig(repository, ("{python}", "-m", "shop")))
        try:
            warm: list[float] = []
            again: list[float] = []
            earlier = host.promote(host.stage(tags["v1"], "v1").release_id)
            later = host.promote(host.stage(tags["v2"], "v2").release_id)
            for _ in range(rounds):
                begun = time.monotonic()
                host.roll_back(earlier.release_id)
                warm.append(_until_served(host, "v1", begun))
                host.promote(later.release_id)
                # A commit that the host has not seen: the same files, as a redeploy would build them.
                version = f"again-{len(again)}"
                begun = time.monotonic()
                host.promote(host.stage(_same_files(repository, tags["v1"]), version).release_id)
                again.append(_until_served(host, version, begun))
                host.promote(later.release_id)
        finally:
            LocalHost.stop(root)
    return Result(statistics.median(warm), max(warm), statistics.median(again), max(again))


def _until_served(host: LocalHost, version: str, begun: float) -> float:
    while served_version(host.public_url) != version:
        time.sleep(0.002)
    return time.monotonic() - begun


def _same_files(repository: Path, git_sha: str) -> str:
    argv = ["git", "-C", str(repository), "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    argv += ["commit-tree", f"{git_sha}^{{tree}}", "-m", f"the same files at {time.monotonic_ns()}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

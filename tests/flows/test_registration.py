"""What `prefect.yaml` promises can be loaded and registered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from tests.flows.conftest import Platform

DEPLOYMENTS = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def test_every_deployment_leads_to_a_flow() -> None:
    entrypoints = [deployment["entrypoint"] for deployment in DEPLOYMENTS]
    code = (
        "import sys; from prefect.flows import load_flow_from_entrypoint as load\n"
        "for path in sys.argv[1:]: print(load(path, use_placeholder_flow=False).name)"
    )
    done = subprocess.run([sys.executable, "-c", code, *entrypoints], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [path.split(".")[-1].replace("_", "-") for path in entrypoints]


def test_an_environment_can_be_registered_again(platform: Platform) -> None:
    local = platform.local
    done = subprocess.run(
        [sys.executable, "-m", "deployments.register", str(local.root), str(local.repository)],
        env=local.prefect_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

"""What `prefect.yaml` promises can be loaded, and the server that it runs on can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from conftest import Platform

DEPLOYMENTS = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))["deployments"]


def test_the_locked_versions_have_a_server_that_imports() -> None:
    done = subprocess.run([sys.executable, "-c", "import prefect.server.api.server"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["entrypoint"])
def test_every_deployment_leads_to_a_flow(deployment: dict[str, str]) -> None:
    code = (
        "import sys; from prefect.flows import load_flow_from_entrypoint as load;"
        "print(load(sys.argv[1], use_placeholder_flow=False).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, deployment["entrypoint"]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == deployment["entrypoint"].split(".")[-1].replace("_", "-")


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

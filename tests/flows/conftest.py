"""A whole environment `local` of the tests' own: real server, worker, Postgres, application host."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.demo.facts import served_version
from deployments.demo.repository import build_repository
from deployments.local import PROJECT, LocalEnvironment
from runbook.clients.local_host import LocalHost
from tests.preloaded import Preloaded

_IMPORTS = (
    "prefect.cli",
    "deployments.cli",
    "flows.deploy",
    "flows.rollback",
    "flows.recover",
    "flows.database_migrate",
)


@dataclass(frozen=True)
class Outcome:
    """How a watched run ended; `logs` and `state_message` come from the server."""

    exit_code: int
    output: str
    state: str
    state_message: str
    logs: str


@dataclass(frozen=True)
class Platform:
    """The environment and ways to use it as CI would."""

    local: LocalEnvironment
    commands: Preloaded

    @property
    def host(self) -> LocalHost:
        return LocalHost.attach(self.local.root / "host")

    def run(self, deployment: str, **parameters: object) -> Outcome:
        """`prefect deployment run ... --watch`, and what the server knows about the run afterwards."""
        done = self.start(deployment, **parameters)
        output = done.communicate()[0]
        runs = self.api("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
        logs = self.api("logs/filter", {"logs": {"flow_run_id": {"any_": [runs[0]["id"]]}}, "limit": 200})
        return Outcome(
            exit_code=done.returncode,
            output=output,
            state=runs[0]["state_type"],
            state_message=runs[0]["state"]["message"] or "",
            logs="\n".join(line["message"] for line in logs),
        )

    def start(self, deployment: str, **parameters: object) -> subprocess.Popen[str]:
        """`prefect deployment run ... --watch`, without waiting for it."""
        argv = ["prefect", "deployment", "run", deployment, "--params", json.dumps(parameters), "--watch"]
        return self.commands.start(*argv, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def runbook(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`runbook ...`, as a person types it."""
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with self.commands.start("deployments.cli", *arguments, cwd=self.local.root, **pipes) as process:
            try:
                stdout, stderr = process.communicate(timeout=120)
            finally:
                process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def api(self, path: str, body: dict[str, object], *, attempts: int = 10) -> list[dict[str, Any]]:
        """Ask the Prefect server; as Prefect's own client does, again while its database is busy."""
        response = httpx.post(f"{self.local.ui_url}/api/{path}", json=body, timeout=30, trust_env=False)
        if response.status_code == 503 and attempts > 1:
            time.sleep(1)
            return self.api(path, body, attempts=attempts - 1)
        response.raise_for_status()
        return response.json()


@pytest.fixture(scope="package")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    root = tmp_path_factory.mktemp("platform")
    local = LocalEnvironment(root / "environment", root / "repository")
    build_repository(local.repository)
    try:
        local.up()
        environment = local.prefect_environment() | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        commands = Preloaded(root, _IMPORTS, environment | {"PYTHONPATH": str(PROJECT)})
        try:
            yield Platform(local, commands)
        finally:
            commands.stop()
    finally:
        local.remove()


@pytest.fixture(scope="package")
def released(platform: Platform) -> Platform:
    """v1 is released."""
    outcome = platform.run("deploy/local", git_ref="v1", triggered_by="tests")
    assert outcome.exit_code == 0, outcome.output
    assert served_version(platform.host.public_url) == "v1"
    return platform


@pytest.fixture(scope="package")
def project() -> Path:
    return PROJECT


@pytest.fixture(scope="package")
def inline(platform: Platform) -> Generator[Callable[..., str]]:
    """Run a flow of `flows` against the platform's server from one warm process; return how its run failed."""
    code = (
        "import importlib, json, sys\n"
        "for line in sys.stdin:\n"
        "    name, parameters = json.loads(line)\n"
        "    flow = getattr(importlib.import_module('flows.' + name), name)\n"
        "    state = flow(**parameters, return_state=True)\n"
        "    print(json.dumps([state.type.value, state.message]), flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=platform.local.prefect_environment() | {"PREFECT_LOGGING_LEVEL": "CRITICAL"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(name: str, **parameters: object) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([name, parameters]) + "\n")
        process.stdin.flush()
        kind, message = json.loads(process.stdout.readline())
        assert kind == "FAILED", message
        return message

    with process:
        yield run
        process.stdin.close()

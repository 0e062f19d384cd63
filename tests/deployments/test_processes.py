from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import psutil
import pytest

from deployments.processes import Service, inherited_environment

WITH_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
print(child.pid, flush=True)
time.sleep(60)
"""
SLEEP = "import time; time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Service]:
    monkeypatch.setattr("deployments.processes._STOP_WITHIN_S", 1)
    found = Service("worker", tmp_path / "services")
    yield found
    found.stop()


def start(service: Service, script: str) -> psutil.Process:
    service.start([sys.executable, "-c", script], dict(os.environ))
    process = service.process()
    assert process is not None
    return process


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_a_service_runs_in_a_session_of_its_own_and_writes_its_log(service: Service) -> None:
    process = start(service, "print('started', flush=True); import time; time.sleep(60)")
    assert wait_for(lambda: "started" in service.log.read_text(encoding="utf-8"))
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_starting_twice_starts_one(service: Service) -> None:
    first = start(service, SLEEP)
    assert start(service, SLEEP).pid == first.pid


def test_another_object_finds_the_same_process(service: Service) -> None:
    running = start(service, SLEEP)
    found = Service(service.name, service.folder).process()
    assert found is not None
    assert found.pid == running.pid


def test_a_stopped_service_is_gone_and_can_be_started_again(service: Service) -> None:
    first = start(service, SLEEP)
    service.stop()
    assert gone(first.pid)
    assert service.process() is None
    assert start(service, SLEEP).pid != first.pid


def test_stopping_what_does_not_run_is_no_error(service: Service) -> None:
    service.stop()
    service.stop()
    assert service.process() is None


def test_a_service_that_died_is_not_running_and_is_started_again(service: Service) -> None:
    first = start(service, SLEEP)
    os.kill(first.pid, signal.SIGKILL)
    assert wait_for(lambda: service.process() is None)
    assert start(service, SLEEP).pid != first.pid


@pytest.mark.parametrize("child", [SLEEP, STUBBORN], ids=["obedient", "stubborn"])
def test_what_a_service_started_goes_with_it(service: Service, child: str) -> None:
    parent = start(service, WITH_CHILD.format(child=child))
    assert wait_for(lambda: service.log.read_text(encoding="utf-8").endswith("\n"))
    child_pid = int(service.log.read_text(encoding="utf-8"))
    service.stop()
    assert gone(parent.pid)
    assert gone(child_pid)


def test_a_service_that_ignores_the_request_is_killed(service: Service) -> None:
    process = start(service, STUBBORN.replace("time.sleep", "print('ready', flush=True); time.sleep"))
    assert wait_for(lambda: "ready" in service.log.read_text(encoding="utf-8"))
    service.stop()
    assert gone(process.pid)


def test_a_process_that_got_the_number_of_a_dead_service_is_neither_believed_nor_stopped(service: Service) -> None:
    service.folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as stranger:
        try:
            note = {"pid": stranger.pid, "create_time": psutil.Process(stranger.pid).create_time() - 100}
            (service.folder / "worker.pid.json").write_text(json.dumps(note), encoding="utf-8")
            assert service.process() is None
            service.stop()
            assert stranger.poll() is None
        finally:
            stranger.kill()


@pytest.mark.parametrize("note", ["", "{}", "not json", '{"pid": 1}', '{"pid": 999999999, "create_time": 1}'])
def test_a_damaged_note_means_that_nothing_runs(service: Service, note: str) -> None:
    service.folder.mkdir()
    (service.folder / "worker.pid.json").write_text(note, encoding="utf-8")
    assert service.process() is None
    assert start(service, SLEEP).is_running()


def test_settings_of_other_prefects_and_pythons_are_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere.test/api")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("KEPT", "yes")
    environment = inherited_environment()
    assert environment["KEPT"] == "yes"
    assert not [name for name in environment if name.startswith(("PREFECT_", "PYTHON"))]

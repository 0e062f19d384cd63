"""`make demo` as a stranger runs it, with the usual ports taken, to its end and interrupted."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from deployments.local import PROJECT

pytestmark = pytest.mark.acceptance


@pytest.fixture
def folder(tmp_path: Path) -> Generator[Path]:
    """The demo's folder; what the demo leaves there, or beside it as root, is deleted with its own command."""
    yield tmp_path / "demo"
    subprocess.run([sys.executable, "-m", "deployments.demo", "--stop", "--folder", str(tmp_path / "demo")], check=True)


@pytest.fixture
def usual_ports_taken() -> Generator[None]:
    sockets: list[socket.socket] = []
    for port in (4200, 5432):
        taken = socket.socket()
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        except OSError:
            taken.close()  # somebody else has it, which is just as good
        else:
            sockets.append(taken)
    yield
    for taken in sockets:
        taken.close()


def start_demo(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "deployments.demo", "--folder", str(folder)],
        cwd=PROJECT,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent / "home")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a background job of a plain shell
    )


def left_running(folder: Path) -> list[str]:
    """Processes that have the demo's folder in their arguments or as their place, itself excepted."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.cwd()]
        except psutil.Error:
            continue
        if any(str(folder) in word for word in words):
            found.append(" ".join(words))
    return found


@pytest.mark.timeout(900)  # a hang is one after a quarter of an hour: it plays for minutes
@pytest.mark.usefixtures("usual_ports_taken")
def test_the_demo_agrees_with_itself_and_leaves_nothing_running(folder: Path) -> None:
    demo = start_demo(folder)
    output = demo.communicate()[0]
    assert demo.returncode == 0, output
    assert "Everything found is as expected." in output
    assert "NOT" not in output
    assert output.count("    ok ") > 35
    assert left_running(folder) == []


@pytest.mark.parametrize(
    ("number", "moment"), [(signal.SIGINT, "Deploy v1"), (signal.SIGTERM, "the application host answers")]
)
def test_an_interrupted_demo_leaves_nothing_running(folder: Path, number: signal.Signals, moment: str) -> None:
    demo = start_demo(folder)
    assert demo.stdout is not None
    for line in demo.stdout:
        if moment in line:
            break
    assert left_running(folder) != []
    demo.send_signal(number)
    output = demo.communicate()[0]
    assert demo.returncode == 130, output
    assert left_running(folder) == []

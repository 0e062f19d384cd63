"""The local application host with real processes, a real git repository and real HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from runbook.clients.application_host import ApplicationHost, ReleaseState
from runbook.clients.local_host import LocalHost, LocalHostConfig
from runbook.errors import RejectedError, StageError, TransientError

SECRET = "s3cret-that-must-not-leak"

APP = """
import hashlib, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
    def do_GET(self):
        if self.path.startswith("/slow"):
            time.sleep(float(self.path.partition("=")[2]))
        if self.path == "/broken":
            return self.answer(500, {})
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.close_connection = True
            return self.wfile.write(b"half")
        if self.path == "/stream":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for word in (b"one", b"two", b"three"):
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(word), word))
                self.wfile.flush()
                time.sleep(0.2)
            return self.wfile.write(b"0\\r\\n\\r\\n")
        self.answer(200, {"version": os.environ["APP_VERSION"], "path": self.path, "pid": os.getpid(),
                          "headers": {k.lower(): v for k, v in self.headers.items()}, "names": sorted(os.environ)})
    do_HEAD = do_GET
    def do_POST(self):
        digest, size = hashlib.sha256(), 0
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while length := int(self.rfile.readline(), 16):
                digest.update(self.rfile.read(length)); size += length; self.rfile.readline()
            self.rfile.readline()
        else:
            size = int(self.headers["Content-Length"])
            digest.update(self.rfile.read(size))
        self.answer(200, {"size": size, "sha256": digest.hexdigest()})
    def log_message(self, *args):
        pass

class Server(ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True

server = Server(("127.0.0.1", int(os.environ["PORT"])), Handler)
now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
print(json.dumps({"time": now, "level": "INFO", "message": "listening"}), flush=True)
print("a plain line", flush=True)
server.serve_forever()
"""

BROKEN_APP = "raise RuntimeError('no database here')\n"


@dataclass
class Repository:
    """A git repository whose commits hold one app each."""

    path: Path

    def commit(self, app: str) -> str:
        (self.path / "app.py").write_text(app)
        self._git("add", "app.py")
        self._git("commit", "--quiet", "--allow-empty", "--message", "another one")
        return self._git("rev-parse", "HEAD")

    def _git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
        argv = ["git", "-C", str(self.path), *identity, *arguments]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    path = tmp_path / "repository"
    path.mkdir()
    subprocess.run(["git", "init", "--quiet", str(path)], check=True)
    return Repository(path)


@pytest.fixture
def config(repository: Repository) -> LocalHostConfig:
    return LocalHostConfig(repository.path, ("{python}", "app.py"), ready_timeout_s=10, keep_warm=1)


@pytest.fixture
def root(tmp_path: Path) -> Generator[Path]:
    path = tmp_path / "host"
    path.mkdir()
    (path / "app.env").write_text(f"# of the sample app\nDATABASE_URL={SECRET}\nEMPTY=\n")
    try:
        yield path
    finally:
        LocalHost.stop(path)
        assert processes_of(path) == []


@pytest.fixture
def host(root: Path, config: LocalHostConfig) -> LocalHost:
    return LocalHost.start(root, config)


def processes_of(root: Path) -> list[str]:
    """Return everything that runs for a root: its daemon and its releases."""
    found: list[str] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            in_root = process.cwd().startswith(str(root)) or (str(root) in words and "local_host_daemon" in words)
            if in_root and process.status() != psutil.STATUS_ZOMBIE:
                found.append(words)
    return found


def eventually(check: Callable[[], bool], *, within_s: float = 8.0) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.03)
    pytest.fail(f"not true within {within_s} s")


def served(url: str) -> str | int:
    """Return the version that answers on a URL, or the status when it is not 200."""
    answer = get(url + "/")
    return answer.json()["version"] if answer.status_code == 200 else answer.status_code


def get(url: str, headers: dict[str, str] | None = None) -> httpx.Response:
    with httpx.Client(trust_env=False, timeout=10) as client:
        return client.get(url, headers=headers)


def kill_daemon(root: Path) -> None:
    address = json.loads((root / "host.json").read_text())
    os.kill(address["pid"], signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(address["pid"]) or is_zombie(address["pid"]))


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def an_hour_ago() -> datetime:
    return datetime.now(UTC) - timedelta(minutes=59)


@dataclass
class Load:
    """Threads that ask without pause; `seen` holds each thread's versions in order, `failures` everything else."""

    url: str
    threads: int = 4
    seen: list[list[str]] = field(default_factory=list[list[str]])
    failures: list[str] = field(default_factory=list[str])
    over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._running = [threading.Thread(target=self._ask, args=(n,)) for n in range(self.threads)]
        self.seen = [[] for _ in self._running]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._running:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=10) as client:
            while not self.over.is_set():
                try:
                    answer = client.get(self.url + ("/slow?s=0.05" if number == 0 else "/"))
                    answer.raise_for_status()
                    self.seen[number].append(answer.json()["version"])
                except (httpx.HTTPError, ValueError) as exc:
                    self.failures.append(repr(exc))


def test_local_host_is_an_application_host(host: LocalHost) -> None:
    as_interface: ApplicationHost = host
    as_interface.check()
    assert as_interface.active() is None


def test_a_staged_release_serves_privately_and_gets_the_public_url_with_its_promote(
    host: LocalHost, repository: Repository
) -> None:
    sha = repository.commit(APP)
    before = get(host.public_url)
    assert before.status_code == 503
    assert "No release has been promoted" in before.text

    staged = host.stage(sha, "1.0.0")
    assert (staged.state, staged.git_sha, staged.promoted_at) == (ReleaseState.READY, sha, None)
    assert staged.release_id == f"1.0.0-{sha[:12]}"
    assert served(staged.url) == "1.0.0"
    assert served(host.public_url) == 503
    assert host.stage(sha, "1.0.0") == staged, "staging again returns what is there"

    promoted = host.promote(staged.release_id)
    assert promoted.promoted_at is not None
    assert served(host.public_url) == "1.0.0"
    assert host.promote(staged.release_id) == promoted
    assert host.active() == host.release(staged.release_id) == promoted


def test_a_switch_under_load_drops_no_request_and_never_goes_back(host: LocalHost, repository: Repository) -> None:
    ids = [host.stage(repository.commit(APP + f"# {n}"), f"{n}.0").release_id for n in range(4)]
    host.promote(ids[0])
    with Load(host.public_url) as load:
        for release_id in ids[1:]:
            time.sleep(0.5)
            host.promote(release_id)
        time.sleep(0.5)
        eventually(lambda: host.release(ids[0]).state is ReleaseState.STOPPED)  # superseded twice, keep_warm is 1
        assert host.release(ids[2]).state is ReleaseState.READY
    assert load.failures == []
    for versions in load.seen:
        assert versions == sorted(versions)
        assert {versions[0], versions[-1]} == {"0.0", "3.0"}


def test_a_request_finishes_on_the_release_it_began_on(host: LocalHost, repository: Repository) -> None:
    host.promote(host.stage(repository.commit(APP), "1").release_id)
    later = host.stage(repository.commit(APP + "#"), "2").release_id
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(get, host.public_url + "/slow?s=0.6")
        time.sleep(0.2)
        host.promote(later)
        assert served(host.public_url) == "2"
        assert slow.result().json()["version"] == "1"


def test_roll_back_to_a_warm_release_starts_nothing_and_to_a_stopped_one_works(
    host: LocalHost, repository: Repository
) -> None:
    ids = [host.stage(repository.commit(APP + f"# {n}"), f"{n}").release_id for n in range(3)]
    for release_id in ids:
        host.promote(release_id)
    pid = get(host.release(ids[1]).url).json()["pid"]
    host.roll_back(ids[1])
    assert get(host.public_url).json()["pid"] == pid, "not started anew"
    eventually(lambda: host.release(ids[0]).state is ReleaseState.STOPPED)
    host.roll_back(ids[0])
    assert served(host.public_url) == "0"
    never_promoted = host.stage(repository.commit(APP + "# 4"), "4").release_id
    with pytest.raises(RejectedError, match="never had the traffic"):
        host.roll_back(never_promoted)


def test_a_release_that_does_not_start_is_reported_with_its_last_log_lines(
    host: LocalHost, repository: Repository, root: Path
) -> None:
    host.promote(host.stage(repository.commit(APP), "1").release_id)
    broken = repository.commit(BROKEN_APP)
    with pytest.raises(StageError, match="no database here"):
        host.stage(broken, "2")
    assert host.release(f"2-{broken[:12]}").state is ReleaseState.FAILED
    with pytest.raises(StageError, match="did not become ready"):
        host.promote(f"2-{broken[:12]}")
    assert served(host.public_url) == "1"
    assert len(processes_of(root)) == 2, "the daemon and the release that works"


def test_a_release_that_never_answers_is_given_up(
    root: Path, config: LocalHostConfig, host: LocalHost, repository: Repository
) -> None:
    quick = LocalHostConfig(config.repository, config.start_command, ready_timeout_s=0.5)
    LocalHost.start(root, quick)
    with pytest.raises(StageError, match=r"did not answer 200 within 0\.5 s"):
        host.stage(repository.commit("print('waiting for nothing', flush=True)\nimport time\ntime.sleep(60)\n"), "1")
    assert len(processes_of(root)) == 1


def test_two_commits_can_be_staged_at_once_and_one_commit_twice(host: LocalHost, repository: Repository) -> None:
    first, second = repository.commit(APP), repository.commit(APP + "#")
    with ThreadPoolExecutor(4) as pool:
        staged = list(pool.map(host.stage, [first, second, first, second], ["1", "2", "1", "2"]))
    assert staged[0] == staged[2]
    assert staged[1] == staged[3]
    assert [served(release.url) for release in staged[:2]] == ["1", "2"]
    assert [release.release_id for release in host.releases()] == sorted(
        {release.release_id for release in staged}, key=lambda name: host.release(name).created_at, reverse=True
    )


@pytest.mark.parametrize("bad", ["f" * 40, "main", "HEAD", "--output=/tmp/x", "../../etc", ""])
def test_what_is_not_a_known_commit_is_refused_by_name(host: LocalHost, repository: Repository, bad: str) -> None:
    repository.commit(APP)
    with pytest.raises(RejectedError, match=bad or "git_sha"):
        host.stage(bad, "1")
    assert list(host.releases()) == []


def test_what_is_not_a_known_release_is_refused(host: LocalHost, root: Path) -> None:
    for bad in ("1.0-0123456789ab", "../host", "..", "", "a/../../b"):
        for method in (host.promote, host.roll_back, host.release, host.warm, host.logs):
            with pytest.raises(RejectedError, match=r"knows no release|is missing"):
                method(bad)
    assert sorted(path.name for path in (root / "releases").iterdir()) == []


def test_a_version_cannot_reach_outside_the_releases_directory(host: LocalHost, repository: Repository) -> None:
    sha = repository.commit(APP)
    assert host.stage(sha, "../../evil/1").release_id == f"evil-1-{sha[:12]}"
    with pytest.raises(RejectedError, match="no letter or digit"):
        host.stage(sha, "../..")


def test_releases_outlive_the_daemon_and_the_next_one_adopts_them(
    host: LocalHost, repository: Repository, root: Path, config: LocalHostConfig
) -> None:
    first = host.stage(repository.commit(APP), "1")
    host.promote(first.release_id)
    second = host.stage(repository.commit(APP + "#"), "2")
    pids = [get(release.url).json()["pid"] for release in (first, second)]
    kill_daemon(root)
    assert served(first.url) == "1"
    with pytest.raises(TransientError, match="does not answer"):
        host.check()
    with pytest.raises(RejectedError, match=r"LocalHost\.start"):
        LocalHost.attach(root)

    again = LocalHost.start(root, config)
    assert again.public_url == host.public_url
    assert served(again.public_url) == "1"
    active = again.active()
    assert active is not None
    assert active.release_id == first.release_id
    assert [get(again.release(r.release_id).url).json()["pid"] for r in (first, second)] == pids
    again.promote(second.release_id)
    assert served(again.public_url) == "2"


def test_starting_twice_at_once_gives_one_daemon(root: Path, config: LocalHostConfig) -> None:
    with ThreadPoolExecutor(3) as pool:
        urls = {host.public_url for host in pool.map(LocalHost.start, [root] * 3, [config] * 3)}
    assert len(urls) == 1
    assert len(processes_of(root)) == 1
    assert LocalHost.attach(root).public_url in urls


def test_an_active_release_that_is_killed_comes_back(host: LocalHost, repository: Repository) -> None:
    release = host.promote(host.stage(repository.commit(APP), "1").release_id)
    for _ in range(2):
        os.kill(get(host.public_url).json()["pid"], signal.SIGKILL)
        eventually(lambda: served(host.public_url) in {502, "1"}, within_s=1)
        eventually(lambda: served(host.public_url) == "1")
    eventually(lambda: host.release(release.release_id).state is ReleaseState.READY)
    assert host.release(release.release_id).url == release.url, "its private URL stays"


def test_an_active_release_that_cannot_be_reached_is_a_502_and_counted(
    host: LocalHost, repository: Repository, root: Path
) -> None:
    release = host.promote(host.stage(repository.commit(APP), "1").release_id)
    (root / "releases" / release.release_id / "source" / "app.py").write_text(BROKEN_APP)
    os.kill(get(host.public_url).json()["pid"], signal.SIGKILL)
    eventually(lambda: served(host.public_url) == 502)
    assert host.metrics(release.release_id, since=an_hour_ago()).errors >= 1
    assert host.release(release.release_id).state is ReleaseState.STARTING


def test_public_requests_are_counted_and_private_ones_are_not(host: LocalHost, repository: Repository) -> None:
    first = host.promote(host.stage(repository.commit(APP), "1").release_id)
    second = host.stage(repository.commit(APP + "#"), "2")
    for _ in range(6):
        get(host.public_url)
        get(first.url)
    for _ in range(3):
        get(host.public_url + "/broken")
    get(host.public_url + "/slow?s=0.3")
    host.promote(second.release_id)
    get(host.public_url)

    counted = host.metrics(first.release_id, since=an_hour_ago())
    assert (counted.requests, counted.errors, counted.error_rate_pct) == (10, 3, 30.0)
    assert 0 < counted.p50_s < 0.2 < 0.3 <= counted.p95_s <= counted.p99_s < 2
    assert host.metrics(second.release_id, since=an_hour_ago()).requests == 1
    later = datetime.now(UTC) + timedelta(seconds=5)
    assert host.metrics(first.release_id, since=later).requests == 0
    with pytest.raises(RejectedError, match="time zone"):
        host.metrics(first.release_id, since=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point


def test_the_proxy_passes_requests_and_answers_through(host: LocalHost, repository: Repository) -> None:
    release = host.promote(host.stage(repository.commit(APP), "1").release_id)
    netloc = urlsplit(host.public_url).netloc
    seen = get(host.public_url + "/a%2Fb?x=1&y=%20", {"X-Forwarded-For": "10.9.9.9", "X-Own": "kept"}).json()
    assert seen["path"] == "/a%2Fb?x=1&y=%20"
    assert seen["headers"]["host"] == netloc
    assert seen["headers"]["x-forwarded-for"] == "10.9.9.9, 127.0.0.1"
    assert seen["headers"]["x-forwarded-proto"] == "http"
    assert seen["headers"]["x-own"] == "kept"

    body = os.urandom(3_000_000)
    with httpx.Client(trust_env=False) as client:
        known = client.post(host.public_url, content=body).json()
        chunked = client.post(host.public_url, content=iter([body[:1_000_000], body[1_000_000:]])).json()
        assert known == chunked
        assert known["size"] == len(body)
        assert client.head(host.public_url).content == b""
        with client.stream("GET", host.public_url + "/stream") as streamed:
            first = next(chunks := streamed.iter_raw())
            assert first == b"one", "the beginning arrives before the end was made"
            assert first + b"".join(chunks) == b"onetwothree"
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(host.public_url + "/cut")
    counted = host.metrics(release.release_id, since=an_hour_ago())
    assert (counted.requests, counted.errors) == (6, 1), "an answer cut short is an error"


def test_the_use_of_the_machine_by_a_release_is_counted(host: LocalHost, repository: Repository) -> None:
    release = host.stage(repository.commit(APP), "1")
    before, after = host.resources(release.release_id), host.resources(release.release_id)
    assert before.processes >= 1
    assert before.memory_bytes > 1_000_000
    assert after.at > before.at
    assert after.cpu_s >= before.cpu_s > 0
    assert 0 < after.disk_usage_pct <= 100
    with pytest.raises(RejectedError, match="knows no release"):
        host.resources("unknown")


def test_the_admin_interface_wants_its_token_and_its_own_name(host: LocalHost, root: Path) -> None:
    address = json.loads((root / "host.json").read_text())
    url, token = address["admin_url"] + "/releases", f"Bearer {address['token']}"
    assert get(url, {"Authorization": token}).status_code == 200
    assert get(url).status_code == 401
    assert get(url, {"Authorization": "Bearer wrong"}).status_code == 401
    assert get(url, {"Authorization": token, "Host": "evil.example"}).status_code == 401
    assert get(host.public_url + "/releases", {"Authorization": token}).status_code == 503, "not on the public port"
    with pytest.raises(RejectedError, match="token"):
        LocalHost(address["admin_url"], "wrong", host.public_url).check()
    assert (root / "host.json").stat().st_mode & 0o777 == 0o600


def test_variables_reach_releases_and_nothing_that_is_kept(
    root: Path, config: LocalHostConfig, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setenv("CALLERS_OWN", "1")
    host = LocalHost.start(root, config)
    release = host.promote(host.stage(repository.commit(APP), "1").release_id)
    names = get(release.url).json()["names"]
    assert {"DATABASE_URL", "EMPTY", "PORT", "APP_VERSION", "RELEASE_SHA", "PATH"} <= set(names)
    assert not [name for name in names if name.startswith("PYTHON") or name == "CALLERS_OWN"]
    assert {name: about.length for name, about in host.variables().items()} == {"DATABASE_URL": len(SECRET), "EMPTY": 0}
    for path in (p for p in root.rglob("*") if p.is_file() and p.name != "app.env"):
        assert SECRET not in path.read_text(errors="replace"), path
    assert (root / "app.env").stat().st_mode & 0o777 == 0o600

    (root / "app.env").write_text(f"{SECRET}\n")
    with pytest.raises(RejectedError, match="line 1") as refused:
        host.variables()
    assert SECRET not in str(refused.value)


def test_logs_are_read_back_with_time_and_level(host: LocalHost, repository: Repository, root: Path) -> None:
    release = host.stage(repository.commit(APP), "1")
    with (root / "logs" / f"{release.release_id}.log").open("a") as log:
        log.write('{"time": "2020-01-01T00:00:00Z", "level": "WARN", "message": "old"}\n')
        log.write("Traceback (most recent call last):\n")
    lines = host.logs(release.release_id)
    assert [(line.level, line.message) for line in lines] == [
        ("info", "listening"),
        ("info", "a plain line"),
        ("warning", "old"),
        ("error", "Traceback (most recent call last):"),
    ]
    assert lines[2].at == datetime(2020, 1, 1, tzinfo=UTC)
    assert list(host.logs(release.release_id, limit=2)) == list(lines[2:])
    assert host.logs(release.release_id, since=datetime(2021, 1, 1, tzinfo=UTC))[-1].level == "error"
    assert "old" not in [line.message for line in host.logs(release.release_id, since=datetime(2021, 1, 1, tzinfo=UTC))]


def test_stop_leaves_nothing_running_and_start_resumes(
    host: LocalHost, repository: Repository, root: Path, config: LocalHostConfig
) -> None:
    host.promote(host.stage(repository.commit(APP), "1").release_id)
    host.stage(repository.commit(APP + "#"), "2")
    LocalHost.stop(root)
    assert processes_of(root) == []
    LocalHost.stop(root)
    again = LocalHost.start(root, config)
    assert again.public_url == host.public_url
    eventually(lambda: served(again.public_url) == "1")


def test_stop_also_ends_what_a_killed_daemon_left(
    host: LocalHost, repository: Repository, root: Path, config: LocalHostConfig
) -> None:
    stubborn = APP.replace(
        "server.serve_forever()",
        "import signal, subprocess\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\nserver.serve_forever()",
    )
    host.stage(repository.commit(stubborn), "1")
    assert len(processes_of(root)) == 3
    kill_daemon(root)
    LocalHost.stop(root)
    assert processes_of(root) == []


def test_stop_also_ends_a_daemon_that_hangs(host: LocalHost, repository: Repository, root: Path) -> None:
    host.stage(repository.commit(APP), "1")
    os.kill(json.loads((root / "host.json").read_text())["pid"], signal.SIGSTOP)
    LocalHost.stop(root)
    assert processes_of(root) == []


def test_a_public_port_that_was_taken_meanwhile_is_replaced(
    host: LocalHost, root: Path, config: LocalHostConfig
) -> None:
    LocalHost.stop(root)
    with socket.create_server(("127.0.0.1", urlsplit(host.public_url).port or 0)):
        assert LocalHost.start(root, config).public_url != host.public_url


def test_a_caller_that_leaves_a_stream_does_not_disturb_the_rest(host: LocalHost, repository: Repository) -> None:
    release = host.promote(host.stage(repository.commit(APP), "1").release_id)
    connection = HTTPConnection("127.0.0.1", urlsplit(host.public_url).port or 0)
    connection.request("GET", "/stream")
    connection.getresponse().read(3)
    connection.close()
    assert served(host.public_url) == "1"
    eventually(lambda: host.metrics(release.release_id, since=an_hour_ago()).requests == 2)
    assert host.metrics(release.release_id, since=an_hour_ago()).errors == 0


def trials_of(root: Path) -> list[psutil.Process]:
    """Return the processes that run against another database than the releases do."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().startswith(str(root)) and process.environ().get("DATABASE_URL", SECRET) != SECRET:
                found.append(process)
    return [process for process in found if process.status() != psutil.STATUS_ZOMBIE]


PASSWORD = "p%C3%A4ss-w0rd"
TRIAL_URL = f"postgresql://shop:{PASSWORD}@127.0.0.1:1/copy"
SHOWS_DATABASE = APP.replace('"path": self.path', '"path": self.path, "database": os.environ["DATABASE_URL"]')


def test_a_trial_is_the_same_release_on_another_database_beside_the_traffic(
    host: LocalHost, repository: Repository, root: Path
) -> None:
    release = host.promote(host.stage(repository.commit(SHOWS_DATABASE), "1").release_id)
    before = [one.release_id for one in host.releases()]
    with host.trial(release.release_id, TRIAL_URL) as url:
        tried, running = get(url).json(), get(host.public_url).json()
        assert tried["database"] == TRIAL_URL
        assert running["database"] == SECRET
        assert tried["version"] == running["version"] == "1"
        assert tried["pid"] != running["pid"]
        assert set(tried["names"]) == set(running["names"])
        assert url not in {host.public_url, release.url}
        assert [one.release_id for one in host.releases()] == before
        assert len(trials_of(root)) == 1
    assert trials_of(root) == []
    assert served(host.public_url) == "1"
    assert [path.name for path in (root / "logs").iterdir()] == [f"{release.release_id}.log"]


def test_a_trial_ends_also_when_what_is_done_with_it_fails(host: LocalHost, repository: Repository, root: Path) -> None:
    release = host.stage(repository.commit(APP), "1")
    with pytest.raises(LookupError), host.trial(release.release_id, TRIAL_URL):
        raise LookupError
    assert trials_of(root) == []


def test_a_stopped_release_can_be_tried_and_two_trials_do_not_meet(
    host: LocalHost, repository: Repository, root: Path
) -> None:
    ids = [host.promote(host.stage(repository.commit(APP + f"# {n}"), f"{n}").release_id).release_id for n in range(3)]
    eventually(lambda: host.release(ids[0]).state is ReleaseState.STOPPED)
    with host.trial(ids[0], TRIAL_URL) as first, host.trial(ids[0], TRIAL_URL) as second:
        assert served(first) == served(second) == "0"
        assert first != second
    assert host.release(ids[0]).state is ReleaseState.STOPPED
    assert trials_of(root) == []


@pytest.mark.parametrize("how", ["stopped", "told to end", "killed and stopped", "killed and started"])
def test_no_trial_outlives_its_daemon(
    host: LocalHost, repository: Repository, root: Path, config: LocalHostConfig, how: str
) -> None:
    release = host.promote(host.stage(repository.commit(APP), "1").release_id)
    with host.trial(release.release_id, TRIAL_URL) as url:
        assert served(url) == "1"
        if how.startswith("killed"):
            kill_daemon(root)
        elif how == "told to end":
            os.kill(json.loads((root / "host.json").read_text())["pid"], signal.SIGTERM)
        if how == "killed and started":
            assert served(LocalHost.start(root, config).public_url) == "1"
        elif how != "told to end":
            LocalHost.stop(root)
        eventually(lambda: trials_of(root) == [])
    if how == "killed and started":
        assert [path.name for path in (root / "logs").iterdir()] == [f"{release.release_id}.log"]


def test_a_release_that_does_not_work_with_the_other_database_is_told_with_its_last_log_lines(
    host: LocalHost, repository: Repository, root: Path
) -> None:
    picky = (
        f"import os, sys\nfrom urllib.parse import unquote\nif os.environ['DATABASE_URL'] != {SECRET!r}:\n"
        "    url = os.environ['DATABASE_URL']\n    print('cannot reach', url, flush=True)\n"
        "    print('nor', url.split(':')[2].split('@')[0], unquote(url), flush=True)\n"
        "    sys.exit('column note does not exist')\n" + APP
    )
    release = host.promote(host.stage(repository.commit(picky), "1").release_id)
    with pytest.raises(StageError) as raised, host.trial(release.release_id, TRIAL_URL):
        pytest.fail("it must not begin")
    said = str(raised.value)
    assert f"release {release.release_id} does not answer with this database. Last log lines:" in said
    assert "column note does not exist" in said
    assert PASSWORD not in said
    assert "p\u00e4ss-w0rd" not in said
    assert trials_of(root) == []
    assert [path.name for path in (root / "logs").iterdir()] == [f"{release.release_id}.log"]
    assert served(host.public_url) == "1"


def test_a_release_that_never_answers_on_the_other_database_is_given_up(
    host: LocalHost, repository: Repository, root: Path, config: LocalHostConfig
) -> None:
    slow = f"import os, time\nif os.environ['DATABASE_URL'] != {SECRET!r}:\n    time.sleep(60)\n" + APP
    release = host.stage(repository.commit(slow), "1")
    LocalHost.start(root, replace(config, ready_timeout_s=0.5))
    with pytest.raises(StageError, match="does not answer with this database"), host.trial(release.release_id, "x"):
        pytest.fail("it must not begin")
    assert trials_of(root) == []


def test_an_unknown_release_is_not_tried(host: LocalHost, root: Path) -> None:
    with pytest.raises(RejectedError, match="knows no release") as raised, host.trial("r-1", TRIAL_URL):
        pytest.fail("it must not begin")
    assert PASSWORD not in str(raised.value)
    with pytest.raises(RejectedError, match="database_url is missing"), host.trial("r-1", ""):
        pytest.fail("it must not begin")


def test_the_url_of_a_trial_is_nowhere_but_in_memory(host: LocalHost, repository: Repository, root: Path) -> None:
    release = host.promote(host.stage(repository.commit(APP), "1").release_id)
    with host.trial(release.release_id, TRIAL_URL) as url:
        get(url)
        assert not [words for words in processes_of(root) if PASSWORD in words]
        for path in (path for path in root.rglob("*") if path.is_file()):
            assert PASSWORD not in path.read_text(errors="replace"), path
    for path in (path for path in root.rglob("*") if path.is_file()):
        assert PASSWORD not in path.read_text(errors="replace"), path

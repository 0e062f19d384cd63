"""`make demo`: a real application is released six times, goes wrong in four ways, and is brought back each time.

Every run is started with `prefect deployment run ... --watch`, as CI would. After each, the demo looks for itself and
prints what it found beside what it expected; it ends with exit code 0 only if all of it agrees.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from deployments.demo.facts import Facts, look, missing_orders, served_version
from deployments.demo.repository import build_repository
from deployments.demo.traffic import Counts, Traffic
from deployments.local import PROJECT, LocalEnvironment
from runbook.clients.local_host import LocalHost
from runbook.errors import RunbookError, StageError

FOLDER = PROJECT / ".runbook" / "demo"
_SERVED_WITHIN_S = 120
_RUN_WITHIN_S = 180
_IMMEDIATE_PCT = 10.0


class Demo:
    """One run of the demo: what was expected, what was found."""

    def __init__(self, local: LocalEnvironment) -> None:
        self.local = local
        self.url = LocalHost.attach(local.root / "host").public_url
        self.disagreements = 0
        self.begun = time.monotonic()
        self.last_output = ""

    def run(self, title: str, deployment: str, **parameters: object) -> bool:
        """Start a deployment's run as CI would and wait for it; return whether it exited with 0."""
        print(f"\n[{time.monotonic() - self.begun:5.1f} s] {title}")
        parameters["triggered_by"] = "make demo"
        argv = ["-m", "prefect", "deployment", "run", deployment, "--params", json.dumps(parameters), "--watch"]
        argv += ["--watch-timeout", str(_RUN_WITHIN_S)]
        print(f"    prefect deployment run {deployment} --params '{json.dumps(parameters)}' --watch")
        environment = self.local.prefect_environment()
        done = subprocess.run(
            [sys.executable, *argv], env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
        )
        self.last_output = done.stdout + done.stderr
        return done.returncode == 0

    def expect(self, what: str, expected: object, found: object) -> None:
        """Print a fact beside what was expected of it, and remember a difference."""
        agrees = expected == found
        self.disagreements += not agrees
        print(f"    {'ok ' if agrees else 'NOT'}  {what:<44} expected {expected!s:<24} found {found}")
        if not agrees and self.disagreements == 1:
            print(self.last_output)

    def expect_that(self, what: str, holds: bool, found: object) -> None:
        """Print a fact that has to hold, with what was found."""
        self.expect(what, True, holds)
        print(f"         {'':<44} {found}")

    def expect_schema(self, before: Facts, found: Facts) -> None:
        """Compare columns, indexes and applied migrations with those of an earlier look."""
        self.expect("schema, as before", before.schema_digest, found.schema_digest)
        self.expect("applied migrations, as before", len(before.migrations), len(found.migrations))

    def expect_data(self, before: Facts, found: Facts) -> None:
        """Compare row counts and checksums of all tables with those of an earlier look."""
        self.expect("rows of all tables, as before", before.rows, found.rows)
        self.expect("checksum of all tables, as before", before.content_digest, found.content_digest)
        self.expect("tables with other content", [], _changed(before, found))

    @property
    def reason(self) -> str:
        """Why the last deploy failed, by its own log."""
        newest = max((self.local.root / "logs").glob("deploy_*.json"))
        return str(json.loads(newest.read_text(encoding="utf-8"))["error"]).splitlines()[0]

    def facts(self) -> Facts:
        """Look at application and database."""
        return look(self.url, self.local.database_url)

    def missing_orders(self, references: Iterable[str]) -> list[str]:
        """Return which acknowledged orders the database does not hold."""
        return missing_orders(self.local.database_url, references)


def story(demo: Demo, traffic: Traffic) -> None:
    """Release v2 to v6 and roll back in the three scopes, under traffic. v1 is released already."""
    second = _three_migrations(demo, traffic)
    _failing_smoke_test(demo, traffic, second)
    _failing_under_load(demo, traffic, second)
    traffic.pause_writes()
    before = demo.facts()
    _failing_migration(demo, traffic, before)
    _destroyed_data(demo, traffic, before)
    _database_only(demo, traffic, before)
    _application_only(demo, traffic, before)
    traffic.resume_writes()


def _three_migrations(demo: Demo, traffic: Traffic) -> Facts:
    first = demo.facts()
    traffic.mark()
    ok = demo.run("Deploy v2: three migrations, one of them CREATE INDEX CONCURRENTLY", "deploy/local", git_ref="v2")
    second = demo.facts()
    demo.expect("the run succeeded", True, ok)
    demo.expect("served version", "v2", second.version)
    demo.expect("new migrations", 3, len(second.migrations) - len(first.migrations))
    demo.expect("failed requests", 0, _tell(traffic).failures)
    return second


def _failing_smoke_test(demo: Demo, traffic: Traffic, second: Facts) -> None:
    traffic.mark()
    ok = demo.run("Deploy v3: fails its smoke test", "deploy/local", git_ref="v3")
    facts, seen = demo.facts(), _tell(traffic)
    demo.expect("the run succeeded", False, ok)
    demo.expect("served version", "v2", facts.version)
    demo.expect_schema(second, facts)
    demo.expect("requests served by v3", 0, seen.by_version.get("v3", (0, 0))[0])
    demo.expect("failed requests", 0, seen.failures)


def _failing_under_load(demo: Demo, traffic: Traffic, second: Facts) -> None:
    traffic.mark()
    ok = demo.run("Deploy v4: passes its smoke tests, fails under load", "deploy/local", git_ref="v4")
    facts, seen = demo.facts(), _tell(traffic)
    requests, failures = seen.by_version.get("v4", (0, 0))
    demo.expect("the run succeeded", False, ok)
    demo.expect("served version, rolled back by itself", "v2", facts.version)
    demo.expect_schema(second, facts)
    demo.expect_that("v4 failed requests", failures > 0, f"{failures} of the {requests} that the traffic sent to it")
    rate = re.search(r"requests failed \(([\d.]+) %\)", demo.reason)
    over = rate is not None and float(rate[1]) > _IMMEDIATE_PCT
    demo.expect_that("rolled back for more than 10 % of failures", over, demo.reason)


def _failing_migration(demo: Demo, traffic: Traffic, before: Facts) -> None:
    traffic.mark()
    ok = demo.run("Deploy v5: its third migration fails half-way", "deploy/local", git_ref="v5")
    facts, seen = demo.facts(), _tell(traffic)
    demo.expect("the run succeeded", False, ok)
    demo.expect("served version", "v2", facts.version)
    demo.expect_schema(before, facts)
    demo.expect_data(before, facts)
    demo.expect("failed requests", 0, seen.failures)


def _destroyed_data(demo: Demo, traffic: Traffic, before: Facts) -> None:
    ok = demo.run("Deploy v6: passes everything, and its migration destroys data", "deploy/local", git_ref="v6")
    facts = demo.facts()
    demo.expect("the run succeeded", True, ok)
    demo.expect("served version", "v6", facts.version)
    demo.expect_that("data was destroyed", facts.rows < before.rows, f"{before.rows} rows became {facts.rows}")
    traffic.mark()
    traffic.resume_writes()
    ok = demo.run(
        "Full rollback to the backup made before v6",
        "rollback/local",
        scope="full",
        latest=True,
        reason="v6 destroyed data",
        yes=True,
    )
    traffic.pause_writes()
    facts, seen = demo.facts(), _tell(traffic)
    demo.expect("the run succeeded", True, ok)
    demo.expect("served version", "v2", facts.version)
    demo.expect_schema(before, facts)
    demo.expect_that("orders were written meanwhile", seen.writes > 0, f"{seen.writes} acknowledged")
    demo.expect("acknowledged orders that are lost", 0, len(demo.missing_orders(traffic.acknowledged_references())))
    demo.expect_that("destroyed rows are back", facts.rows > before.rows, f"{facts.rows} rows, {before.rows} before v6")


def _database_only(demo: Demo, traffic: Traffic, before: Facts) -> None:
    _write_for(traffic, 2)
    written = demo.facts().rows - before.rows
    traffic.mark()
    ok = demo.run(
        "Database-only rollback to the same backup",
        "rollback/local",
        scope="db-only",
        latest=True,
        yes=True,
    )
    facts = demo.facts()
    _tell(traffic)
    demo.expect("the run succeeded", True, ok)
    demo.expect_that("rows were written since the backup", written > 0, f"{written} rows, quoted in the report as lost")
    demo.expect("served version, unchanged", "v2", facts.version)
    demo.expect_data(before, facts)


def _application_only(demo: Demo, traffic: Traffic, before: Facts) -> None:
    traffic.mark()
    ok = demo.run(
        "Application-only rollback", "rollback/local", scope="app-only", reason="v2 confuses the warehouse", yes=True
    )
    facts, seen = demo.facts(), _tell(traffic)
    demo.expect("the run succeeded", True, ok)
    demo.expect("served version", "v1", facts.version)
    demo.expect_data(before, facts)
    demo.expect_schema(before, facts)
    demo.expect("failed requests", 0, seen.failures)


def _tell(traffic: Traffic) -> Counts:
    seen = traffic.since_mark()
    print(
        f"         traffic: {seen.requests} requests, {seen.failures} failed, {seen.writes} writes,"
        f" longest gap without an answer {seen.longest_gap_s * 1000:.0f} ms"
    )
    return seen


def _changed(before: Facts, after: Facts) -> list[str]:
    names = before.tables.keys() | after.tables.keys()
    return sorted(name for name in names if before.tables.get(name) != after.tables.get(name))


def _write_for(traffic: Traffic, seconds: float) -> None:
    traffic.resume_writes()
    time.sleep(seconds)
    traffic.pause_writes()


def _first_release(demo: Demo, stack: ExitStack) -> Traffic:
    """Deploy v1; the traffic begins with its first answer, so that it sees the promotion's validation and watch."""
    result: list[bool] = []
    runner = threading.Thread(
        target=lambda: result.append(demo.run("Deploy v1: the first release", "deploy/local", git_ref="v1"))
    )
    runner.start()
    deadline = time.monotonic() + _SERVED_WITHIN_S
    while served_version(demo.url) != "v1" and runner.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    traffic = stack.enter_context(Traffic(demo.url))
    runner.join()
    if result != [True]:
        raise StageError(f"the first release failed; nothing that follows would mean anything:\n{demo.last_output}")
    facts = demo.facts()
    demo.expect("the run succeeded", True, result[0])
    demo.expect("served version", "v1", facts.version)
    demo.expect("migrations", 2, len(facts.migrations))
    demo.expect("failed requests", 0, _tell(traffic).failures)
    return traffic


def play(local: LocalEnvironment) -> int:
    """Play the whole story on an environment that is up; return the number of disagreements."""
    demo = Demo(local)
    with ExitStack() as stack:
        traffic = _first_release(demo, stack)
        story(demo, traffic)
        total = traffic.counts()
    seconds = time.monotonic() - demo.begun
    print(
        f"\nAll in all {total.requests} requests and {total.writes} acknowledged writes in {seconds:.0f} s;"
        f" {total.failures} requests failed, the longest gap without an answer was {total.longest_gap_s:.2f} s."
    )
    for version, (requests, failures) in sorted(total.by_version.items()):
        print(f"    {version:<10} {requests:>6} requests  {failures:>5} failed")
    print(f"{demo.disagreements} disagreements." if demo.disagreements else "Everything found is as expected.")
    return demo.disagreements


@contextmanager
def emulated(local: LocalEnvironment) -> Generator[None]:
    """Release on emulators of Vercel and Neon for the body of a `with`; they are in the checkout, not installed."""
    from tests.emulators.neon import neon_emulator
    from tests.emulators.neon_postgres import servers
    from tests.emulators.vercel import Served, vercel_emulator

    token = secrets.token_urlsafe(24)
    host = LocalHost.attach(local.root / "host")
    with (
        servers(local.postgres, local.root / "branches") as contents,
        neon_emulator(token=token, contents=contents) as neon,
        vercel_emulator(token=token, backend=Served(host)) as vercel,
    ):
        vercel.variables = {name: ["production"] for name in host.variables()}
        local.use_emulators(vercel.url, neon.url, token)
        print("  releases run on the emulators of Vercel and Neon", flush=True)
        yield


def main() -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m deployments.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything up at the end")
    parser.add_argument("--stop", action="store_true", help="stop what --keep left up, and delete it")
    parser.add_argument(
        "--host",
        choices=["local", "vercel"],
        default="local",
        help="vercel: release on emulators of Vercel and Neon, which really serve what is released",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything is kept (%(default)s)")
    options = parser.parse_args()
    local = LocalEnvironment(options.folder.resolve() / "environment", options.folder.resolve() / "repository")
    if options.stop:
        _remove(local)
        return 0
    # Also SIGINT: a shell without job control lets what it starts in the background ignore it.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)
    keep = False
    try:
        _remove(local)
        build_repository(local.repository)
        local.up(lambda line: print(f"  {line}", flush=True))
        with emulated(local) if options.host == "vercel" else nullcontext():
            disagreements = play(local)
        keep = options.keep
    except KeyboardInterrupt:
        print("\ninterrupted; stopping everything")
        return 130
    except RunbookError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    finally:
        _without_interruption(local.down if not keep else lambda: _say_how_to_stop(local))
    return 1 if disagreements else 0


def _remove(local: LocalEnvironment) -> None:
    local.remove()
    shutil.rmtree(local.repository, ignore_errors=True)


def _say_how_to_stop(local: LocalEnvironment) -> None:
    print(f"\nStill up: Prefect UI {local.ui_url}, application {LocalHost.attach(local.root / 'host').public_url}")
    print("Stop it with: make stop")


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _without_interruption(action: Callable[[], None]) -> None:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    action()


if __name__ == "__main__":
    sys.exit(main())

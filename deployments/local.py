"""The environment `local` on this machine: Postgres, application host, Prefect server and worker, all its own.

Everything is kept in one folder and outlives its caller; `down` stops all of it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg import sql

from deployments.processes import Service, inherited_environment
from runbook.clients.embedded_postgres import EmbeddedPostgres, free_port
from runbook.clients.local_host import LocalHost, LocalHostConfig
from runbook.errors import StageError, TransientError
from runbook.settings import Settings, load_settings

PROJECT = Path(__file__).resolve().parent.parent
_STARTS_WITHIN_S = 120
_START_COMMAND = ("{python}", "-m", "shop")


@dataclass(frozen=True)
class LocalEnvironment:
    """The environment `local`, kept in `root`, releasing commits of `repository`."""

    root: Path
    repository: Path

    def up(self, say: Callable[[str], None] = lambda _line: None) -> None:
        """Bring everything up that is not up yet. Safe to repeat, also after a crash.

        Raises:
            ServiceError: something did not start; the message names its log.
        """
        self._make_root()
        with ThreadPoolExecutor(max_workers=1) as pool:
            server = pool.submit(self._start_server)
            self.up_application(say)
            server.result()
        say(f"the Prefect server answers at {self.ui_url}")
        self._run_python("-m", "deployments.register", str(self.root), str(self.repository))
        worker = Service("worker", self.root / "prefect")
        worker.start(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--name", "local"],
            self.prefect_environment(),
        )
        self._run_python("-m", "prefect", "--no-prompt", "deploy", "--all")
        self._wait(worker, self._worker_is_online)
        say("blocks, work pool and deployments are registered; the worker runs")

    def use_emulators(self, vercel_url: str, neon_url: str, token: str) -> None:
        """Let the environment be released on emulators of Vercel and Neon, which serve what runs here.

        Raises:
            StageError: the blocks could not be saved.
        """
        addresses = (vercel_url, neon_url)
        self._run_python(
            "-m", "deployments.register", str(self.root), str(self.repository), *addresses, EMULATOR_TOKEN=token
        )

    def up_application(self, say: Callable[[str], None] = lambda _line: None) -> LocalHost:
        """Bring up what needs no Prefect: Postgres, the database, the application host. Safe to repeat.

        Raises:
            ServiceError: something did not start; the message names its log.
        """
        self._make_root()
        self.postgres.start()
        self._create_database()
        say("Postgres answers")
        host = LocalHost.start(self.root / "host", LocalHostConfig(self.repository, _START_COMMAND))
        self._write_application_variables(host.public_url)
        say(f"the application host answers at {host.public_url}")
        return host

    def down(self) -> None:
        """Stop everything; data stays."""
        for name in ("worker", "server"):
            Service(name, self.root / "prefect").stop()
        LocalHost.stop(self.root / "host")
        self.postgres.stop()

    def remove(self) -> None:
        """Stop everything and delete all data."""
        if self.root.exists():
            self.down()
        self.postgres.remove()  # its data may live elsewhere, and outlive a folder that was deleted by hand
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def postgres(self) -> EmbeddedPostgres:
        """The environment's Postgres server."""
        return EmbeddedPostgres(self.root / "postgres")

    @property
    def settings(self) -> Settings:
        """The environment's settings: the file's, with this machine's folders."""
        settings = load_settings(PROJECT / "deployments" / "environments" / "local.toml")
        return settings.model_copy(update={"repository": str(self.repository), "records": str(self.root)})

    @property
    def database_url(self) -> str:
        """URL of the application's database, with its password."""
        return self.postgres.url(self.settings.database)

    @property
    def ui_url(self) -> str:
        """URL of the Prefect UI."""
        return f"http://127.0.0.1:{(self.root / 'prefect' / 'port').read_text(encoding='utf-8')}"

    def prefect_environment(self) -> dict[str, str]:
        """Return the environment in which a program talks to this Prefect server, and to no other."""
        return inherited_environment() | {
            "PREFECT_HOME": str(self.root / "prefect"),
            # Prefect keeps runs' files in a folder of a fixed name below this one; in /tmp it would be another user's.
            "TMPDIR": str(self._temporary),
            "PREFECT_API_URL": f"{self.ui_url}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PREFECT_LOGGING_EXTRA_LOGGERS": "runbook",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; `deployments.automations` takes three for dead
            "PREFECT_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        }

    @property
    def _temporary(self) -> Path:
        return self.root / "prefect" / "tmp"

    def _make_root(self) -> None:
        # Others may pass through but not look: as root, Postgres runs as another user, below this folder.
        self.root.mkdir(parents=True, exist_ok=True, mode=0o711)

    def _start_server(self) -> None:
        folder = self.root / "prefect"
        folder.mkdir(exist_ok=True, mode=0o700)
        self._temporary.mkdir(exist_ok=True, mode=0o700)
        service = Service("server", folder)
        if service.process() is None:
            port = free_port()
            (folder / "port").write_text(str(port), encoding="utf-8")
            argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
            service.start(argv, self.prefect_environment())
        self._wait(service, lambda: _ask("GET", f"{self.ui_url}/api/health") is True)

    def _worker_is_online(self) -> bool:
        workers: list[dict[str, Any]] = _ask("POST", f"{self.ui_url}/api/work_pools/local/workers/filter") or []
        return any(worker["status"] == "ONLINE" for worker in workers)

    @staticmethod
    def _wait(service: Service, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _STARTS_WITHIN_S
        while not is_ready():
            if service.process() is None or time.monotonic() > deadline:
                tail = "\n".join(service.log.read_text(errors="replace").splitlines()[-20:])
                raise TransientError(f"the Prefect {service.name} did not start; {service.log} ends with:\n{tail}")
            time.sleep(0.2)

    def _create_database(self) -> None:
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            name = self.settings.database
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone() is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            # Beside the application's database, so that neither its schema nor its backups change.
            available = "SELECT 1 FROM pg_available_extensions WHERE name = 'pg_stat_statements'"
            if connection.execute(available).fetchone() is not None:
                connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")

    def _write_application_variables(self, public_url: str) -> None:
        """Write the variables that releases run with; secrets are made once and then kept."""
        path = self.root / "host" / "app.env"
        kept: dict[str, str] = {}
        if path.exists():
            kept = dict(line.split("=", 1) for line in path.read_text(encoding="utf-8").splitlines() if "=" in line)
        variables = {
            "NEXTAUTH_SECRET": secrets.token_urlsafe(32),
            "JWT_SECRET": secrets.token_urlsafe(32),
            **kept,
            "DATABASE_URL": self.database_url,
            "NEXTAUTH_URL": public_url,
        }
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.writelines(f"{name}={value}\n" for name, value in variables.items())

    def _run_python(self, *arguments: str, **variables: str) -> None:
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.prefect_environment() | variables,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StageError(f"{' '.join(arguments[:3])} failed:\n{(done.stdout + done.stderr)[-3000:]}")


def _ask(method: str, url: str) -> Any:  # noqa: ANN401 - whatever JSON the server answers
    try:
        response = httpx.request(method, url, json={} if method == "POST" else None, timeout=2, trust_env=False)
        return response.json() if response.is_success else None
    except (httpx.HTTPError, ValueError):
        return None

"""Fill the blocks of the environment `local`, create its work pool and the automations. Safe to repeat.

Run as `python -m deployments.register <root> <repository> [<address of Vercel> <address of Neon>]` by
`deployments.local`; the addresses are those of emulators, whose token is in the environment variable EMULATOR_TOKEN.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from blocks.backup_store import FolderBackupStore
from blocks.environment import Environment
from blocks.local_host import LocalApplicationHost
from blocks.neon import NeonProject
from blocks.postgres import PostgresDatabase
from blocks.vercel import VercelProject
from deployments.automations import crash_silent_runs, register_automation
from deployments.local import LocalEnvironment
from runbook.clients.local_host import LocalHost


@dataclass(frozen=True)
class Emulators:
    """Where the emulators are that stand in for Vercel and Neon, and the token that both take."""

    vercel_url: str
    neon_url: str
    token: SecretStr


def register_environment(local: LocalEnvironment, emulators: Emulators | None = None) -> None:
    """Save the environment's blocks, replacing what was saved under the same names."""
    name = local.settings.name
    database = PostgresDatabase(url=SecretStr(local.database_url))
    database.save(name, overwrite=True)
    host: LocalApplicationHost | VercelProject = LocalApplicationHost(folder=str(local.root / "host"))
    points = None
    if emulators is not None:
        public_url = LocalHost.attach(local.root / "host").public_url
        host = VercelProject(token=emulators.token, project="shop", public_url=public_url, api_url=emulators.vercel_url)
        points = NeonProject(api_key=emulators.token, project_id="shiny-wind-028834", api_url=emulators.neon_url)
        points.save(name, overwrite=True)
    host.save(name, overwrite=True)
    store = FolderBackupStore(path=str(local.root))
    store.save(name, overwrite=True)
    environment = Environment(settings=local.settings, database=database, host=host, store=store, restore_points=points)
    environment.save(name, overwrite=True)


def register_work_pool(name: str) -> None:
    """Create a process work pool, or bring it up to date.

    The command is given, because without one Prefect starts a process to find the flow and another to run it.
    """
    template = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["command"]["default"] = f"{sys.executable} -m prefect.engine"
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        else:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def main() -> None:
    """Register the environment `local` kept in the folder given."""
    root, repository = (Path(argument) for argument in sys.argv[1:3])
    emulators = None
    if sys.argv[3:]:
        vercel_url, neon_url = sys.argv[3:5]
        emulators = Emulators(vercel_url, neon_url, SecretStr(os.environ["EMULATOR_TOKEN"]))
    register_work_pool("local")
    register_automation(crash_silent_runs())
    register_environment(LocalEnvironment(root, repository), emulators)


if __name__ == "__main__":
    main()

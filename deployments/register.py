"""Fill the blocks of the environment `local`, create its work pool and the automations. Safe to repeat.

Run as `python -m deployments.register <root> <repository>` by `deployments.local`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import SecretStr

from blocks.backup_store import FolderBackupStore
from blocks.environment import Environment
from blocks.local_host import LocalApplicationHost
from blocks.postgres import PostgresDatabase
from deployments.automations import crash_silent_runs, register_automation
from deployments.local import LocalEnvironment


def register_environment(local: LocalEnvironment) -> None:
    """Save the environment's blocks, replacing what was saved under the same names."""
    name = local.settings.name
    database = PostgresDatabase(url=SecretStr(local.database_url))
    database.save(name, overwrite=True)
    host = LocalApplicationHost(folder=str(local.root / "host"))
    host.save(name, overwrite=True)
    store = FolderBackupStore(path=str(local.root))
    store.save(name, overwrite=True)
    Environment(settings=local.settings, database=database, host=host, store=store).save(name, overwrite=True)


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
    register_work_pool("local")
    register_automation(crash_silent_runs())
    register_environment(LocalEnvironment(root, repository))


if __name__ == "__main__":
    main()

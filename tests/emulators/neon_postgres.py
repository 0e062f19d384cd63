"""Branches of the Neon emulator that hold something: each is a Postgres server of its own, a physical copy of another.

As on Neon, a copy has the transaction numbers of what it was made of, its parent's roles and passwords, none of its
replication slots, and an address of its own; restoring the live branch keeps that branch's address.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from runbook.clients.embedded_postgres import EmbeddedPostgres, bin_directory


@dataclass(frozen=True)
class Cluster(EmbeddedPostgres):
    """A server whose data can be copied and moved."""

    def copy_of(self, other: EmbeddedPostgres) -> None:
        """Become a physical copy of another server, running or not; the copy does not run."""
        account, data = self._locate()
        self._begin(other)
        partial = data.with_name(f"{data.name}.partial")
        if other.running():
            parts = {key: str(value) for key, value in conninfo_to_dict(other.url()).items()}
            where = [
                f"--{name}={parts[key]}" for name, key in (("host", "host"), ("port", "port"), ("username", "user"))
            ]
            subprocess.run(
                [bin_directory() / "pg_basebackup", f"--pgdata={partial}", "--checkpoint=fast", "--no-sync", *where],
                env={"PATH": os.defpath, "PGPASSWORD": parts["password"]},
                check=True,
                capture_output=True,
            )
        else:
            shutil.copytree((other.root / "data").resolve(), partial, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            os.chown(path, account.uid, account.gid, follow_symlinks=False)
        self._end(partial, data)

    def take(self, other: EmbeddedPostgres) -> None:
        """Take the data of another server, which has none afterwards and does not run."""
        other.stop()
        _, data = self._locate()
        self._begin(other)
        (other.root / "data").resolve().rename(data)
        (other.root / "data").unlink(missing_ok=True)
        self._end(data, data)

    def _begin(self, other: EmbeddedPostgres) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        password = self.root / "password"
        if not password.exists():
            password.touch(mode=0o600)
            password.write_text((other.root / "password").read_text())

    def _end(self, found: Path, data: Path) -> None:
        if found != data:
            found.rename(data)
        if data != self.root.resolve() / "data":
            (self.root / "data").symlink_to(data)


class Servers:
    """The servers of all branches, below one folder; `live` is the application's."""

    def __init__(self, live: EmbeddedPostgres, folder: Path) -> None:
        self.live = Cluster(live.root)
        self._folder = folder
        self._made: list[Cluster] = []

    @property
    def first(self) -> Cluster:
        """Return the application's server."""
        return self.live

    def capture(self, content: Cluster) -> Cluster:
        """Return a copy of what a branch holds now."""
        made = self._new()
        made.copy_of(content)
        return made

    def start(self, content: Cluster) -> str:
        """Let a branch take connections, and return its URL."""
        content.start()
        return content.url()

    def replace(self, live: Cluster, content: Cluster) -> tuple[Cluster, Cluster]:
        """Put a branch's content in the live one's place; return what was live, and what is."""
        kept = self._new()
        kept.take(live)
        live.take(content)
        live.start()
        return kept, live

    def drop(self, content: Cluster) -> None:
        """Stop the server of a branch, and remove it."""
        content.remove()

    def remove(self) -> None:
        """Stop and remove all but the live server."""
        for made in self._made:
            made.remove()

    def _new(self) -> Cluster:
        self._made.append(Cluster(self._folder / f"branch-{len(self._made) + 1}"))
        return self._made[-1]


@contextmanager
def servers(live: EmbeddedPostgres, folder: Path) -> Generator[Servers]:
    """Keep the servers of branches below a folder for the body of a `with`."""
    made = Servers(live, folder)
    try:
        yield made
    finally:
        made.remove()

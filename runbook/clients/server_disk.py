"""How full the disk of a database server is. PostgreSQL does not tell; a server on this machine shows it."""

from __future__ import annotations

import shutil
from ipaddress import ip_address
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from runbook.rules.database_state import Disk


def server_disk(url: str, data_directory: str | None) -> Disk | str:
    """Return the disk of a server that runs on this machine, or why it cannot be told.

    Args:
        url: where the server was reached.
        data_directory: where it keeps its data, by its own word; None when it does not say.
    """
    host = str(conninfo_to_dict(url).get("host") or "localhost")
    if not _is_this_machine(host):
        return "PostgreSQL does not tell how full its disk is, and the server is on another machine"
    if data_directory is None:
        return "this role may not see where the server keeps its data"
    if not Path(data_directory).exists():
        return f"{data_directory} is not on this machine"
    total, used, free = shutil.disk_usage(data_directory)
    # As `df` does: what is reserved for the system's own use is not to be had.
    return Disk(data_directory, 100.0 * used / max(1, used + free), free) if total else "the disk has no size"


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False

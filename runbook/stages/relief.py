"""What relieves an environment that is slow, with the command for what it runs on. Nothing here does it by itself.

Source: runbook, "SEV3: Performance Degradation" ("Mitigation"); https://vercel.com/docs/headers/cache-control-headers;
https://neon.com/docs/connect/connection-pooling; https://neon.com/docs/introduction/read-replicas.
"""

from __future__ import annotations

from runbook.clients.neon import NeonRestorePoints
from runbook.clients.vercel import VercelHost
from runbook.connections import Connections


def relief(connections: Connections) -> tuple[str, ...]:
    """Return the mitigations of SEV3 as what to do on this host and this database."""
    if isinstance(connections.host, VercelHost):
        caching = (
            "Caching on Vercel: send `Cache-Control: s-maxage=60, stale-while-revalidate=300` from slow GET routes"
        )
    else:
        caching = (
            "Caching: send `Cache-Control: s-maxage=60` from slow GET routes, and put a cache before the application"
        )
    if isinstance(connections.restore_points, NeonRestorePoints):
        pool = "Connections on Neon: let DATABASE_URL of the application have `-pooler` behind the endpoint's id"
        replicas = "Read replica on Neon: neonctl branches add-compute <branch> --type read_only"
    else:
        pool = "Connections: ALTER SYSTEM SET max_connections = 300, then restart; or put PgBouncer before the database"
        replicas = "Read replica: pg_basebackup -R, then send reports and lists there"
    return caching, pool, replicas

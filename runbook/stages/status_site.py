"""The status page of an environment, put together from what is known and written where users read it.

Source: runbook, "Incident Response Process" ("Update status page").
"""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

from runbook.clients.object_store import MissingObjectError
from runbook.clients.site_target import SiteTarget
from runbook.connections import Connections
from runbook.errors import RefusedError
from runbook.rules.public_status import (
    SHOWN_DAYS,
    PublicStatus,
    component_state,
    last_days,
    planned,
    public_incidents,
    uptime_days,
)
from runbook.stages.incidents import records_of
from runbook.stages.monitoring import history_of
from runbook.status_site import render_atom, render_html, render_json

_AHEAD = timedelta(days=14)
_LOOK_BACK = timedelta(days=2)


def public_status(connections: Connections) -> PublicStatus:
    """Return what users may see now; keeps the uptime of each day, since samples are kept for a shorter time.

    Raises:
        ServiceError: the store does not answer.
    """
    settings, at = connections.settings.incidents, datetime.now(UTC)
    incidents = public_incidents(records_of(connections).incidents(), settings.public_title)
    samples = history_of(connections).read(since=at - _LOOK_BACK, until=at)
    windows = [
        found for window in connections.settings.maintenance.windows for found in window.occurrences(at, at + _AHEAD)
    ]
    seen = [one.at for one in samples if one.metric == "requests"]
    state = component_state(incidents, windows, max(seen, default=None), at)
    names = settings.components or ("Application",)
    return PublicStatus(
        name=settings.page_name,
        at=at,
        components=tuple((name, state) for name in names),
        incidents=incidents,
        maintenance=planned(windows, at),
        uptime=last_days(_uptime(connections, uptime_days(samples), at.date()), at.date()),
    )


def write_status_site(connections: Connections, target: SiteTarget | None = None) -> str:
    """Write the status page; return where.

    Raises:
        RefusedError: there is nowhere to write it to.
        ServiceError: it cannot be written, or the store does not answer.
    """
    target = target or connections.status_site
    if target is None:
        raise RefusedError(f"{connections.settings.name} has no status site: put the block runbook-status-site into it")
    status = public_status(connections)
    # The page last: whoever sees it finds the feed and the summary that belong to it.
    target.write("summary.json", render_json(status).encode(), content_type="application/json")
    target.write("history.atom", render_atom(status).encode(), content_type="application/atom+xml")
    target.write("index.html", render_html(status).encode(), content_type="text/html; charset=utf-8")
    return target.place


def _uptime(connections: Connections, measured: dict[date, float], today: date) -> dict[date, float]:
    """Return the uptime of all days that are known, the newest as just measured, and keep it."""
    objects, key = connections.store.objects, f"status/{connections.settings.name}/uptime.json"
    try:
        kept = {date.fromisoformat(day): float(pct) for day, pct in json.loads(objects.read(key)).items()}
    except (MissingObjectError, ValueError, AttributeError, TypeError):
        kept = {}
    first = min(measured, default=today)
    # Of the oldest day that was read only a part was: what was kept of it while it was whole counts.
    together = {**kept, **{day: pct for day, pct in measured.items() if day > first or day not in kept}}
    together = {day: pct for day, pct in together.items() if (today - day).days < SHOWN_DAYS}
    objects.replace(key, json.dumps({f"{day}": pct for day, pct in sorted(together.items())}, indent=2).encode())
    return together

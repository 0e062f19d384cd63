"""The status page as files: one page of HTML without scripts, a summary in JSON, and a feed in Atom.

The page asks nobody for anything: no script, no font, no image from elsewhere. It is read on a telephone at night as
well as at a desk, by people and by screen readers.

Source: WCAG 2.2; RFC 4287 (Atom); https://metastatuspage.com/api (the shape of `summary.json`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from xml.etree import ElementTree

from runbook.rules.public_status import ComponentState, PublicIncident, PublicMaintenance, PublicStatus, UptimeDay

_WORDS = {
    ComponentState.OPERATIONAL: "All systems operational",
    ComponentState.UNDER_MAINTENANCE: "Under maintenance",
    ComponentState.UNKNOWN: "Not known: nothing was measured lately",
    ComponentState.DEGRADED_PERFORMANCE: "Degraded performance",
    ComponentState.PARTIAL_OUTAGE: "Partial outage",
    ComponentState.MAJOR_OUTAGE: "Major outage",
}
_INDICATORS = {
    ComponentState.OPERATIONAL: "none",
    ComponentState.UNDER_MAINTENANCE: "maintenance",
    ComponentState.UNKNOWN: "minor",
    ComponentState.DEGRADED_PERFORMANCE: "minor",
    ComponentState.PARTIAL_OUTAGE: "major",
    ComponentState.MAJOR_OUTAGE: "critical",
}
_ATOM = "http://www.w3.org/2005/Atom"
_PAST = 20

COLOURS = {
    "light": {
        "paper": "#ffffff", "card": "#f5f6f8", "ink": "#1b1f24", "quiet": "#565d66", "line": "#d5d9de",
        "good": "#1a6b3c", "notice": "#1f5fa8", "unknown": "#5a616a", "poor": "#8a5a00", "bad": "#b3261e",
    },
    "dark": {
        "paper": "#14171a", "card": "#1e2328", "ink": "#eceff2", "quiet": "#a9b1ba", "line": "#39414a",
        "good": "#6fcf97", "notice": "#8ab8ee", "unknown": "#aab2bb", "poor": "#f0b860", "bad": "#ff8f85",
    },
}  # fmt: skip
"""Every colour of the page; all but `line` are for text on `paper` and on `card`."""
_TONES = {
    ComponentState.OPERATIONAL: "good",
    ComponentState.UNDER_MAINTENANCE: "notice",
    ComponentState.UNKNOWN: "unknown",
    ComponentState.DEGRADED_PERFORMANCE: "poor",
    ComponentState.PARTIAL_OUTAGE: "bad",
    ComponentState.MAJOR_OUTAGE: "bad",
}
_STYLE = """
*{box-sizing:border-box}body{margin:0;overflow-wrap:anywhere;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main,header,footer{max-width:46rem;margin:0 auto;padding:1rem}h1{font-size:1.25rem;margin:.5rem 0}
h2{font-size:1.1rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:0}p{margin:.25rem 0}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--paper);padding:.5rem}
.overall{background:var(--card);border-left:.5rem solid;padding:1rem;font-size:1.35rem;font-weight:600;margin:0}
ul{list-style:none;padding:0;margin:0}li,article{background:var(--card);padding:.75rem 1rem;margin:.5rem 0}
.component{display:flex;flex-wrap:wrap;justify-content:space-between;gap:.25rem 1rem}
time,.quiet{color:var(--quiet);font-size:.9rem}.good{color:var(--good)}.notice{color:var(--notice)}
.unknown{color:var(--unknown)}.poor{color:var(--poor)}.bad{color:var(--bad)}article p{margin:.5rem 0 0}
svg{width:100%;height:3rem;display:block}.scale{display:flex;justify-content:space-between}
details{margin-top:.5rem}summary{cursor:pointer}table{border-collapse:collapse;font-size:.9rem}
time{white-space:nowrap}
td,th{padding:.1rem .75rem .1rem 0;text-align:left}a{color:var(--notice)}footer{border-top:1px solid var(--line)}
"""


def render_html(status: PublicStatus) -> str:
    """Return the page."""
    now = [one for one in status.incidents if one.ended is None]
    past = [one for one in status.incidents if one.ended is not None][:_PAST]
    body = [
        '<a class="skip" href="#status">Skip to the status</a>',
        f"<header><h1>{escape(status.name)}</h1></header>",
        '<main id="status">',
        f'<p class="overall {_TONES[status.overall]}" role="status">{_WORDS[status.overall]}</p>',
        *_section("Incidents", [_incident(one) for one in now]),
        *_section("Maintenance", [_maintenance(one, status.at) for one in status.maintenance]),
        "<section><h2>Components</h2><ul>",
        *(_component(name, state) for name, state in status.components),
        "</ul></section>",
        *_uptime(status.uptime),
        "<section><h2>Past incidents</h2>",
        *([_incident(one) for one in past] or ["<p>None so far.</p>"]),
        "</section></main>",
        f'<footer><p>As of {_time(status.at)}. <a href="history.atom">Feed</a>, <a href="summary.json">JSON</a></p>',
        "</footer>",
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_WORDS[status.overall]} - {escape(status.name)}</title>",
            '<link rel="alternate" type="application/atom+xml" title="Incidents" href="history.atom">',
            f"<style>:root{{{_variables('light')}}}",
            f"@media (prefers-color-scheme: dark){{:root{{{_variables('dark')}}}}}{_STYLE}</style>",
            "</head>",
            "<body>",
            *body,
            "</body>",
            "</html>",
            "",
        ]
    )


def render_json(status: PublicStatus) -> str:
    """Return the summary, in the shape that readers of Statuspage's `summary.json` know."""
    document = {
        "page": {"name": status.name, "updated_at": _iso(status.at)},
        "status": {"indicator": _INDICATORS[status.overall], "description": _WORDS[status.overall]},
        "components": [{"name": name, "status": state} for name, state in status.components],
        "incidents": [_incident_json(one) for one in status.incidents],
        "scheduled_maintenances": [
            {"id": one.id, "name": one.text, "scheduled_for": _iso(one.start), "scheduled_until": _iso(one.end)}
            for one in status.maintenance
        ],
        "uptime": [{"day": f"{one.day}", "uptime_pct": one.uptime_pct} for one in status.uptime],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def render_atom(status: PublicStatus) -> str:
    """Return the feed: an entry for each thing that users were told, the newest first, and for planned maintenance."""
    feed = ElementTree.Element("feed", xmlns=_ATOM)
    _add(feed, "title", f"Status of {status.name}")
    _add(feed, "id", "urn:mantis-runbook:status")
    _add(feed, "updated", _iso(_changed_at(status)))
    ElementTree.SubElement(_add(feed, "author", ""), "name").text = _plain(status.name)
    for incident in status.incidents:
        for update in incident.updates:
            number = f"{update.at.astimezone(UTC):%Y%m%dT%H%M%S%f}"
            entry = ElementTree.SubElement(feed, "entry")
            _add(entry, "id", f"urn:mantis-runbook:{incident.id}:{number}")
            _add(entry, "title", f"{incident.title}: {update.status}")
            _add(entry, "updated", _iso(update.at))
            _add(entry, "content", update.text).set("type", "text")
    for planned in status.maintenance:
        entry = ElementTree.SubElement(feed, "entry")
        _add(entry, "id", f"urn:mantis-runbook:maintenance:{planned.id}")
        _add(entry, "title", f"Maintenance: {planned.text}")
        _add(entry, "updated", _iso(planned.start))
        _add(entry, "content", f"From {_words(planned.start)} to {_words(planned.end)}").set("type", "text")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(feed, encoding="unicode") + "\n"


def _section(title: str, parts: Sequence[str]) -> list[str]:
    return [f"<section><h2>{title}</h2>", *parts, "</section>"] if parts else []


def _incident(incident: PublicIncident) -> str:
    updates = "".join(
        f"<p><strong>{escape(update.status.capitalize())}</strong> {_time(update.at)}<br>{escape(update.text)}</p>"
        for update in incident.updates
    )
    tone = _TONES[incident.impact] if incident.ended is None else "quiet"
    began = _time(incident.began)
    when = f"{began} to {_time(incident.ended)}" if incident.ended else f"Since {began}"
    head = f'<h3 class="{tone}">{escape(incident.title)}</h3><p>{when}</p>'
    return f"<article>{head}{updates}</article>"


def _maintenance(planned: PublicMaintenance, now: datetime) -> str:
    when = "On now, until" if planned.start <= now else f"From {_time(planned.start)} to"
    return f'<article><h3 class="notice">{escape(planned.text)}</h3><p>{when} {_time(planned.end)}</p></article>'


def _component(name: str, state: ComponentState) -> str:
    words = state.replace("_", " ").capitalize()
    return f'<li class="component"><span>{escape(name)}</span><span class="{_TONES[state]}">{words}</span></li>'


def _uptime(days: Sequence[UptimeDay]) -> list[str]:
    """Draw a bar for each day, and say the same in a table."""
    if not days:
        return []
    known = [one.uptime_pct for one in days if one.uptime_pct is not None]
    mean = f"{sum(known) / len(known):.2f} % over {len(known)} days with data" if known else "no data yet"
    bars = [_bar(number, one) for number, one in enumerate(days)]
    rows = "".join(
        f"<tr><td>{one.day}</td><td>{one.uptime_pct:.2f} %</td></tr>"
        for one in reversed(days)
        if one.uptime_pct is not None
    )
    head = "<tr><th>Day (UTC)</th><th>Uptime</th></tr>"
    table = f"<details><summary>In numbers</summary><table>{head}{rows}</table></details>"
    return [
        f"<section><h2>Uptime</h2><p>{mean}</p>",
        f'<svg viewBox="0 0 {len(days) * 4} 40" preserveAspectRatio="none" role="img" aria-labelledby="uptime-title">',
        f'<title id="uptime-title">Uptime of the last {len(days)} days: {mean}</title>',
        *bars,
        "</svg>",
        f'<p class="scale quiet"><span>{days[0].day}</span><span>{days[-1].day}</span></p>',
        table if known else "",
        "</section>",
    ]


def _bar(number: int, one: UptimeDay) -> str:
    tone = "unknown" if one.uptime_pct is None else "good" if one.uptime_pct >= 99.9 else "poor"
    tone = "bad" if one.uptime_pct is not None and one.uptime_pct < 99 else tone
    height = 6.0 if one.uptime_pct is None else 40 * (0.25 + 0.75 * one.uptime_pct / 100)
    return f'<rect x="{number * 4}" y="{40 - height:g}" width="3" height="{height:g}" fill="var(--{tone})"/>'


def _incident_json(incident: PublicIncident) -> dict[str, object]:
    return {
        "id": incident.id,
        "name": incident.title,
        "status": incident.status,
        "impact": _INDICATORS[incident.impact],
        "started_at": _iso(incident.began),
        "resolved_at": _iso(incident.ended) if incident.ended else None,
        "incident_updates": [
            {"status": update.status, "body": update.text, "created_at": _iso(update.at)} for update in incident.updates
        ],
    }


def _changed_at(status: PublicStatus) -> datetime:
    times = [update.at for incident in status.incidents for update in incident.updates]
    return max([*times, *(one.start for one in status.maintenance if one.start <= status.at)], default=status.at)


def _add(parent: ElementTree.Element, name: str, text: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name)
    element.text = _plain(text)
    return element


def _plain(text: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return "".join(one for one in text if one in "\t\n" or (one >= " " and one.isprintable()) or one == " ")


def _variables(scheme: str) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in COLOURS[scheme].items())


def _time(at: datetime) -> str:
    return f'<time datetime="{_iso(at)}">{_words(at)}</time>'


def _words(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

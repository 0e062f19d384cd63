from __future__ import annotations

import html
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from runbook.rules.release_watch import Verdict
from runbook.rules.thresholds import Action, Severity
from runbook.watch_plots import application_plot, database_plot
from runbook.watch_report import WatchedBaseline, WatchLook, WatchReport

SINCE = datetime(2025, 1, 4, 12, tzinfo=UTC)
BUSY = {
    "response_time_p50_s": 0.05, "response_time_p95_s": 0.21, "response_time_p99_s": 0.4, "error_rate_pct": 0.5,
    "requests_per_s": 12.0, "database_connections_pct": 40.0, "database_locks": 12.0, "database_blocked": 1.0,
}  # fmt: skip


def look(minute: float, values: Mapping[str, float], verdict: Verdict = Verdict.HEALTHY) -> WatchLook:
    at, shown = SINCE + timedelta(minutes=minute), dict(values)
    return WatchLook(at=at, requests=9, errors=0, verdict=verdict, action=Action.MONITOR, detail="", values=shown)


def report(*looks: WatchLook, verdict: Verdict = Verdict.HEALTHY, p95_s: float | None = 0.2) -> WatchReport:
    baseline = WatchedBaseline(source="v1 before it", requests=1000, errors=5, p95_s=p95_s) if p95_s else None
    return WatchReport(
        environment="production", timestamp=SINCE, version="v2", git_sha="b" * 40, release_id="r2", since=SINCE,
        until=SINCE + timedelta(minutes=30), baseline=baseline, reference_pct=1, verdict=verdict,
        action=Action.MONITOR, severity=Severity.SEV4, detail="", looks=looks, ended="the time is over",
        reason="after a deploy", triggered_by="automation",
        duration=(looks[-1].at - SINCE).total_seconds() if looks else 0,
    )  # fmt: skip


def texts(svg: str) -> list[str]:
    return [html.unescape(re.sub("<[^>]*>", "", found)) for found in re.findall(r"<text[^>]*>(.*?)</text>", svg)]


def test_the_headline_says_what_was_found_and_the_lines_say_what_they_are() -> None:
    found = texts(application_plot(report(look(1, BUSY), look(2, BUSY))))
    assert "v2: HEALTHY after 2 min" in found
    assert "production, from 2025-01-04 12:00 UTC; compared with v1 before it" in found
    assert {"p50 50 ms", "p95 210 ms", "p99 400 ms", "> 10 %: roll back", "5 %: consider"} <= set(found)
    assert "last 12 per second, highest 12" in found
    below = set(texts(database_plot(report(look(1, BUSY)))))
    assert {"warning > 75 %", "critical > 90 %", "held 12", "waiting 1.0"} <= below


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.DEGRADED, "DEGRADED"),
        (Verdict.INCONCLUSIVE, "NOT KNOWN YET"),
        (Verdict.NO_DATA, "NO DATA"),
    ],
)
def test_what_is_not_healthy_is_never_called_so(verdict: Verdict, words: str) -> None:
    svg = application_plot(report(look(1, {}, verdict), verdict=verdict, p95_s=None))
    assert f"v2: {words} after 1 min" in texts(svg)
    assert "HEALTHY" not in svg
    assert "not measured" in svg


def test_slow_answers_are_drawn_in_seconds() -> None:
    assert "p99 6.0 s" in texts(application_plot(report(look(1, BUSY | {"response_time_p99_s": 6.0}))))


def test_the_same_watch_gives_the_same_bytes() -> None:
    made = report(look(1, BUSY), look(2, BUSY, Verdict.DEGRADED))
    assert application_plot(made) == application_plot(made)

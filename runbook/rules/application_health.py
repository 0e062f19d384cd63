"""What the numbers of the application mean: errors, response times, times normal.

Source: runbook, "Alert Thresholds", "Severity Levels", "When to Rollback".
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from runbook.rules.drills import duration_in_words
from runbook.rules.health_findings import Finding, Health, actions_where_needed, by_runbook
from runbook.rules.normal import Normal
from runbook.rules.samples import Sample
from runbook.rules.thresholds import Action, Severity, Signals, decide, severity

_MOST_TIMES = 1e6
_ERRORS_ACTION = "See `runbook monitoring:errors`; consider `runbook deploy:rollback` if it began with a release."
_SLOW_ACTION = "See `runbook monitoring:performance` and `runbook db:slow-queries`."


def application_findings(samples: Mapping[str, Sample], normals: Mapping[str, Normal]) -> list[Finding]:
    """Return what was found of errors and response times; that nothing was requested is a finding of its own.

    Args:
        samples: the newest, by metric.
        normals: what is normal, by metric.

    Source: runbook, "Alert Thresholds"; "Severity Levels" ("Performance degradation (>2x normal)").
    """
    requests = samples.get("requests")
    if requests is None:
        return []
    if requests.value == 0:
        detail = "nobody requested anything, so nothing can be said about errors and response times"
        return [Finding("requests", Health.COULD_NOT_RUN, detail, "Look again later, or with a longer --last.")]
    found: list[Finding] = []
    if (rate := samples.get("error_rate_pct")) is not None:
        errors = samples["errors"].value if "errors" in samples else 0
        detail = f"{rate.value:.2f} % ({errors:.0f} of {requests.value:.0f} requests)"
        health = by_runbook("error_rate_pct", rate.value)
        found.append(Finding("error rate", health, detail + _compared(rate, normals), _ERRORS_ACTION))
    if (p95 := samples.get("response_time_p95_s")) is not None:
        detail = f"{duration_in_words(p95.value)}{_compared(p95, normals)}"
        found.append(Finding("response time p95", by_runbook("response_time_p95_s", p95.value), detail, _SLOW_ACTION))
        found.append(_slowdown(p95, normals.get("response_time_p95_s")))
    return actions_where_needed(found)


def signals(samples: Mapping[str, Sample], normals: Mapping[str, Normal]) -> Signals | None:
    """Return the runbook's signals by what was measured; None when nothing was requested.

    Without a normal the response time counts as normal: nobody can say otherwise.
    """
    rate, p95 = samples.get("error_rate_pct"), samples.get("response_time_p95_s")
    if rate is None:
        return None
    times = normals["response_time_p95_s"].times(p95.value) if p95 and "response_time_p95_s" in normals else None
    return Signals(error_rate_pct=rate.value, slowdown=1.0 if times is None else min(times, _MOST_TIMES))


def advice(found: Signals) -> str:
    """Return severity and advice of the runbook in words. Source: runbook, "Severity Levels", "When to Rollback"."""
    level = severity(found)
    if level is Severity.SEV4:
        return "no incident: monitor normally"
    words = {
        Action.ROLL_BACK: "roll back at once",
        Action.CONSIDER: "investigate, consider a rollback",
        Action.MONITOR: "monitor, no rollback",
    }
    return f"{level}: {words[decide(found)]}"


def _slowdown(p95: Sample, known: Normal | None) -> Finding:
    name = "times normal (p95)"
    times = known.times(p95.value) if known else None
    if known is None or times is None:
        why = known.render() if known else "no normal was asked for"
        action = "Let the deployment `monitoring` run on its schedule; a normal needs its samples."
        return Finding(name, Health.COULD_NOT_RUN, why, action, is_needed=False)
    health = Health.WARNING if times >= 2 else Health.FINE
    shown = "infinitely often" if math.isinf(times) else f"{times:.1f}x"
    return Finding(name, health, f"{shown} normal, {known.render()}", _SLOW_ACTION)


def _compared(found: Sample, normals: Mapping[str, Normal]) -> str:
    known = normals.get(found.metric)
    if known is None or known.median is None:
        return ""
    usual = duration_in_words(known.median) if found.unit == "s" else f"{known.median:.2f} {found.unit}"
    return f"; normal is {usual}"

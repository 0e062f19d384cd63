"""Restore drills: how much a failure could have cost, whether the next drill is due, how long a restore will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from runbook.reports import DrillReport
from runbook.settings import DrillSettings

_DAY_S = 86_400
_LAST_DRILLS = 3
_CLOCK_TOLERANCE_S = 60
"""Two machines' clocks may differ by so much before a drill counts as one from the future."""


@dataclass(frozen=True)
class RestorePrediction:
    """How long a restore will take, in seconds, and what says so.

    0 when nothing is left to restore, None when nothing like it was ever measured.
    """

    duration_s: float | None
    basis: str

    def render(self) -> str:
        """Return it in words."""
        return f"about {duration_in_words(self.duration_s)}, {self.basis}" if self.duration_s else self.basis


def predict_restore(
    *, is_prepared: bool, measured_s: float | None, size_bytes: int, drills: Sequence[DrillReport]
) -> RestorePrediction:
    """Predict how long it takes to restore a backup, by what was measured, the best evidence first.

    Args:
        is_prepared: the backup is restored already, and kept ready.
        measured_s: what restoring this very backup in full took; None when it never was.
        size_bytes: its size, as stored.
        drills: the reports of restore drills, oldest first. Of the last few successful ones the slowest counts,
            scaled by size: a prediction that is too long costs less than one that is too short.

    Source: runbook, "Disaster Recovery" (recovery time objective).
    """
    if is_prepared:
        return RestorePrediction(0.0, "none, it is restored already; only to catch up and to swap is left")
    if measured_s is not None:
        return RestorePrediction(measured_s, "as the restore of this very backup took")
    measured = [(one.rto_s, one.size_bytes) for one in drills if one.success and one.rto_s is not None]
    if size_bytes and (last := [(rto_s, size) for rto_s, size in measured[-_LAST_DRILLS:] if size]):
        predicted_s = max(rto_s * size_bytes / size for rto_s, size in last)
        return RestorePrediction(predicted_s, f"by the restore drills (last {len(last)}, scaled by size)")
    return RestorePrediction(None, "nobody knows, it was never measured (`runbook db:drill`)")


def recovery_point_s(created: Sequence[datetime], *, now: datetime, window_days: float = 7) -> float | None:
    """Return the longest time, in seconds, that went by without a new verified backup lately; None without any.

    `created` are the times (aware, in any order) of the verified backups. A gap between two of them counts when it
    ended in the last `window_days`, with its whole length; the time from the newest one to `now` always counts.
    A time after `now` (the clock was set back) counts as `now`.
    """
    if not created:
        return None
    ages_s = sorted((max((now - at).total_seconds(), 0.0) for at in created), reverse=True)
    gaps_s = [before - after for before, after in pairwise(ages_s) if after <= window_days * _DAY_S]
    return max([*gaps_s, ages_s[-1]])


def over_budget(report: DrillReport, settings: DrillSettings) -> list[str]:
    """Say in words which budgets the drill exceeded; exactly the budget is within it.

    What was not measured exceeds no budget, except that a successful drill has to have a time to restore.
    """
    found: list[str] = []
    if settings.rto_budget_s is not None and report.rto_s is None and report.success:
        found.append(
            f"{_named(report)} measured no time to restore (RTO), so nobody knows whether it is within the budget of "
            f"{duration_in_words(settings.rto_budget_s)}. Run a drill."
        )
    measured = (
        ("the time to restore (RTO) was", report.rto_s, settings.rto_budget_s),
        ("writes at stake (RPO) were those of", report.rpo_s, settings.rpo_budget_s),
    )
    for name, took_s, budget_s in measured:
        if took_s is not None and budget_s is not None and took_s > budget_s:
            found.append(
                f"{_named(report)}: {name} {duration_in_words(took_s)}, {duration_in_words(took_s - budget_s)} more "
                f"than the budget of {duration_in_words(budget_s)}"
            )
    return found


def overdue(last: DrillReport | None, settings: DrillSettings, *, now: datetime) -> list[str]:
    """Say in words why a drill is asked for now; nothing when it is not, or when the settings ask for none.

    `maximum_age_days` asks for a drill that is not older (exactly so old is not too old) and not from the future:
    its age is unknown when the clock was set back. Any of the three settings asks that the last drill succeeded,
    and each budget that it was kept. A budget alone does not ask for a first drill.
    """
    if settings == DrillSettings():
        return []
    if last is None:
        if settings.maximum_age_days is None:
            return []
        return [f"there was no restore drill yet; one is asked for every {settings.maximum_age_days:g} d. Run one."]
    found = [] if last.success else [f"{_named(last)} failed: {last.error or 'no reason was recorded'}"]
    if settings.maximum_age_days is not None:
        found += _age_findings(last, settings.maximum_age_days, now)
    return found + over_budget(last, settings)


def duration_in_words(duration_s: float) -> str:
    """Return a duration for people, in its two largest units: `4 min 10 s`, `3 h`, `2 d 5 h`; rounded."""
    if duration_s < 0.9995:
        return f"{duration_s * 1000:.0f} ms"
    if duration_s < 9.95:
        return f"{duration_s:.1f} s".replace(".0 s", " s")
    seconds = round(duration_s)
    if seconds < 3600:
        return _two_units(seconds, 60, "min", "s")
    minutes = round(duration_s / 60)
    if minutes < 24 * 60:
        return _two_units(minutes, 60, "h", "min")
    return _two_units(round(duration_s / 3600), 24, "d", "h")


def _age_findings(last: DrillReport, maximum_age_days: float, now: datetime) -> list[str]:
    age_s = (now - last.timestamp).total_seconds()
    if age_s < -_CLOCK_TOLERANCE_S:
        return [
            f"{_named(last)} lies {duration_in_words(-age_s)} in the future, so its age is unknown. Set this machine's "
            "clock right, or run a drill."
        ]
    if age_s > maximum_age_days * _DAY_S:
        late_s = age_s - maximum_age_days * _DAY_S
        return [
            f"{_named(last)} is {duration_in_words(age_s)} old, {duration_in_words(late_s)} more than the "
            f"{maximum_age_days:g} d allowed. Run a drill."
        ]
    return []


def _named(report: DrillReport) -> str:
    return f"the last restore drill ({report.timestamp.astimezone(UTC):%Y-%m-%d %H:%M} UTC, {report.backup_id})"


def _two_units(count: int, base: int, large: str, small: str) -> str:
    parts = (f"{count // base} {large}" if count >= base else "", f"{count % base} {small}" if count % base else "")
    return " ".join(part for part in parts if part)

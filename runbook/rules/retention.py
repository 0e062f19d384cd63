"""Retention: which backups are kept, and why. Only a verified backup can take the place of another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from runbook.manifest import VerificationState
from runbook.rules.sizes import size_in_words
from runbook.settings import RetentionSettings

_DAY_S = 86_400


@dataclass(frozen=True)
class StoredBackup:
    """What retention has to know of a backup; times are aware.

    `pinned` is why and by whom it was pinned. `locked_until` is when Object Lock lets go of the last of its files.
    """

    backup_id: str
    created_at: datetime
    verification: VerificationState
    size_bytes: int
    pinned: str | None = None
    locked_until: datetime | None = None


@dataclass(frozen=True)
class Decision:
    """Whether a backup is kept; `reason` names every rule that keeps it, or says why it may go."""

    backup: StoredBackup
    keep: bool
    reason: str


def plan_retention(backups: Sequence[StoredBackup], settings: RetentionSettings, *, now: datetime) -> list[Decision]:
    """Decide about each backup, newest first; of two made at one time, the one with the higher id is the newer.

    The newest `keep_last` and `minimum_kept` verified backups are kept, and the newest verified one of each of so
    many days, ISO weeks and months that have one. Periods are those of UTC and are counted over the backups, not
    back from `now`: a clock that was set wrong, or a pause in making backups, takes nothing away.

    A backup that is not verified is kept until it is older than `unverified_days`, for somebody to look at. It
    never counts, so it never pushes a good one out.

    Pinned and locked backups are kept, too. The rules are applied as if none were pinned or locked: such a backup
    takes a place only where it would have it anyway, and pinning or unpinning one changes nothing for the others.

    Without any verified backup nothing is removed: what there is may be all that is left.
    """
    newest_first = sorted(backups, key=lambda backup: (backup.created_at, backup.backup_id), reverse=True)
    verified = [backup for backup in newest_first if backup.verification is VerificationState.VERIFIED]
    chosen = _chosen(verified, settings)
    decisions: list[Decision] = []
    for backup in newest_first:
        reasons = [*chosen.get(backup.backup_id, []), *_protections(backup, now)]
        expired = "not kept by any rule"
        if backup.verification is not VerificationState.VERIFIED:
            expired = f"{backup.verification}, older than {_days(settings.unverified_days)}"
            age_days = (now - backup.created_at).total_seconds() / _DAY_S
            if age_days <= settings.unverified_days:
                reasons.append(f"{backup.verification}, {_made(age_days)}, kept until day {settings.unverified_days:g}")
            elif not verified:
                reasons.append(f"{expired}, but there is no verified backup at all")
        decisions.append(Decision(backup, bool(reasons), "; ".join(reasons) or expired))
    return decisions


def render_plan(decisions: Sequence[Decision]) -> list[str]:
    """Return one line for each decision, in columns, and a last line that says how many bytes are freed."""
    rows = [
        (
            "keep" if decision.keep else "remove",
            decision.backup.backup_id,
            str(decision.backup.verification),
            size_in_words(decision.backup.size_bytes),
            _one_line(decision.reason),
        )
        for decision in decisions
    ]
    action, name, state, size = (max((len(row[column]) for row in rows), default=0) for column in range(4))
    lines = [f"{r[0]:<{action}}  {r[1]:<{name}}  {r[2]:<{state}}  {r[3]:>{size}}  {r[4]}" for r in rows]
    freed = [decision.backup.size_bytes for decision in decisions if not decision.keep]
    return [*lines, f"{len(freed)} of {len(rows)} backups to remove: {size_in_words(sum(freed))} freed"]


def _chosen(verified: Sequence[StoredBackup], settings: RetentionSettings) -> dict[str, list[str]]:
    """Return why the rules keep them, by id; `verified` is newest first."""
    reasons: dict[str, list[str]] = {backup.backup_id: [] for backup in verified}
    for backup in verified[:1]:
        reasons[backup.backup_id].append("the last verified one")
    for backup in verified[: settings.keep_last]:
        reasons[backup.backup_id].append(_one_of_the_newest(settings.keep_last))
    for backup in verified[settings.keep_last : settings.minimum_kept]:
        reasons[backup.backup_id].append(f"the minimum of {settings.minimum_kept}")
    for name, period, count in (
        ("day", _day, settings.keep_daily),
        ("week", _week, settings.keep_weekly),
        ("month", _month, settings.keep_monthly),
    ):
        for label, backup in list(_newest_of_each(verified, period).items())[:count]:
            reasons[backup.backup_id].append(f"newest of {name} {label}")
    return reasons


def _newest_of_each(verified: Sequence[StoredBackup], period: Callable[[datetime], str]) -> dict[str, StoredBackup]:
    """Return the newest backup of each period that has one, newest period first; `verified` is newest first."""
    newest: dict[str, StoredBackup] = {}
    for backup in verified:
        newest.setdefault(period(backup.created_at.astimezone(UTC)), backup)
    return newest


def _day(at: datetime) -> str:
    return at.date().isoformat()


def _week(at: datetime) -> str:
    year, week, _ = at.isocalendar()
    return f"{year:04d}-W{week:02d}"


def _month(at: datetime) -> str:
    return f"{at.year:04d}-{at.month:02d}"


def _protections(backup: StoredBackup, now: datetime) -> list[str]:
    reasons: list[str] = []
    if backup.pinned is not None:
        reasons.append(f"pinned: {backup.pinned}")
    if backup.locked_until is not None and now <= backup.locked_until:
        until = backup.locked_until.astimezone(UTC)
        reasons.append(f"protected by Object Lock until {until:%Y-%m-%d %H:%M} UTC")
    return reasons


def _one_of_the_newest(count: int) -> str:
    return "the newest one" if count == 1 else f"one of the {count} newest"


def _made(age_days: float) -> str:
    if age_days < 0:
        return "made in the future by this clock"
    return f"made {_days(int(age_days))} ago" if age_days >= 1 else "made less than a day ago"


def _days(count: float) -> str:
    return "1 day" if count == 1 else f"{count:g} days"


def _one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())

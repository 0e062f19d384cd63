from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.manifest import VerificationState
from runbook.rules.retention import Decision, StoredBackup, plan_retention, render_plan
from runbook.settings import RetentionSettings

NOW = datetime(2025, 3, 1, tzinfo=UTC)
VERIFIED, UNVERIFIED, FAILED = VerificationState.VERIFIED, VerificationState.UNVERIFIED, VerificationState.FAILED
ONE = RetentionSettings(keep_last=1, keep_daily=0, keep_weekly=0, keep_monthly=0, minimum_kept=1)


def backup(
    at: str,
    state: VerificationState = VERIFIED,
    *,
    pinned: str | None = None,
    locked_until: datetime | None = None,
    size_bytes: int = 1000,
) -> StoredBackup:
    """Return a backup made at `at` (UTC, such as `01-04 12:00` of 2025, or with another year in front)."""
    text = at if at.count("-") == 2 else f"2025-{at}"
    created = datetime.fromisoformat(text).replace(tzinfo=UTC)
    return StoredBackup(f"backup_{created:%Y%m%d_%H%M%S}", created, state, size_bytes, pinned, locked_until)


def kept(backups: list[StoredBackup], settings: RetentionSettings, now: datetime = NOW) -> list[str]:
    """Return the times of those that are kept, as `01-04 12:00` (another year: with the year), newest first."""
    times = [decision.backup.created_at for decision in plan_retention(backups, settings, now=now) if decision.keep]
    return [f"{at:%m-%d %H:%M}" if at.year == 2025 else f"{at:%Y-%m-%d %H:%M}" for at in times]


def reason(one: StoredBackup, *others: StoredBackup, settings: RetentionSettings = ONE, now: datetime = NOW) -> str:
    """Return why `one` is kept or removed; what is removed begins with `remove:`."""
    decision = next(item for item in plan_retention([one, *others], settings, now=now) if item.backup == one)
    return decision.reason if decision.keep else f"remove: {decision.reason}"


MONTHS = ["2024-11-30 00:00", "2024-12-15 00:00", "2024-12-31 23:59", "01-01 00:00", "01-31 00:00", "02-27 00:00"]
WEEKS = [
    "2024-12-29 23:59",  # Sunday of 2024-W52
    "2024-12-30 00:00",  # Monday of 2025-W01
    "01-01 12:00",
    "01-05 23:59",  # Sunday of 2025-W01
    "01-06 00:00",  # Monday of 2025-W02
    "02-20 00:00",  # 2025-W08, after weeks without any
]
DAYS = ["01-01 10:00", "01-01 23:59", "01-02 00:00", "01-02 06:00", "02-20 00:00"]


@pytest.mark.parametrize(
    ("rules", "made", "expected"),
    [
        pytest.param({"keep_last": 3}, DAYS, ["02-20 00:00", "01-02 06:00", "01-02 00:00"], id="the 3 newest"),
        pytest.param({"keep_last": 9}, DAYS, DAYS[::-1], id="fewer than are asked for"),
        pytest.param({"keep_daily": 1}, DAYS, ["02-20 00:00"], id="one day"),
        pytest.param(
            {"keep_daily": 3}, DAYS, ["02-20 00:00", "01-02 06:00", "01-01 23:59"], id="days without a backup are free"
        ),
        pytest.param({"keep_weekly": 2}, WEEKS, ["02-20 00:00", "01-06 00:00"], id="two ISO weeks"),
        pytest.param(
            {"keep_weekly": 4},
            WEEKS,
            ["02-20 00:00", "01-06 00:00", "01-05 23:59", "2024-12-29 23:59"],
            id="a week over New Year is one week",
        ),
        pytest.param(
            {"keep_monthly": 3}, MONTHS, ["02-27 00:00", "01-31 00:00", "2024-12-31 23:59"], id="three months"
        ),
        pytest.param({"minimum_kept": 2}, DAYS, ["02-20 00:00", "01-02 06:00"], id="the minimum"),
        pytest.param(
            {"keep_last": 2, "keep_monthly": 2}, DAYS, ["02-20 00:00", "01-02 06:00"], id="one backup serves two rules"
        ),
        pytest.param(
            {"keep_daily": 2, "keep_monthly": 3},
            MONTHS,
            ["02-27 00:00", "01-31 00:00", "2024-12-31 23:59"],
            id="rules add up",
        ),
        pytest.param({}, [], [], id="no backups"),
    ],
)
def test_what_the_rules_keep(rules: dict[str, int], made: list[str], expected: list[str]) -> None:
    assert kept([backup(at) for at in made], ONE.model_copy(update=rules)) == expected


def test_days_are_those_of_utc() -> None:
    tokyo = timezone(timedelta(hours=9))
    late = backup("01-02 00:30")  # 2 January in both zones
    early = StoredBackup("backup_20250101_160000", datetime(2025, 1, 2, 1, tzinfo=tokyo), VERIFIED, 1)
    settings = ONE.model_copy(update={"keep_daily": 2})
    assert reason(early, late, settings=settings) == "newest of day 2025-01-01"


def test_each_reason_is_said() -> None:
    newest, second, third, older = (backup(at) for at in ("01-12 12:00", "01-12 06:00", "01-10 06:00", "2024-12-04"))
    settings = RetentionSettings(keep_last=2, keep_daily=2, keep_weekly=1, keep_monthly=1, minimum_kept=3)
    assert [decision.reason for decision in plan_retention([newest, second, third, older], settings, now=NOW)] == [
        "the last verified one; one of the 2 newest; newest of day 2025-01-12; newest of week 2025-W02; "
        "newest of month 2025-01",
        "one of the 2 newest",
        "the minimum of 3; newest of day 2025-01-10",
        "not kept by any rule",
    ]


@pytest.mark.parametrize(
    ("state", "age", "expected"),
    [
        (UNVERIFIED, timedelta(hours=5), "unverified, made less than a day ago, kept until day 7"),
        (UNVERIFIED, timedelta(days=1), "unverified, made 1 day ago, kept until day 7"),
        (UNVERIFIED, timedelta(days=3, hours=20), "unverified, made 3 days ago, kept until day 7"),
        (FAILED, timedelta(days=7), "failed, made 7 days ago, kept until day 7"),
        (FAILED, timedelta(days=7, seconds=1), "remove: failed, older than 7 days"),
        (UNVERIFIED, timedelta(days=900), "remove: unverified, older than 7 days"),
        (FAILED, timedelta(hours=-1), "failed, made in the future by this clock, kept until day 7"),
    ],
)
def test_a_backup_that_is_not_verified_is_kept_for_a_week(
    state: VerificationState, age: timedelta, expected: str
) -> None:
    odd = StoredBackup("backup_20250101_000000", NOW - age, state, 1)
    assert reason(odd, backup("02-01 00:00")) == expected


def test_backups_that_are_not_verified_push_no_good_one_out() -> None:
    good = [backup(f"02-{day:02d} 00:00") for day in range(1, 11)]
    odd = [backup(f"02-{day:02d} 12:00", state) for day in range(1, 11) for state in (UNVERIFIED, FAILED)]
    odd = [
        StoredBackup(f"{one.backup_id}{index % 10}", one.created_at, one.verification, 1)
        for index, one in enumerate(odd)
    ]
    settings = RetentionSettings(keep_last=7, keep_daily=7, keep_weekly=0, keep_monthly=0)
    verified = [item for item in plan_retention([*good, *odd], settings, now=NOW) if item.backup in good]
    assert [item.backup for item in verified if item.keep] == good[:2:-1]


def test_without_a_verified_backup_nothing_is_removed() -> None:
    old = [backup("2024-01-01", UNVERIFIED), backup("2024-01-02", FAILED)]
    assert [(item.keep, item.reason) for item in plan_retention(old, ONE, now=NOW)] == [
        (True, "failed, older than 7 days, but there is no verified backup at all"),
        (True, "unverified, older than 7 days, but there is no verified backup at all"),
    ]


def test_a_pinned_backup_is_kept_and_says_why() -> None:
    good = backup("02-01 00:00")
    assert reason(backup("01-01 00:00", pinned="audit 2025 (mira)"), good) == "pinned: audit 2025 (mira)"
    assert reason(backup("01-01 00:00", FAILED, pinned="bug (mira)"), good) == "pinned: bug (mira)"


def test_a_pinned_backup_takes_a_place_only_where_it_would_have_it_anyway() -> None:
    made = ["01-01 00:00", "01-02 00:00", "01-03 00:00", "01-04 00:00"]
    settings = ONE.model_copy(update={"keep_last": 2})
    assert kept([backup(at, pinned="x" if at == made[0] else None) for at in made], settings) == [
        "01-04 00:00",
        "01-03 00:00",
        "01-01 00:00",
    ]
    assert kept([backup(at, pinned="x" if at == made[3] else None) for at in made], settings) == [
        "01-04 00:00",
        "01-03 00:00",
    ]


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (NOW + timedelta(days=1), "protected by Object Lock until 2025-03-02 00:00 UTC"),
        (NOW, "protected by Object Lock until 2025-03-01 00:00 UTC"),
        (NOW - timedelta(seconds=1), "remove: not kept by any rule"),
    ],
)
def test_a_locked_backup_is_kept_until_its_lock_ends(until: datetime, expected: str) -> None:
    assert reason(backup("01-01 00:00", locked_until=until), backup("02-01 00:00")) == expected


@pytest.mark.parametrize("now", [datetime(1999, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)])
def test_a_wrong_clock_takes_no_verified_backup_away(now: datetime) -> None:
    backups = [backup(at) for at in (*MONTHS, *DAYS)]
    assert kept(backups, RetentionSettings(), now) == kept(backups, RetentionSettings(), NOW)


def test_of_two_backups_of_one_second_the_higher_id_is_the_newer() -> None:
    first, second = (StoredBackup(f"backup_20250101_00000{digit}", NOW, VERIFIED, 1) for digit in (1, 2))
    assert reason(first, second) == "remove: not kept by any rule"
    assert reason(second, first) == "the last verified one; the newest one"


def test_the_plan_is_rendered_in_columns_with_the_bytes_freed() -> None:
    decisions = [
        Decision(backup("01-04 12:00", size_bytes=3 * 1024**3), True, "the last verified one"),
        Decision(backup("01-03 12:00", FAILED, size_bytes=0), True, "pinned: look\n  at \x1b[31mthis"),
        Decision(backup("2024-12-01", size_bytes=1024**2 - 1), False, "not kept by any rule"),
        Decision(backup("2024-11-01", UNVERIFIED, size_bytes=1536), False, "unverified, older than 7 days"),
    ]
    assert render_plan(decisions) == [
        "keep    backup_20250104_120000  verified    3.0 GiB  the last verified one",
        "keep    backup_20250103_120000  failed      0 bytes  pinned: look at [31mthis",
        "remove  backup_20241201_000000  verified    1.0 MiB  not kept by any rule",
        "remove  backup_20241101_000000  unverified  1.5 KiB  unverified, older than 7 days",
        "2 of 4 backups to remove: 1.0 MiB freed",
    ]


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1024**2 - 51, "1.0 MiB"),
        (1024**2 - 52, "1023.9 KiB"),
        (1024**4, "1.0 TiB"),
        (5000 * 1024**4, "5000.0 TiB"),
    ],
)
def test_sizes_are_readable(size_bytes: int, expected: str) -> None:
    removed = Decision(backup("01-04 12:00", size_bytes=size_bytes), False, "not kept by any rule")
    assert render_plan([removed])[-1] == f"1 of 1 backups to remove: {expected} freed"


def test_an_empty_plan_is_one_line() -> None:
    assert render_plan([]) == ["0 of 0 backups to remove: 0 bytes freed"]


def made_before(hours: int, zone: int) -> datetime:
    return (NOW - timedelta(hours=hours)).astimezone(timezone(timedelta(hours=zone)))


hours = st.integers(-24 * 40, 24 * 400)  # few enough that times coincide, long enough for years and the future
times = st.builds(made_before, hours, st.integers(-12, 14))
stored = st.builds(
    StoredBackup,
    backup_id=st.integers(0, 999).map(lambda number: f"backup_20250104_120{number:03d}"),
    created_at=times,
    verification=st.sampled_from(VerificationState),
    size_bytes=st.integers(0, 2**50),
    pinned=st.sampled_from([None, None, None, "audit"]),
    locked_until=st.one_of(st.none(), st.none(), times),
)
stores = st.lists(stored, max_size=25, unique_by=lambda one: one.backup_id)
counts = st.integers(0, 6)
rules = st.builds(
    RetentionSettings,
    keep_last=st.integers(1, 6),
    keep_daily=counts,
    keep_weekly=counts,
    keep_monthly=counts,
    minimum_kept=st.integers(1, 6),
    unverified_days=st.floats(1, 60),
)


def verified_of(decisions: list[Decision]) -> list[Decision]:
    return [decision for decision in decisions if decision.backup.verification is VERIFIED]


@given(stores, rules, times)
def test_the_newest_verified_backup_is_always_kept(
    store: list[StoredBackup], settings: RetentionSettings, now: datetime
) -> None:
    assert all(decision.keep for decision in verified_of(plan_retention(store, settings, now=now))[:1])


@given(stores, rules, times)
def test_the_minimum_is_never_gone_below(store: list[StoredBackup], settings: RetentionSettings, now: datetime) -> None:
    verified = verified_of(plan_retention(store, settings, now=now))
    assert sum(decision.keep for decision in verified) >= min(settings.minimum_kept, len(verified))


@given(stores, rules, times)
def test_planning_again_after_the_removal_removes_nothing(
    store: list[StoredBackup], settings: RetentionSettings, now: datetime
) -> None:
    left = [decision for decision in plan_retention(store, settings, now=now) if decision.keep]
    assert plan_retention([decision.backup for decision in left], settings, now=now) == left


@given(stores, rules, times, st.lists(stored, max_size=10))
def test_what_is_not_verified_changes_nothing_for_what_is(
    store: list[StoredBackup], settings: RetentionSettings, now: datetime, more: list[StoredBackup]
) -> None:
    verified = [one for one in store if one.verification is VERIFIED]
    ids = {one.backup_id for one in verified}
    others = [one for one in more if one.verification is not VERIFIED and one.backup_id not in ids]
    assert verified_of(plan_retention([*others, *verified], settings, now=now)) == plan_retention(
        verified, settings, now=now
    )


@given(stores, rules, rules, times)
def test_raising_a_number_never_removes_more(
    store: list[StoredBackup], one: RetentionSettings, other: RetentionSettings, now: datetime
) -> None:
    numbers = {name: max(getattr(one, name), getattr(other, name)) for name in RetentionSettings.model_fields}
    fewer = plan_retention(store, one, now=now)
    more = plan_retention(store, RetentionSettings.model_validate(numbers), now=now)
    assert {item.backup for item in fewer if item.keep} <= {item.backup for item in more if item.keep}


@given(stores, rules, times, times)
def test_the_clock_decides_nothing_about_verified_backups_but_the_end_of_a_lock(
    store: list[StoredBackup], settings: RetentionSettings, now: datetime, later: datetime
) -> None:
    unlocked = [one for one in store if one.locked_until is None]
    assert verified_of(plan_retention(unlocked, settings, now=now)) == verified_of(
        plan_retention(unlocked, settings, now=later)
    )


@given(stores.flatmap(lambda store: st.tuples(st.just(store), st.permutations(store))), rules, times)
def test_the_order_of_the_backups_does_not_matter(
    stores: tuple[list[StoredBackup], list[StoredBackup]], settings: RetentionSettings, now: datetime
) -> None:
    assert plan_retention(stores[0], settings, now=now) == plan_retention(stores[1], settings, now=now)


@given(stores, rules, times)
def test_every_backup_gets_one_decision_newest_first(
    store: list[StoredBackup], settings: RetentionSettings, now: datetime
) -> None:
    decided = [decision.backup for decision in plan_retention(store, settings, now=now)]
    assert sorted(decided, key=lambda one: one.backup_id) == sorted(store, key=lambda one: one.backup_id)
    assert [one.created_at for one in decided] == sorted((one.created_at for one in store), reverse=True)

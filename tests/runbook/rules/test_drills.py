from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.manifest import VerificationLevel
from runbook.reports import DrillReport
from runbook.rules.drills import duration_in_words, over_budget, overdue, predict_restore, recovery_point_s
from runbook.settings import DrillSettings

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
HOUR, DAY = 3600.0, 86_400.0
ASKED = DrillSettings(maximum_age_days=30, rto_budget_s=250, rpo_budget_s=7200)


def hours_ago(*hours: float) -> list[datetime]:
    return [NOW - timedelta(hours=number) for number in hours]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        pytest.param([], None, id="no backup"),
        pytest.param([3], 3 * HOUR, id="one: since then"),
        pytest.param([0], 0, id="one, just now"),
        pytest.param([9, 4, 1], 5 * HOUR, id="the longest gap"),
        pytest.param([5, 4, 3], 3 * HOUR, id="the time since the newest one"),
        pytest.param([4, 9, 1], 5 * HOUR, id="in any order"),
        pytest.param([400, 168, 1], 232 * HOUR, id="a gap that ended 7 days ago counts, with all its length"),
        pytest.param([400, 168.001, 167, 1], 166 * HOUR, id="a gap that ended earlier does not"),
        pytest.param([400, 300], 300 * HOUR, id="an old newest one counts always"),
        pytest.param([2, -5], 2 * HOUR, id="one from the future counts as now"),
        pytest.param([-5, -7], 0, id="only from the future"),
        pytest.param([2, 2, 1], HOUR, id="two at one time"),
    ],
)
def test_the_recovery_point_is_the_longest_time_without_a_new_backup(made: list[float], expected: float | None) -> None:
    assert recovery_point_s(hours_ago(*made), now=NOW) == expected


def test_the_window_can_be_chosen() -> None:
    made = hours_ago(100, 30, 20, 19)
    assert recovery_point_s(made, now=NOW, window_days=1) == 19 * HOUR
    assert recovery_point_s(made, now=NOW, window_days=2) == 70 * HOUR


moments = st.integers(-5000, 50_000).map(lambda minutes: NOW - timedelta(minutes=minutes))


@given(st.lists(moments, min_size=1), st.floats(0.01, 60))
def test_the_recovery_point_lies_between_the_age_of_the_newest_and_of_the_oldest(
    made: list[datetime], window_days: float
) -> None:
    found = recovery_point_s(made, now=NOW, window_days=window_days)
    ages = [max((NOW - at).total_seconds(), 0) for at in made]
    assert found is not None
    assert min(ages) <= found <= max(ages)


@given(st.lists(moments, min_size=2).map(sorted), st.floats(0.01, 60))
def test_one_more_backup_never_puts_more_at_stake(made: list[datetime], window_days: float) -> None:
    with_all = recovery_point_s(made, now=NOW, window_days=window_days)
    for index in range(1, len(made)):
        without_one = recovery_point_s(made[:index] + made[index + 1 :], now=NOW, window_days=window_days)
        assert with_all is not None
        assert without_one is not None
        assert with_all <= without_one


@given(st.lists(moments, min_size=1), st.floats(0.01, 60), st.floats(0.01, 60))
def test_a_longer_look_back_never_finds_less(made: list[datetime], one: float, other: float) -> None:
    short = recovery_point_s(made, now=NOW, window_days=min(one, other))
    long = recovery_point_s(made, now=NOW, window_days=max(one, other))
    assert short is not None
    assert long is not None
    assert short <= long


def drill(
    age: timedelta = timedelta(days=1),
    *,
    rto_s: float | None = 200,
    rpo_s: float | None = 3600,
    error: str | None = None,
    success: bool = True,
    size_bytes: int = 1,
) -> DrillReport:
    return DrillReport(
        environment="production",
        timestamp=NOW - age,
        backup_id="backup_20250104_120000",
        triggered_by="mira",
        level=VerificationLevel.FULL,
        rto_s=rto_s,
        rpo_s=rpo_s,
        size_bytes=size_bytes,
        rows=1,
        duration=1,
        success=success,
        error=error,
    )


FAILED = drill(success=False, rto_s=None, error="table public.orders is missing")
NAMED = "the last restore drill (2025-02-28 12:00 UTC, backup_20250104_120000)"


def test_a_recent_good_drill_within_its_budgets_is_enough() -> None:
    assert overdue(drill(), ASKED, now=NOW) == []


@pytest.mark.parametrize("last", [None, drill(timedelta(days=900), rto_s=1e9, rpo_s=1e9), FAILED])
def test_nothing_is_found_when_nothing_is_asked_for(last: DrillReport | None) -> None:
    assert overdue(last, DrillSettings(), now=NOW) == []


def test_no_drill_yet_is_a_finding_when_one_is_asked_for() -> None:
    assert overdue(None, ASKED, now=NOW) == ["there was no restore drill yet; one is asked for every 30 d. Run one."]
    assert overdue(None, DrillSettings(rto_budget_s=1, rpo_budget_s=1), now=NOW) == []


@pytest.mark.parametrize(
    "settings",
    [DrillSettings(maximum_age_days=30), DrillSettings(rto_budget_s=1), DrillSettings(rpo_budget_s=9999)],
    ids=["age", "RTO", "RPO"],
)
def test_a_failed_drill_is_a_finding_whatever_is_asked_of_drills(settings: DrillSettings) -> None:
    assert overdue(FAILED, settings, now=NOW) == [f"{NAMED} failed: table public.orders is missing"]


def test_a_failed_drill_that_left_no_reason_says_so() -> None:
    assert overdue(drill(success=False, rto_s=None), ASKED, now=NOW) == [f"{NAMED} failed: no reason was recorded"]


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        pytest.param(timedelta(days=30), None, id="exactly the maximum age"),
        pytest.param(timedelta(days=30, seconds=5), "is 30 d old, 5 s more than the 30 d allowed", id="just older"),
        pytest.param(timedelta(days=34, hours=2), "is 34 d 2 h old, 4 d 2 h more than the 30 d allowed", id="older"),
        pytest.param(timedelta(seconds=-60), None, id="the clocks differ by a minute"),
        pytest.param(timedelta(seconds=-61), "lies 1 min 1 s in the future, so its age is unknown", id="the future"),
        pytest.param(timedelta(days=-90), "lies 90 d in the future, so its age is unknown", id="far in the future"),
    ],
)
def test_the_age_of_the_last_drill(age: timedelta, expected: str | None) -> None:
    found = overdue(drill(age), DrillSettings(maximum_age_days=30), now=NOW)
    assert len(found) == (0 if expected is None else 1)
    assert all(expected is not None and expected in finding for finding in found)
    assert overdue(drill(age), DrillSettings(rto_budget_s=250), now=NOW) == []


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        pytest.param(drill(rto_s=250), [], id="exactly the RTO budget"),
        pytest.param(
            drill(rto_s=251.5),
            [f"{NAMED}: the time to restore (RTO) was 4 min 12 s, 1.5 s more than the budget of 4 min 10 s"],
            id="over the RTO budget",
        ),
        pytest.param(drill(rpo_s=7200), [], id="exactly the RPO budget"),
        pytest.param(
            drill(rpo_s=3 * HOUR),
            [f"{NAMED}: writes at stake (RPO) were those of 3 h, 1 h more than the budget of 2 h"],
            id="over the RPO budget",
        ),
        pytest.param(drill(rpo_s=None), [], id="no RPO is not over budget"),
        pytest.param(FAILED, [], id="a failed drill has no RTO"),
        pytest.param(
            drill(rto_s=None),
            [
                f"{NAMED} measured no time to restore (RTO), so nobody knows whether it is within the budget of "
                "4 min 10 s. Run a drill."
            ],
            id="a successful one has to have one",
        ),
    ],
)
def test_budgets(report: DrillReport, expected: list[str]) -> None:
    budgets_alone = ASKED.model_copy(update={"maximum_age_days": None})
    assert over_budget(report, ASKED) == expected
    assert over_budget(report, DrillSettings(maximum_age_days=30)) == []
    if report.success:
        assert overdue(report, ASKED, now=NOW) == overdue(report, budgets_alone, now=NOW) == expected


def test_everything_that_is_wrong_is_said_at_once() -> None:
    bad = drill(timedelta(days=40), success=False, rto_s=None, rpo_s=DAY, error="disk full")
    assert len(overdue(bad, ASKED, now=NOW)) == 3


spans = st.one_of(st.none(), st.floats(0.001, 1e7))
any_settings = st.builds(DrillSettings, maximum_age_days=spans, rto_budget_s=spans, rpo_budget_s=spans)
ages = st.integers(-10_000, 100_000).map(lambda minutes: timedelta(minutes=minutes))
seconds = st.floats(0, 1e7)
good_drill = st.builds(drill, ages, rto_s=seconds, rpo_s=st.one_of(st.none(), seconds))
bad_drill = st.builds(drill, ages, rto_s=st.none(), rpo_s=st.one_of(st.none(), seconds), success=st.booleans())
any_drill = st.one_of(good_drill, bad_drill)


@given(any_drill, any_settings)
def test_budgets_are_a_part_of_what_is_found(last: DrillReport, settings: DrillSettings) -> None:
    assert set(over_budget(last, settings)) <= set(overdue(last, settings, now=NOW))


@given(any_drill, any_settings, st.floats(1, 100))
def test_more_generous_settings_never_find_more(last: DrillReport, settings: DrillSettings, factor: float) -> None:
    generous = {name: None if value is None else value * factor for name, value in settings.model_dump().items()}
    wider = DrillSettings.model_validate(generous)
    assert len(overdue(last, wider, now=NOW)) <= len(overdue(last, settings, now=NOW))


@given(good_drill, any_settings)
def test_a_drill_that_did_not_fail_is_judged_by_its_numbers_alone(last: DrillReport, settings: DrillSettings) -> None:
    age_s = (NOW - last.timestamp).total_seconds()
    findings = (
        settings.maximum_age_days is not None and age_s > settings.maximum_age_days * DAY,
        settings.maximum_age_days is not None and age_s < -60,
        settings.rto_budget_s is not None and last.rto_s is not None and last.rto_s > settings.rto_budget_s,
        settings.rpo_budget_s is not None and last.rpo_s is not None and last.rpo_s > settings.rpo_budget_s,
    )
    assert len(overdue(last, settings, now=NOW)) == sum(findings)


@pytest.mark.parametrize(
    ("duration_s", "expected"),
    [
        (0, "0 ms"),
        (0.25, "250 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1 s"),
        (2.5, "2.5 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (250, "4 min 10 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h"),
        (3600 + 1800, "1 h 30 min"),
        (DAY - 31, "23 h 59 min"),
        (DAY - 29, "1 d"),
        (2 * DAY + 5 * HOUR, "2 d 5 h"),
        (400 * DAY, "400 d"),
    ],
)
def test_durations_for_people(duration_s: float, expected: str) -> None:
    assert duration_in_words(duration_s) == expected


@given(st.floats(0, 1e9))
def test_a_duration_in_words_is_nearly_right(duration_s: float) -> None:
    words = duration_in_words(duration_s).split()
    units = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": HOUR, "d": DAY}
    said_s = sum(float(count) * units[unit] for count, unit in zip(words[::2], words[1::2], strict=True))
    assert len(words) in {2, 4}
    assert said_s == pytest.approx(duration_s, rel=0.05, abs=0.0005)


@pytest.mark.parametrize(
    ("is_prepared", "measured_s", "size_bytes", "drills", "expected_s", "said"),
    [
        pytest.param(
            True,
            40,
            100,
            [drill(rto_s=9, size_bytes=9)],
            0,
            "restored already",
            id="prepared: nothing is left to restore",
        ),
        pytest.param(
            False, 40, 100, [drill(rto_s=9, size_bytes=9)], 40, "this very backup", id="measured: not scaled at all"
        ),
        pytest.param(False, 0.0, 100, [], 0, "this very backup", id="measured as nothing"),
        pytest.param(
            False, None, 100, [drill(rto_s=10, size_bytes=50)], 20, "last 1, scaled", id="a drill half the size"
        ),
        pytest.param(
            False, None, 100, [drill(rto_s=10, size_bytes=200)], 5, "last 1, scaled", id="a drill twice the size"
        ),
        pytest.param(
            False,
            None,
            100,
            [drill(rto_s=5, size_bytes=100), drill(rto_s=30, size_bytes=100), drill(rto_s=10, size_bytes=100)],
            30,
            "last 3",
            id="the slowest",
        ),
        pytest.param(
            False,
            None,
            100,
            [drill(rto_s=99, size_bytes=100), *[drill(rto_s=10, size_bytes=100)] * 3],
            10,
            "last 3",
            id="not one long ago",
        ),
        pytest.param(
            False,
            None,
            100,
            [drill(rto_s=10, size_bytes=100), drill(rto_s=99, size_bytes=100, success=False)],
            10,
            "last 1",
            id="not a failed one",
        ),
        pytest.param(False, None, 100, [drill(rto_s=None, size_bytes=100)], None, "nobody knows", id="without a time"),
        pytest.param(False, None, 100, [drill(rto_s=10, size_bytes=0)], None, "nobody knows", id="of nothing"),
        pytest.param(False, None, 0, [drill(rto_s=10, size_bytes=100)], None, "nobody knows", id="of an unknown size"),
        pytest.param(False, None, 100, [], None, "nobody knows", id="nothing was ever measured"),
    ],
)
def test_how_long_a_restore_will_take(
    is_prepared: bool,
    measured_s: float | None,
    size_bytes: int,
    drills: list[DrillReport],
    expected_s: float | None,
    said: str,
) -> None:
    found = predict_restore(is_prepared=is_prepared, measured_s=measured_s, size_bytes=size_bytes, drills=drills)
    assert found.duration_s == expected_s
    assert said in found.render()

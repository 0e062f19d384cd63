from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.alerting import AlertBook, Notice, NoticeKind, Phase, Silence, readings, step
from runbook.rules.alerts import RULES, Counts
from runbook.rules.backtest import replay
from runbook.rules.samples import Sample, sample

NOON = datetime(2025, 1, 4, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass
class Alerts:
    """An environment that is measured every minute."""

    book: AlertBook = field(default_factory=AlertBook)
    at: datetime = NOON
    told: list[Notice] = field(default_factory=list[Notice])
    silences: Sequence[Silence] = ()

    def minute(self, values: Mapping[str, float]) -> list[str]:
        """One sampling; return what is told, in short."""
        self.book, notices = step(self.book, values, self.at, self.silences)
        self.at += MINUTE
        self.told += notices
        return [f"{one.kind} {one.rule.name if one.rule else ''}".strip() for one in notices]

    def minutes(self, number: int, **values: float) -> list[str]:
        return [one for _ in range(number) for one in self.minute(values)]


def test_an_alert_is_told_once_it_has_lasted_and_once_when_it_is_over() -> None:
    alerts = Alerts()
    assert alerts.minutes(1, error_rate_pct=12) == []
    assert alerts.minutes(1, error_rate_pct=14) == ["firing error-rate-critical"]
    assert alerts.minutes(30, error_rate_pct=12) == [], "nobody is told twice, nor of the warning below it"
    assert alerts.minutes(5, error_rate_pct=0) == []
    assert alerts.minutes(1, error_rate_pct=0) == ["resolved error-rate-critical"]
    assert "at worst 14 %" in alerts.told[-1].text


@pytest.mark.parametrize(
    ("metric", "rule", "below", "above", "minutes"),
    [
        ("error_rate_pct", "error-rate-critical", 10, 10.01, 2),
        ("error_rate_pct", "error-rate-warning", 4.99, 5, 3),
        ("response_time_p95_s", "p95-critical", 5, 5.01, 3),
        ("response_time_p95_s", "p95-warning", 2, 2.01, 6),
        ("database_connections_pct", "connections-critical", 90, 90.1, 2),
        ("database_connections_pct", "connections-warning", 75, 75.1, 6),
        ("disk_usage_pct", "disk-critical", 85, 85.1, 3),
        ("disk_usage_pct", "disk-warning", 75, 75.1, 16),
    ],
)
def test_each_threshold_on_both_sides(metric: str, rule: str, below: float, above: float, minutes: int) -> None:
    assert f"firing {rule}" not in Alerts().minutes(60, **{metric: below})
    over = Alerts()
    assert over.minutes(minutes - 1, **{metric: above}) == []
    assert over.minutes(1, **{metric: above}) == [f"firing {rule}"]


def test_a_spike_tells_nobody() -> None:
    alerts = Alerts()
    for _ in range(20):
        assert alerts.minutes(1, error_rate_pct=50) + alerts.minutes(1, error_rate_pct=0) == []


def test_a_value_that_wavers_about_the_threshold_is_one_alert() -> None:
    """9 % is below 10 %, and above the 8 % that resolve it."""
    alerts = Alerts()
    alerts.minutes(2, error_rate_pct=11)
    told = [alerts.minutes(1, error_rate_pct=9) + alerts.minutes(1, error_rate_pct=11) for _ in range(25)]
    assert not any(told)


def test_no_value_resolves_nothing() -> None:
    alerts = Alerts()
    alerts.minutes(2, error_rate_pct=11)
    assert alerts.minutes(30) == []
    assert alerts.book.is_firing("error-rate-critical")


def test_two_bad_values_with_hours_of_silence_between_them_are_not_one_long_alert() -> None:
    alerts = Alerts()
    alerts.minutes(1, error_rate_pct=50)
    alerts.at += timedelta(hours=2)
    assert alerts.minutes(1, error_rate_pct=50) == []
    assert alerts.minutes(1, error_rate_pct=50) == ["firing error-rate-critical"]


def test_what_goes_on_is_told_again_after_the_time_to_act_in() -> None:
    alerts = Alerts()
    assert alerts.minutes(61, disk_usage_pct=90) == ["firing disk-critical"]
    assert alerts.minutes(3, disk_usage_pct=90) == ["still_firing disk-critical"]
    slow = Alerts()
    assert slow.minutes(4 * 60, response_time_p95_s=3) == ["firing p95-warning"]


def test_the_worse_alert_keeps_the_lesser_one_quiet_until_it_is_over() -> None:
    alerts = Alerts()
    alerts.minutes(10, error_rate_pct=20)
    assert alerts.book.is_firing("error-rate-warning")
    assert alerts.minutes(6, error_rate_pct=7) == ["resolved error-rate-critical", "firing error-rate-warning"]


def test_during_a_maintenance_window_only_its_beginning_and_its_end_are_told() -> None:
    window = Silence(start=NOON, end=NOON + 10 * MINUTE, reason="new disks", by="ada")
    alerts = Alerts(silences=[window])
    assert alerts.minutes(10, disk_usage_pct=95) == ["silence_begins"]
    assert "no alerts until 2025-01-04 12:10 UTC: new disks (ada)" in alerts.told[0].text
    assert alerts.minutes(1, disk_usage_pct=95) == ["silence_ends", "firing disk-critical"]
    assert "firing now: disk-critical" in alerts.told[1].text
    assert alerts.minutes(30, disk_usage_pct=95) == []


def test_what_is_over_when_the_window_ends_is_not_told() -> None:
    window = Silence(start=NOON, end=NOON + 20 * MINUTE, reason="new disks", by="ada")
    alerts = Alerts(silences=[window])
    alerts.minutes(10, disk_usage_pct=95)
    alerts.minutes(10, disk_usage_pct=50)
    assert alerts.minutes(5, disk_usage_pct=50) == ["silence_ends"]
    assert "firing now: nothing" in alerts.told[-1].text


def test_what_is_not_measured_is_told() -> None:
    alerts = Alerts()
    assert alerts.minutes(11, application_unmeasured_s=0.0) == []
    assert alerts.minutes(1, application_unmeasured_s=601) == ["firing no-data-application"]
    assert alerts.minutes(1, application_unmeasured_s=0) == ["resolved no-data-application"]


def test_a_sampling_that_was_seen_already_changes_nothing() -> None:
    alerts = Alerts()
    alerts.minutes(1, error_rate_pct=50)
    again = step(alerts.book, {"error_rate_pct": 50}, NOON)
    assert again == (alerts.book, [])


@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(0, 50))
def test_more_errors_never_silence_an_alert(rates: list[float], more: float) -> None:
    """At each moment what fires with fewer errors fires with more, too."""
    fewer, worse = Alerts(), Alerts()
    for rate in rates:
        fewer.minutes(1, error_rate_pct=rate)
        worse.minutes(1, error_rate_pct=min(100.0, rate + more))
        firing = [{rule.name for rule in RULES if one.book.is_firing(rule.name)} for one in (fewer, worse)]
        assert firing[0] <= firing[1]


@given(st.lists(st.dictionaries(st.sampled_from([rule.metric for rule in RULES]), st.floats(0, 100)), max_size=8))
def test_what_is_remembered_survives_being_written_down(looks: list[dict[str, float]]) -> None:
    alerts = Alerts()
    for values in looks:
        alerts.minute(values)
        assert AlertBook.model_validate_json(alerts.book.model_dump_json()) == alerts.book


def test_readings_know_since_when_something_was_not_measured() -> None:
    found = {"requests": sample(NOON, "requests", 10)}
    values = readings(found, Counts(found.values()), NOON, {"database_connections": NOON - 5 * MINUTE}, 99.9)
    assert values["application_unmeasured_s"] == 0
    assert values["database_unmeasured_s"] == 300


def samplings(minutes: int, bad: range) -> list[Sample]:
    """A thousand requests a minute, of which a fifth fails in some of the minutes."""
    return [
        one
        for minute in range(minutes)
        for at in [NOON + minute * MINUTE]
        for one in (
            sample(at, "requests", 1000),
            sample(at, "errors", 200 if minute in bad else 0),
            sample(at, "error_rate_pct", 20 if minute in bad else 0),
        )
    ]


def test_the_past_replayed_says_what_would_have_been_told() -> None:
    samples, until = samplings(120, range(10, 30)), NOON + 120 * MINUTE
    found = replay(samples, since=NOON, until=until, objective_pct=99.9)
    assert found.samplings == 120
    critical = next(one for one in found.episodes if one.rule.name == "error-rate-critical")
    assert (critical.fired_at, critical.resolved_at) == (NOON + 11 * MINUTE, NOON + 35 * MINUTE)
    assert (critical.worst, critical.times_told) == (20, 1)
    warning = next(one for one in found.episodes if one.rule.name == "error-rate-warning")
    assert warning.times_told == 0, "kept quiet by the other"
    window = Silence(start=NOON, end=until, reason="new disks", by="ada")
    quiet = replay(samples, since=NOON, until=until, objective_pct=99.9, silences=[window])
    assert {one.times_told for one in quiet.episodes} == {0}


def test_nothing_measured_is_not_nothing_fired() -> None:
    found = replay([], since=NOON, until=NOON + MINUTE, objective_pct=99.9)
    assert (found.samplings, found.episodes) == (0, ())


def test_every_phase_is_reached() -> None:
    alerts = Alerts()
    phases = [alerts.book.state("disk-critical").phase]
    for value in (90, 90, 90, 50, 50, 50, 50, 50, 50):
        alerts.minutes(1, disk_usage_pct=value)
        phases.append(alerts.book.state("disk-critical").phase)
    assert list(dict.fromkeys(phases)) == [Phase.INACTIVE, Phase.PENDING, Phase.FIRING]
    assert phases[-1] is Phase.INACTIVE
    assert NoticeKind.RESOLVED in {one.kind for one in alerts.told}

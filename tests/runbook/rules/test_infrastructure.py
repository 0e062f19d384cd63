from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.infrastructure import Resources, resource_samples

NOON = datetime(2025, 1, 4, 12, tzinfo=UTC)
BEFORE = Resources(NOON, 2, 100.0, 5_000, 1_000, 4, 1_000.0, 40.0, 71.0, 9_000)


def values(now: Resources) -> dict[str, float]:
    return {one.metric: one.value for one in resource_samples(BEFORE, now)}


def test_two_looks_make_rates_per_second_and_shares_of_all_cpus() -> None:
    later = NOON + timedelta(seconds=10)
    assert values(replace(BEFORE, at=later, cpu_s=104, machine_cpu_s=1_020, disk_bytes=3_000, network_bytes=9_500)) == {
        "memory_usage_pct": 40,
        "application_memory_bytes": 5_000,
        "disk_usage_pct": 71,
        "cpu_usage_pct": 50,
        "application_cpu_pct": 10,
        "application_disk_bytes_per_s": 200,
        "network_bytes_per_s": 50,
    }


def test_what_a_machine_does_not_tell_is_no_zero() -> None:
    found = values(replace(BEFORE, at=NOON + timedelta(seconds=1), disk_bytes=None, network_bytes=None))
    assert not {"application_disk_bytes_per_s", "network_bytes_per_s"} & found.keys()


def test_one_moment_has_no_rates() -> None:
    assert values(BEFORE).keys() == {"memory_usage_pct", "application_memory_bytes", "disk_usage_pct"}


@given(passed_s=st.floats(0.001, 1e6), cpu_s=st.floats(0, 1e9), machine_cpu_s=st.floats(0, 1e9))
def test_shares_stay_within_bounds_also_after_a_restart(passed_s: float, cpu_s: float, machine_cpu_s: float) -> None:
    now = replace(BEFORE, at=NOON + timedelta(seconds=passed_s), cpu_s=cpu_s, machine_cpu_s=machine_cpu_s, disk_bytes=0)
    assert all(0 <= value <= 100 for name, value in values(now).items() if name.endswith("_pct"))
    assert values(now).get("application_disk_bytes_per_s", 0) == 0

"""What is measured of an environment over time: one number, its unit, when.

Source: runbook, "Key Metrics to Monitor" and "What to Monitor (First 30 Minutes)".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

TOTAL = "total"
"""Unit of a counter that only grows until its server starts anew: two of them make a rate, one alone says nothing."""

METRICS: Mapping[str, str] = MappingProxyType(
    {
        # Application: response time, error rate, request volume, active sessions. Requests and errors are those of the
        # span that was looked at, which `window_s` holds.
        "window_s": "s",
        "requests": "requests",
        "errors": "requests",
        "requests_per_s": "requests/s",
        "error_rate_pct": "%",
        "response_time_p50_s": "s",
        "response_time_p95_s": "s",
        "response_time_p99_s": "s",
        "active_sessions": "sessions",
        # User experience and error logs.
        "login_success_pct": "%",
        "page_load_s": "s",
        "error_log_lines_per_min": "lines/min",
        # Database: connection pool usage, query performance, lock contention, replication lag.
        "database_connections": "connections",
        "database_connections_pct": "%",
        "database_active": "connections",
        "database_idle_in_transaction": "connections",
        "database_blocked": "connections",
        "database_longest_query_s": "s",
        "database_longest_transaction_s": "s",
        "database_longest_wait_s": "s",
        "database_locks": "locks",
        "database_replication_lag_s": "s",
        "database_query_time_s": "s",
        "database_queries_per_s": "queries/s",
        "database_transactions_per_s": "transactions/s",
        "database_cache_hit_pct": "%",
        "database_size_bytes": "bytes",
        # Infrastructure: CPU, memory, disk I/O, network traffic; of the machine, and of the release.
        "cpu_usage_pct": "%",
        "memory_usage_pct": "%",
        "application_cpu_pct": "%",
        "application_memory_bytes": "bytes",
        "disk_usage_pct": "%",
        "application_disk_bytes_per_s": "bytes/s",
        "network_bytes_per_s": "bytes/s",
        # Counters, from which the rates above are made.
        "database_queries_total": TOTAL,
        "database_query_time_total": TOTAL,
        "database_transactions_total": TOTAL,
        "database_blocks_hit_total": TOTAL,
        "database_blocks_read_total": TOTAL,
    }
)
"""Each metric with its unit."""


@dataclass(frozen=True)
class Sample:
    """One number that was measured: `value` in `unit`, at an aware time.

    Raises:
        ValueError: no such metric, another unit than its own, a time without a zone, or no finite number.
    """

    at: datetime
    metric: str
    value: float
    unit: str

    def __post_init__(self) -> None:
        if METRICS.get(self.metric) != self.unit:
            raise ValueError(f"{self.metric} in {self.unit} is no metric; there are {', '.join(METRICS)}")
        if self.at.tzinfo is None:
            raise ValueError(f"{self.metric}: {self.at} has no time zone")
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric}: {self.value} is not a finite number")


def sample(at: datetime, metric: str, value: float) -> Sample:
    """Return a sample in the unit of its metric.

    Raises:
        ValueError: as `Sample` does.
    """
    return Sample(at, metric, float(value), METRICS.get(metric, ""))

"""`make bench`: every claim about speed, as a ratio against the alternative measured in the same run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    application_rollback,
    database_backup,
    database_rollback,
    migrations,
    release_watch,
    whole_rollback,
)

APPLICATION_ROUNDS = 7
DATABASE_ROUNDS = 3
MIGRATION_ROUNDS = 7
WHOLE_ROUNDS = 5
WATCHES = 1000


def main() -> None:
    """Print the measurements as tables."""
    _print_watch(release_watch.measure(WATCHES))
    _print_application(application_rollback.measure(APPLICATION_ROUNDS))
    _print_whole(whole_rollback.measure(WHOLE_ROUNDS))
    with tempfile.TemporaryDirectory(prefix="runbook-bench-", dir="/var/tmp") as folder:
        _print_migrations(migrations.measure(MIGRATION_ROUNDS, Path(folder)))
    with tempfile.TemporaryDirectory(prefix="runbook-bench-", dir="/var/tmp") as folder:
        _print_rollback(database_rollback.measure(Path(folder)))
    with tempfile.TemporaryDirectory(prefix="runbook-bench-", dir="/var/tmp") as folder:
        _print_database(database_backup.measure(DATABASE_ROUNDS, Path(folder)))


def _print_application(result: application_rollback.Result) -> None:
    print(f"{'application rollback, until the public URL serves it':<56} {'median':>10} {'slowest':>10}")
    print(
        f"{'  switched to the release that is still warm':<56} {result.warm_s:>8.3f} s {result.slowest_warm_s:>8.3f} s"
    )
    print(f"{'  deployed again from its commit':<56} {result.again_s:>8.3f} s {result.slowest_again_s:>8.3f} s")
    print(f"The switch takes {result.warm_s / result.again_s:.3f} of deploying again ({APPLICATION_ROUNDS} rounds).")


def _print_watch(rows: Sequence[release_watch.Row]) -> None:
    print(f"{WATCHES} simulated watches of {release_watch.MINUTES} min, looked at every minute; percent of them")
    rates = "".join(f"{rate:>7g}" for rate in release_watch.RATES)
    print(f"  {'':<42} {'false alarm':^28}  {'10 % called healthy':^28}  {'10 % found':>10} {'3x slower':>10}")
    print(f"  {'requests per second':<42} {rates}  {rates}  {'in 90 s':>10} {'in 3 min':>10}")
    for row in rows:
        false = "".join(f"{pct:>7.1f}" for pct in row.false_alarms_pct)
        hidden = "".join(f"{pct:>7.1f}" for pct in row.called_healthy_pct)
        slow = "-" if row.slow_in_180_s_pct is None else f"{row.slow_in_180_s_pct:.1f}"
        print(f"  {row.rule:<42} {false}  {hidden}  {row.errors_in_90_s_pct:>10.1f} {slow:>10}")
    print("Found in 90 s, and in 3 min: at 5 requests per second.\n")


def _print_whole(results: Sequence[whole_rollback.Result]) -> None:
    print(f"\na whole rollback under traffic, from the command on; medians of {WHOLE_ROUNDS} rounds")
    print(
        f"  {'scope':<10} {'first effect':>14} {'then served':>14} {'verified':>12} {'longest gap':>14} {'failed':>8}"
        f" {'lost':>6}"
    )
    for one in results:
        print(
            f"  {one.scope:<10} {one.first_effect_s:>12.2f} s {one.served_s:>12.2f} s {one.verified_s:>10.2f} s"
            f" {one.gap_s:>12.2f} s {one.failed:>8} {one.lost:>6}"
        )


def _print_migrations(result: migrations.Result) -> None:
    print(f"\n{migrations.FILES} migrations, medians of {MIGRATION_ROUNDS} rounds")
    print(f"  {'psql -1 -f':<58} {result.psql_s:>8.2f} s")
    print(f"  {'locked, applied in one transaction, recorded':<58} {result.apply_s:>8.2f} s")
    print(f"Applying them takes {result.apply_s / result.psql_s:.2f} of psql alone.")


def _print_rollback(results: Sequence[database_rollback.Result]) -> None:
    print("\nrollback of a database that 200 writes a second go to, with the writes replayed")
    print(
        f"  {'size':>8} {'in place':>10} {'beside':>10} {'clients wait':>14} {'prepared':>10}"
        f" {'clients wait':>14} {'lost':>6}"
    )
    for one in results:
        print(
            f"  {one.database_bytes / 1e6:>5.0f} MB {one.in_place_s:>8.2f} s {one.rollback_s:>8.2f} s"
            f" {one.wait_s:>12.2f} s {one.prepared_s:>8.2f} s {one.prepared_wait_s:>12.2f} s {one.lost:>6}"
        )
    last = results[-1]
    print(
        f"At the greatest size clients wait {last.wait_s / last.in_place_s:.3f} of what a restore in place takes, which"
        f" loses all writes since; prepared, one takes {last.prepared_s / last.rollback_s:.3f} of one that restores."
    )


def _print_database(result: database_backup.Result) -> None:
    print(f"\nbackup of a database of {result.database_bytes / 1e6:.0f} MB, medians of {DATABASE_ROUNDS} rounds")
    for what, took_s, size in (
        ("pg_dump | gzip", result.gzip_s, result.gzip_bytes),
        ("pg_dump in parallel, not compressed (the machine's limit)", result.limit_s, None),
        ("dump alone, stored", result.dump_s, result.dump_bytes),
        ("backup: dump, fingerprints and facts, stored", result.backup_s, None),
        ("gunzip | psql", result.psql_s, None),
        ("restore", result.restore_s, None),
        ("restore, and compared with its manifest", result.verified_s, None),
    ):
        print(f"  {what:<58} {took_s:>8.2f} s" + (f" {size / 1e6:>8.1f} MB" if size else ""))
    print(f"The dump is {result.gzip_s / result.dump_s:.1f} times faster than pg_dump | gzip,", end=" ")
    print(
        f"{result.dump_bytes / result.gzip_bytes:.2f} of its size, {result.dump_s / result.limit_s:.2f} of the limit;"
    )
    print(
        f"the backup takes {result.backup_s / result.dump_s:.2f} of the dump, {result.gzip_s / result.backup_s:.1f}",
        end=" ",
    )
    print("times faster than pg_dump | gzip.")
    print(f"The restore is {result.psql_s / result.restore_s:.1f} times faster than gunzip | psql,", end=" ")
    print(f"{result.psql_s / result.verified_s:.1f} times with everything compared.")
    print(f"Peak memory of a backup: {result.peak_1x_kib / 1024:.0f} MiB, of one four times", end=" ")
    print(f"the size {result.peak_4x_kib / 1024:.0f} MiB.")


if __name__ == "__main__":
    main()

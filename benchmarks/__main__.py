"""`make bench`: every claim about speed, as a ratio against the alternative measured in the same run."""

from __future__ import annotations

from benchmarks.application_rollback import measure

ROUNDS = 7


def main() -> None:
    """Print the measurements as a table."""
    result = measure(ROUNDS)
    print(f"{'application rollback, until the public URL serves it':<56} {'median':>10} {'slowest':>10}")
    print(
        f"{'  switched to the release that is still warm':<56} {result.warm_s:>8.3f} s {result.slowest_warm_s:>8.3f} s"
    )
    print(f"{'  deployed again from its commit':<56} {result.again_s:>8.3f} s {result.slowest_again_s:>8.3f} s")
    print(f"The switch takes {result.warm_s / result.again_s:.3f} of deploying again ({ROUNDS} rounds).")


if __name__ == "__main__":
    main()

"""Does the running release work with the new schema? Its smoke tests and its recorded queries on a migrated copy.

Source: runbook, "Application-Only Rollback": the application goes back, the schema stays.
"""

from __future__ import annotations

from collections.abc import Mapping

from runbook.clients.workload import Workload, failing_queries
from runbook.connections import Connections
from runbook.errors import RunbookError, StageError
from runbook.rules.checklist import Check, Outcome
from runbook.rules.sql import without_literals
from runbook.stages.checklist import smoke_tests
from runbook.stages.health import check_health, run_smoke_tests

_QUERY_SHOWN = 200


def check_old_release(
    connections: Connections, copy: str, failing_before: Mapping[str, str], workload: Workload
) -> tuple[Check, ...]:
    """Try the release that has the traffic on a migrated copy of its database.

    Args:
        connections: the environment.
        copy: name of the migrated copy.
        failing_before: the recorded queries that could not be planned before migrating, and why.
        workload: what the application asks.
    """
    active = connections.host.active()
    if active is None:
        return (Check("running release", Outcome.PASSED, "no release has the traffic"),)
    checks: list[Check] = []
    name = f"running release {active.version}"
    try:
        tests = smoke_tests(connections, active.git_sha)
        with connections.host.trial(active.release_id, connections.database.url_of(copy)) as url:
            # Asked twice if need be: what has just been started can be slow once, and what does not work stays so.
            health = check_health(connections, url, active.git_sha)
            if any(check.outcome is not Outcome.PASSED for check in health):
                health = check_health(connections, url, active.git_sha)
            checks += health
            checks += run_smoke_tests(url, tests)
    except StageError as error:
        checks.append(Check(name, Outcome.FAILED, str(error)))
    except RunbookError as error:
        checks.append(Check(name, Outcome.COULD_NOT_RUN, str(error)))
    failing = failing_queries(connections.database, copy, workload.queries)
    new = {query: error for query, error in failing.items() if query not in failing_before}
    checks += [
        Check("recorded query", Outcome.FAILED, f"{without_literals(query)[:_QUERY_SHOWN]}: {error}")
        for query, error in new.items()
    ]
    planned = len(workload.queries) - len(failing)
    if planned and not new:
        others = f"; {len(failing)} could not be planned before either" if failing else ""
        checks.append(Check("recorded queries", Outcome.PASSED, f"all {planned} can still be planned{others}"))
    return tuple(checks)

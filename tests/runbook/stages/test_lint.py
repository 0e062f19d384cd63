"""Migrations linted against a live database and the files of the running release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from runbook.clients.postgres import Database
from runbook.connections import Connections
from runbook.errors import InvalidInputError
from runbook.rules.checklist import Outcome
from runbook.rules.lint import SAFER, Finding, Severity
from runbook.stages.lint import lint_migrations
from runbook.stages.migration_plan import plan_migrations
from tests.runbook.helpers import commit, execute
from tests.runbook.stages.migrations import apply, plan_of, with_settings


@pytest.fixture
def shop(connections: Connections) -> Connections:
    """Orders with a row, customers without, and a release whose code knows some of their columns."""
    execute(
        connections.database.url,
        'CREATE TABLE orders (id int, note varchar(9), total numeric(8, 2), "createdAt" timestamptz)',
        "INSERT INTO orders VALUES (1, 'x', 1, now())",
        "CREATE TABLE customers (id int, name text)",
    )
    return connections


def linted(connections: Connections, text: str, running: str | None = None) -> list[Finding]:
    """Lint one file against the live database; `running` is the code of the release that has the traffic."""
    path = connections.repository.path
    sha = None if running is None else commit(path, {"src/app.ts": running, "migrations/old.txt": "orders note total"})
    plan = plan_of(connections, {"0001_change": text})
    return list(lint_migrations(connections, plan.migrations(), plan.scripts, running_git_sha=sha))


def rules(findings: list[Finding]) -> dict[str, int]:
    return {finding.rule: finding.line for finding in findings}


def test_findings_of_squawk_and_ours_come_by_file_and_line(shop: Connections) -> None:
    found = linted(shop, "CREATE INDEX orders_id ON orders (id);\n\nTRUNCATE orders;\nDROP TABLE customers;\n")
    assert [(finding.line, finding.rule) for finding in found] == [
        (1, "require-concurrent-index-creation"),
        (3, "truncate"),
        (4, "drop-table"),
    ]
    assert {finding.path for finding in found} == {"migrations/0001_change.sql"}
    assert {finding.severity for finding in found} == {Severity.WARNING}
    assert all(finding.safer for finding in found)


def test_the_live_database_decides_what_is_dangerous(shop: Connections) -> None:
    expected = {
        "ALTER TABLE orders ALTER note TYPE varchar(5);": {"narrowing-type"},
        "ALTER TABLE orders ALTER note TYPE text;": set[str](),
        "ALTER TABLE orders ALTER id TYPE bigint;": set[str](),
        "ALTER TABLE orders ALTER total TYPE numeric(9, 2);": set[str](),
        "ALTER TABLE orders ALTER total TYPE numeric(9, 3);": {"narrowing-type"},
        "ALTER TABLE orders ALTER id SET NOT NULL;": {"not-null-on-existing-rows"},
        "ALTER TABLE customers ALTER id SET NOT NULL;": set[str](),
        "ALTER TABLE orders ADD paid boolean NOT NULL;": {"not-null-on-existing-rows"},
        "ALTER TABLE customers ADD paid boolean NOT NULL;": set[str](),
    }
    found = linted(shop, "\n".join(expected))
    ours = {
        text: {finding.rule for finding in found if finding.line == line and finding.rule in SAFER}
        for line, text in enumerate(expected, start=1)
    }
    assert ours == expected


def test_data_and_meta_commands_are_no_findings_and_move_no_line(shop: Connections) -> None:
    text = "\\echo begins\nCOPY customers FROM stdin;\n1\tDROP TABLE orders;\n\\.\nDROP TABLE orders;\n"
    assert rules(linted(shop, text)) == {"drop-table": 5}


def test_a_file_of_its_own_may_be_concurrent(shop: Connections) -> None:
    text = "CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_id ON orders (id);\nSELECT 1;\n"
    assert linted(shop, text) == []


def test_what_the_running_release_still_mentions_is_named_with_its_place(shop: Connections) -> None:
    text = (
        "ALTER TABLE orders RENAME note TO remark;\n"
        "ALTER TABLE orders RENAME TO purchases;\n"
        "DROP TABLE orders;\n"
        "ALTER TABLE orders DROP COLUMN note, DROP COLUMN total;\n"
    )
    found = linted(shop, text, "import db\nawait db.orders.find(o => o.note)\n")
    in_use = [finding for finding in found if finding.rule.endswith("-in-use")]
    assert [(finding.line, finding.rule, finding.subject) for finding in in_use] == [
        (1, "rename-in-use", "NOTE"),
        (2, "rename-in-use", "ORDERS"),
        (3, "drop-in-use", "ORDERS"),
        (4, "drop-in-use", "NOTE"),
    ]
    for finding in in_use:
        assert finding.message.endswith("; the running release still mentions it: src/app.ts:2")
        assert finding.safer == SAFER[finding.rule]


def test_a_quoted_name_is_found_as_the_release_writes_it(shop: Connections) -> None:
    found = linted(shop, 'ALTER TABLE orders DROP COLUMN "createdAt";', "import db\norder.createdAt\n")
    assert rules(found)["drop-in-use"] == 1


def test_what_only_migrations_or_the_new_release_mention_is_not_in_use(shop: Connections) -> None:
    found = linted(shop, "ALTER TABLE orders DROP COLUMN total;", "import db\n")
    commit(shop.repository.path, {"src/new.ts": "total\n"})
    assert set(rules(found)) == {"drop-column"}
    assert set(rules(linted(shop, "ALTER TABLE orders DROP COLUMN total;"))) == {"drop-column"}, "no release runs"


def test_the_settings_decide_what_a_rule_does(shop: Connections) -> None:
    strict = with_settings(
        shop, lint={"drop-table": Severity.ERROR, "truncate": Severity.OFF, "require-lock-timeout": Severity.WARNING}
    )
    found = linted(strict, "DROP TABLE customers;\nTRUNCATE orders;\n")
    assert {finding.rule: finding.severity for finding in found} == {
        "drop-table": Severity.ERROR,
        "require-lock-timeout": Severity.WARNING,
    }
    plan = plan_of(strict, {"0001_change": "DROP TABLE customers;\n"})
    [refused] = [check for check in plan.checks if check.outcome is Outcome.FAILED]
    assert (refused.name, refused.detail) == (
        "lint: drop-table",
        "migrations/0001_change.sql:1: drops table customers",
    )
    assert refused.action.startswith("Safer: ")


@pytest.mark.parametrize(("name", "close"), [("drop-tabel", "drop-table"), ("ban-drop-colum", "ban-drop-column")])
def test_a_rule_that_there_is_not_is_refused_with_the_ones_meant(shop: Connections, name: str, close: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"{name}.*{close}"):
        linted(with_settings(shop, lint={name: Severity.OFF}), "SELECT 1;")


def test_only_what_is_pending_is_linted(shop: Connections) -> None:
    first: Mapping[str, str] = {"0001_drop": "DROP TABLE customers;"}
    apply(shop, first)
    plan = plan_of(shop, {**first, "0002_more": "TRUNCATE orders;"})
    assert [(finding.path, finding.rule) for finding in plan.findings] == [("migrations/0002_more.sql", "truncate")]


def test_without_anything_pending_nobody_is_asked(shop: Connections) -> None:
    nowhere = replace(shop, database=Database("postgresql://u@127.0.0.1:1/shop"))
    assert lint_migrations(nowhere, (), {}, running_git_sha=None) == ()


def test_a_plan_searches_the_release_that_has_the_traffic(shop: Connections) -> None:
    path = shop.repository.path
    running = commit(path, {"src/app.ts": "orders.note\n"})
    target = commit(path, {"src/app.ts": "orders\n", "migrations/0001_drop.sql": "ALTER TABLE orders DROP note;\n"})
    plan = plan_migrations(shop, target, running_git_sha=running)
    assert "drop-in-use" in {finding.rule for finding in plan.findings}
    later = plan_migrations(shop, target, running_git_sha=target)
    assert "drop-in-use" not in {finding.rule for finding in later.findings}

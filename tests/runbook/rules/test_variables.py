from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.checklist import Check, Outcome, refusals
from runbook.rules.variables import Flaw, Variable, examine, required_variables

COMPLETE = {
    "DATABASE_URL": 60,
    "NEXTAUTH_SECRET": 32,
    "NEXTAUTH_URL": 20,
    "JWT_SECRET": 1,
    "ANTHROPIC_API_KEY": 10,
    "OPENAI_API_KEY": 10,
    "SLACK_WEBHOOK_URL": 10,
}


def of(lengths: Mapping[str, int | None]) -> dict[str, Variable]:
    return {name: Variable(length) for name, length in lengths.items()}


def outcomes(lengths: dict[str, int]) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in required_variables(of(lengths))}


def test_exactly_the_variables_of_the_runbook() -> None:
    assert outcomes({**COMPLETE, "OTHER": 0}) == dict.fromkeys(COMPLETE, Outcome.PASSED)


@pytest.mark.parametrize("name", ["DATABASE_URL", "NEXTAUTH_SECRET", "NEXTAUTH_URL", "JWT_SECRET"])
@pytest.mark.parametrize("length", [None, 0], ids=["missing", "empty"])
def test_a_critical_variable_that_is_not_set_fails(name: str, length: int | None) -> None:
    lengths = {key: value for key, value in COMPLETE.items() if key != name}
    found = outcomes(lengths if length is None else {**lengths, name: length})
    assert [key for key, outcome in found.items() if outcome is Outcome.FAILED] == [name]


@pytest.mark.parametrize(
    ("length", "expected"), [(31, Outcome.FAILED), (32, Outcome.PASSED)], ids=["31 characters", "32 characters"]
)
def test_the_authentication_secret_has_at_least_32_characters(length: int, expected: Outcome) -> None:
    assert outcomes({**COMPLETE, "NEXTAUTH_SECRET": length})["NEXTAUTH_SECRET"] is expected


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "SLACK_WEBHOOK_URL"])
@pytest.mark.parametrize("length", [None, 0], ids=["missing", "empty"])
def test_an_optional_variable_that_is_not_set_warns(name: str, length: int | None) -> None:
    lengths = {key: value for key, value in COMPLETE.items() if key != name}
    found = outcomes(lengths if length is None else {**lengths, name: length})
    assert [key for key, outcome in found.items() if outcome is Outcome.WARNING] == [name]


@pytest.mark.parametrize("name", ["DATABASE_URL", "NEXTAUTH_SECRET"])
def test_a_critical_variable_of_unknown_length_could_not_be_checked_and_stops_nothing(name: str) -> None:
    checks = required_variables(of({**COMPLETE, name: None, "OPENAI_API_KEY": None}))
    (found,) = (check for check in checks if check.outcome is not Outcome.PASSED)
    assert (found.name, found.outcome) == (name, Outcome.COULD_NOT_RUN)
    assert refusals([found], strict=True) == []


def test_what_does_not_pass_says_what_to_do() -> None:
    assert all(check.action for check in required_variables({}))


GOOD = {
    "DATABASE_URL": "postgresql://shop:2Vq8mXw0pLzR@ep-cool-1.eu-central-1.aws.neon.tech/shop?sslmode=require",
    "NEXTAUTH_SECRET": "q8Vt3ZkN5yLx0RbWmJ7cHd2SfGpA9uEoTiQwYz41",
    "NEXTAUTH_URL": "https://shop.acme.io",
    "JWT_SECRET": "9f3b60c7d1a84e52b7c09d6f13e8a45b",
    "ANTHROPIC_API_KEY": "sk-ant-api03-2Vq8mXw0pLzR",
    "OPENAI_API_KEY": "sk-proj-2Vq8mXw0pLzR",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T0/B0/2Vq8mXw0pLzR",
}


def check(name: str, value: str) -> Check:
    return next(found for found in required_variables(examine(GOOD | {name: value})) if found.name == name)


def test_good_values_pass() -> None:
    assert {found.outcome for found in required_variables(examine(GOOD))} == {Outcome.PASSED}


@pytest.mark.parametrize("make", [lambda: secrets.token_hex(16), lambda: secrets.token_urlsafe(32)])
def test_random_secrets_are_never_called_weak(make: Callable[[], str]) -> None:
    assert [value for value in (make() for _ in range(200)) if check("JWT_SECRET", value).outcome != "passed"] == []


@pytest.mark.parametrize(
    ("name", "value", "flaw", "outcome"),
    [
        ("NEXTAUTH_SECRET", "changeme-changeme-changeme-changeme", Flaw.PLACEHOLDER, Outcome.FAILED),
        ("NEXTAUTH_SECRET", "your-secret-key-min-32-characters-long", Flaw.PLACEHOLDER, Outcome.FAILED),
        ("NEXTAUTH_SECRET", "********************************", Flaw.PLACEHOLDER, Outcome.FAILED),
        ("NEXTAUTH_SECRET", "<generate with openssl rand -base64>", Flaw.PLACEHOLDER, Outcome.FAILED),
        ("JWT_SECRET", "${JWT_SECRET}", Flaw.PLACEHOLDER, Outcome.FAILED),
        ("DATABASE_URL", "postgresql://user:password@host.example.com/db", Flaw.PLACEHOLDER, Outcome.FAILED),
        ("DATABASE_URL", "mysql://shop@db.acme.io/shop", Flaw.SHAPE, Outcome.FAILED),
        ("DATABASE_URL", "postgresql://shop@db.acme.io", Flaw.SHAPE, Outcome.FAILED),
        ("DATABASE_URL", "postgresql://[::1/shop", Flaw.SHAPE, Outcome.FAILED),
        ("NEXTAUTH_URL", "shop.acme.io", Flaw.SHAPE, Outcome.FAILED),
        ("NEXTAUTH_URL", "http://shop.acme.io", Flaw.PLAIN_HTTP, Outcome.WARNING),
        ("NEXTAUTH_SECRET", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Flaw.WEAK, Outcome.WARNING),
        ("NEXTAUTH_SECRET", "supersecretsupersecretsupersecret1", Flaw.WEAK, Outcome.WARNING),
        ("NEXTAUTH_SECRET", "dev-secret-do-not-use-in-production", Flaw.WEAK, Outcome.WARNING),
        ("NEXTAUTH_SECRET", "12345678901234567890123456789012", Flaw.WEAK, Outcome.WARNING),
        ("JWT_SECRET", "s3cret", Flaw.WEAK, Outcome.WARNING),
        ("JWT_SECRET", GOOD["NEXTAUTH_SECRET"], Flaw.SHARED, Outcome.WARNING),
        ("ANTHROPIC_API_KEY", "sk-proj-2Vq8mXw0pLzR", Flaw.SHAPE, Outcome.WARNING),
        ("OPENAI_API_KEY", "2Vq8mXw0pLzR", Flaw.SHAPE, Outcome.WARNING),
        ("SLACK_WEBHOOK_URL", "http://hooks.slack.com/services/T0", Flaw.SHAPE, Outcome.WARNING),
    ],
)
def test_a_value_that_cannot_be_meant_is_found_and_not_shown(
    name: str, value: str, flaw: Flaw, outcome: Outcome
) -> None:
    found = check(name, value)
    assert (found.outcome, flaw in found.detail) == (outcome, True)
    assert found.action
    assert value not in f"{found.detail} {found.action}"


@pytest.mark.parametrize("host", ["localhost:3000", "127.0.0.1:8080", "[::1]:8080"])
def test_an_address_of_this_machine_needs_no_encryption(host: str) -> None:
    assert check("NEXTAUTH_URL", f"http://{host}").outcome is Outcome.PASSED


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.text(max_size=60)))
def test_any_values_are_examined_and_none_is_told(values: dict[str, str]) -> None:
    told = repr([(found.detail, found.action) for found in required_variables(examine(values))])
    assert not [value for value in values.values() if len(value) > 8 and value in told]

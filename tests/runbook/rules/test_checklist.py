from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.checklist import MANUAL_ITEMS, Check, Outcome, refusals, required_variables

COMPLETE = {
    "DATABASE_URL": 60,
    "NEXTAUTH_SECRET": 32,
    "NEXTAUTH_URL": 20,
    "JWT_SECRET": 1,
    "ANTHROPIC_API_KEY": 10,
    "OPENAI_API_KEY": 10,
    "SLACK_WEBHOOK_URL": 10,
}


def outcomes(lengths: dict[str, int]) -> dict[str, Outcome]:
    return {check.name: check.outcome for check in required_variables(lengths)}


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
    checks = required_variables({**COMPLETE, name: None, "OPENAI_API_KEY": None})
    (found,) = (check for check in checks if check.outcome is not Outcome.PASSED)
    assert (found.name, found.outcome) == (name, Outcome.COULD_NOT_RUN)
    assert refusals([found], strict=True) == []


def test_what_does_not_pass_says_what_to_do() -> None:
    assert all(check.action for check in required_variables({}))


@pytest.mark.parametrize(
    ("outcome", "refused", "refused_when_strict"),
    [
        (Outcome.PASSED, False, False),
        (Outcome.WARNING, False, True),
        (Outcome.FAILED, True, True),
        (Outcome.COULD_NOT_RUN, True, True),
    ],
)
def test_what_stops_a_deployment(outcome: Outcome, refused: bool, refused_when_strict: bool) -> None:
    check = Check("x", outcome, "seen")
    assert bool(refusals([check], strict=False)) is refused
    assert bool(refusals([check], strict=True)) is refused_when_strict


@given(st.lists(st.sampled_from(list(Outcome))))
def test_strict_never_refuses_less(found: list[Outcome]) -> None:
    checks = [Check(str(number), outcome, "seen") for number, outcome in enumerate(found)]
    assert set(refusals(checks, strict=False)) <= set(refusals(checks, strict=True))


def test_the_manual_items_are_the_eight_of_the_runbook() -> None:
    assert len(MANUAL_ITEMS) == len(set(MANUAL_ITEMS)) == 8

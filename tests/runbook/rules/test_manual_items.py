from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from runbook.rules.checklist import MANUAL_ITEMS, Check, Outcome
from runbook.rules.manual_items import Attestation, ManualItem, manual_checks

SHA, NOW = "a" * 40, datetime(2025, 1, 4, 12, tzinfo=UTC)


def word(item: ManualItem, *, git_sha: str = SHA, until: datetime = NOW + timedelta(hours=1)) -> Attestation:
    return Attestation(item=item, git_sha=git_sha, by="Ada", note="seen", at=NOW, until=until)


def answer(item: ManualItem, known: Check | None, *said: Attestation) -> Check:
    checks = manual_checks({item: known} if known else {}, said, SHA, NOW)
    return checks[list(ManualItem).index(item)]


def test_there_is_one_answer_for_each_item_in_the_runbooks_order() -> None:
    checks = manual_checks({}, [], SHA, NOW)
    assert [check.name for check in checks] == list(MANUAL_ITEMS)
    assert {check.outcome for check in checks} == {Outcome.WARNING}
    assert '--attest "security=why"' in checks[2].action


def test_evidence_passes_an_item_without_a_word() -> None:
    found = answer(ManualItem.TESTS, Check("CI", Outcome.PASSED, "12 checks are green"))
    assert (found.outcome, found.detail) == (Outcome.PASSED, "12 checks are green")


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.WARNING])
def test_what_a_machine_has_found_to_be_wrong_nobody_attests_away(outcome: Outcome) -> None:
    found = answer(ManualItem.TESTS, Check("CI", outcome, "e2e failed"), word(ManualItem.TESTS))
    assert (found.outcome, found.detail) == (Outcome.WARNING, "e2e failed")


def test_where_evidence_could_not_be_had_a_word_counts() -> None:
    known = Check("CI", Outcome.COULD_NOT_RUN, "GitHub does not answer")
    assert answer(ManualItem.TESTS, known).outcome is Outcome.WARNING
    assert answer(ManualItem.TESTS, known, word(ManualItem.TESTS)).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (word(ManualItem.SECURITY, until=NOW + timedelta(seconds=1)), Outcome.PASSED),
        (word(ManualItem.SECURITY, until=NOW), Outcome.WARNING),
        (word(ManualItem.SECURITY, git_sha="b" * 40), Outcome.WARNING),
        (word(ManualItem.PERFORMANCE), Outcome.WARNING),
    ],
    ids=["just before its end", "at its end", "another commit", "another item"],
)
def test_a_word_counts_for_its_item_its_commit_and_until_its_end(said: Attestation, outcome: Outcome) -> None:
    assert answer(ManualItem.SECURITY, None, said).outcome is outcome

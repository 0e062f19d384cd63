from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.rules.audit import UnreadableAuditError, Vulnerabilities, judge_audits, read_audit
from runbook.rules.checklist import Outcome

COUNTS = {"info": 1, "low": 2, "moderate": 3, "high": 4, "critical": 5, "total": 15}


def npm(**counts: int) -> str:
    return json.dumps({"auditReportVersion": 2, "vulnerabilities": {}, "metadata": {"vulnerabilities": counts}})


def test_npm_counts_by_severity() -> None:
    assert read_audit(npm(**COUNTS)) == Vulnerabilities(critical=5, high=4, moderate=3, low=3)


def test_pip_audit_does_not_rate_what_it_finds() -> None:
    flask = {"name": "flask", "version": "0.5", "vulns": [{"id": "PYSEC-2019-179", "fix_versions": ["1.0"]}] * 2}
    skipped = {"name": "shop", "skip_reason": "not on PyPI"}
    assert read_audit(json.dumps({"dependencies": [flask, skipped], "fixes": []})) == Vulnerabilities(unrated=2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"error": {"code": "ENOLOCK", "summary": "This command requires an existing lockfile."}}', "ENOLOCK: This"),
        ('{"message": "405 Method Not Allowed", "error": {"summary": "", "detail": ""}}', "405 Method Not Allowed"),
        ("", "no report in JSON"),
        ("added 3 packages", "no report in JSON"),
        ("{}", "printed no report"),
        ("[]", "no report in JSON"),
    ],
)
def test_what_is_no_report_is_not_taken_for_one_without_findings(text: str, said: str) -> None:
    with pytest.raises(UnreadableAuditError, match=said):
        read_audit(text)


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        (Vulnerabilities(), Outcome.PASSED),
        (Vulnerabilities(low=1), Outcome.WARNING),
        (Vulnerabilities(moderate=1), Outcome.WARNING),
        (Vulnerabilities(high=1), Outcome.FAILED),
        (Vulnerabilities(critical=1), Outcome.FAILED),
        (Vulnerabilities(unrated=1), Outcome.FAILED),
    ],
)
def test_how_bad_it_is_decides(found: Vulnerabilities, outcome: Outcome) -> None:
    check = judge_audits([("npm", Vulnerabilities()), ("other", found)])
    assert check.outcome is outcome
    assert f"other: {found.words}" in check.detail


counts = st.builds(Vulnerabilities, *[st.integers(0, 3)] * 5)
ORDER = [Outcome.PASSED, Outcome.WARNING, Outcome.FAILED]


@given(counts, counts)
def test_more_findings_never_make_it_better(one: Vulnerabilities, other: Vulnerabilities) -> None:
    both = judge_audits([("a", one), ("b", other)]).outcome
    assert ORDER.index(both) >= ORDER.index(judge_audits([("a", one)]).outcome)


@given(st.text())
def test_any_text_is_a_report_or_said_to_be_none(text: str) -> None:
    try:
        said = read_audit(text).words
    except UnreadableAuditError as error:
        said = str(error)
    assert said

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.test_results import TestCase, TestOutcome, flaky_since, read_junit, worst_first


def read(xml: str, *, passed: bool = True) -> list[tuple[str, str, str]]:
    return [(case.name, case.outcome.value, case.detail) for case in read_junit(xml.encode(), "r.xml", passed=passed)]


@pytest.mark.parametrize(
    ("element", "outcome", "detail"),
    [
        ("", "passed", ""),
        ('<failure message="one&#10;two"/>', "failed", "one"),
        ("<failure>\n  why\n  more</failure>", "failed", "why"),
        ('<error type="E"/>', "failed", ""),
        ('<skipped message="not here"/>', "skipped", "not here"),
        ('<flakyFailure message="once"/>', "flaky", "once"),
        ('<rerunFailure message="first"/><failure message="last"/>', "failed", "last"),
        ("<system-out>noise</system-out>", "passed", ""),
    ],
)
def test_each_way_a_test_ends_is_read(element: str, outcome: str, detail: str) -> None:
    xml = f'<testsuites><testsuite><testcase classname="c" name="t">{element}</testcase></testsuite></testsuites>'
    assert read(xml) == [("c / t", outcome, detail)]


def test_suites_in_suites_are_read_once() -> None:
    xml = '<testsuite><testcase name="a"/><testsuite><testcase name="b"/></testsuite></testsuite>'
    assert read(xml) == [("a", "passed", ""), ("b", "passed", "")]


def test_a_test_that_was_tried_again_is_flaky_and_two_tests_of_one_name_hide_no_failure() -> None:
    failed, passed = '<testcase name="a"><failure message="m"/></testcase>', '<testcase name="a"/>'
    assert read(f"<testsuite>{failed}{passed}</testsuite>") == [("a", "flaky", "m")]
    assert read(f"<testsuite>{failed}{passed}</testsuite>", passed=False) == [("a", "failed", "m")]
    assert read(f"<testsuite>{passed}{failed}</testsuite>") == [("a", "failed", "m")]


@pytest.mark.parametrize("time", ["", "x", "-1", "nan", "inf"])
def test_a_time_that_is_none_is_not_known(time: str) -> None:
    [case] = read_junit(f'<testcase name="a" time="{time}"/>'.encode(), "r.xml", passed=True)
    assert case.duration_s is None


def test_a_time_with_thousands_is_read() -> None:
    [case] = read_junit(b'<testcase name="a" time="1,234.5"/>', "r.xml", passed=True)
    assert case.duration_s == 1234.5


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<testsuite>",
        b"{}",
        b'<?xml version="1.0" encoding="no-such"?><testsuite/>',
        b'<!DOCTYPE a [<!ENTITY b "c">]><testsuite/>',
    ],
)
def test_what_is_no_plain_xml_is_refused_with_the_name_of_the_file(text: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"reports/r\.xml"):
        read_junit(text, "reports/r.xml", passed=True)


@given(st.binary(max_size=200) | st.text(alphabet="<>/= \"'acdefilmnprstu", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        found = read_junit(text, "r.xml", passed=True)
    except InvalidInputError:
        return
    assert len({case.name for case in found}) == len(found)


def test_what_failed_earlier_is_flaky_only_once_it_passes() -> None:
    assert flaky_since(["b", "a", "c"], ["a", "b"]) == ("a", "b")


@given(st.lists(st.builds(TestCase, name=st.text(max_size=3), outcome=st.sampled_from(TestOutcome)), max_size=20))
def test_no_failure_is_left_out_before_what_passed(cases: list[TestCase]) -> None:
    shown = worst_first(cases, 5)
    failed = sum(case.outcome is TestOutcome.FAILED for case in cases)
    assert sum(case.outcome is TestOutcome.FAILED for case in shown) == min(5, failed)

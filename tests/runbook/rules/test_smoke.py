from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.smoke import SmokeTest, parse_smoke_tests

GOOD = """
[[request]]
name = "products"
path = "/products?limit=3"
contains = "count"
json = { count = 3, open = true }

[[request]]
name = "an order"
method = "POST"
path = "/orders"
body = { sku = "A1", tags = ["new", { nested = 1.5 }] }
status = 201
"""


def request(line: str) -> str:
    return f'[[request]]\nname = "x"\npath = "/"\n{line}\n'


def test_a_smoke_file_is_read_in_order() -> None:
    products, order = parse_smoke_tests(GOOD, "smoke.toml")
    assert (products.name, products.method, products.path, products.status) == (
        "products",
        "GET",
        "/products?limit=3",
        200,
    )
    assert (products.contains, products.expected) == ("count", {"count": 3, "open": True})
    assert (order.method, order.status) == ("POST", 201)
    assert order.body == {"sku": "A1", "tags": ["new", {"nested": 1.5}]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("[[request", "valid TOML", id="not TOML"),
        pytest.param(f"a = {'1' * 5000}", "valid TOML", id="a number too long to read"),
        pytest.param("a = " + "[" * 10_000, "valid TOML", id="nested too deep"),
        pytest.param("", "request", id="empty"),
        pytest.param("request = []", "request", id="no request"),
        pytest.param(request("") + "[settings]\n", "settings", id="unknown table"),
        pytest.param(request('url = "/"'), "request.0.url", id="unknown field"),
        pytest.param(request('method = "HEAD"'), "request.0.method", id="unknown method"),
        pytest.param(request("status = 42"), "request.0.status", id="no such status"),
        pytest.param(request("body = { at = 2025-01-04 }"), "request.0.body.at", id="a date in a body"),
        pytest.param(request("body = { share = nan }"), "request.0.body.share", id="no number in a body"),
        pytest.param(request("json = { share = inf }"), "request.0.json.share", id="no number expected"),
        pytest.param('[[request]]\npath = "/"\n', "request.0.name", id="no name"),
        pytest.param(request('visible = ""'), "request.0.visible", id="nothing to see"),
        pytest.param(request('visible = "a"\nstatus = 404'), "method GET and status 200", id="an error in a browser"),
    ],
)
def test_a_smoke_file_that_cannot_be_meant_is_refused_with_the_place(text: str, said: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_smoke_tests(text, "smoke.toml")
    assert "smoke.toml" in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "path", ["http://elsewhere.test/", "elsewhere.test", "", "/a b", "/a\n", "\\u0000", "/\\u0000", "/a\\u007f"]
)
def test_a_path_is_a_path_on_the_release_and_nothing_else(path: str) -> None:
    written = path.replace("\n", "\\n")
    with pytest.raises(InvalidInputError, match=r"request\.0\.path"):
        parse_smoke_tests(f'[[request]]\nname = "x"\npath = "{written}"\n', "smoke.toml")


@example("\ufeff" + GOOD)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*GOOD, *'[]{}="', "\x00", "1" * 5000])).map("".join)))
def test_text_of_any_kind_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidInputError):
        assert parse_smoke_tests(text, "smoke.toml")


@given(st.data())
def test_a_damaged_smoke_file_is_read_or_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, len(GOOD)))
    try:
        tests = parse_smoke_tests(GOOD[:start] + data.draw(st.text(max_size=20)) + GOOD[end:], "smoke.toml")
    except InvalidInputError:
        return
    for test in tests:
        assert test.path.startswith("/")
        json.dumps(test.body, allow_nan=False)


JSON = SmokeTest.model_validate({"name": "x", "path": "/", "json": {"count": 3, "items": [1]}})


@pytest.mark.parametrize(
    ("test", "status", "text", "problem"),
    [
        pytest.param(SmokeTest(name="x", path="/"), 200, "", None, id="as expected"),
        pytest.param(SmokeTest(name="x", path="/"), 500, "", "answered 500, expected 200", id="status"),
        pytest.param(SmokeTest(name="x", path="/"), None, "", "answered None, expected 200", id="no answer"),
        pytest.param(SmokeTest(name="x", path="/", status=404), 404, "", None, id="an expected error"),
        pytest.param(SmokeTest(name="x", path="/", contains="Shop"), 200, "<h1>Shop</h1>", None, id="contains"),
        pytest.param(
            SmokeTest(name="x", path="/", contains="Shop"), 200, "", "the answer does not contain 'Shop'", id="lacks"
        ),
        pytest.param(JSON, 200, '{"items": [1], "count": 3, "more": 1}', None, id="json"),
        pytest.param(JSON, 200, '{"count": 4}', "other values than expected for count, items", id="other json"),
        pytest.param(JSON, 200, "null", "the answer is not a JSON object", id="no object"),
        pytest.param(JSON, 200, "{", "the answer is not JSON", id="no json"),
        pytest.param(JSON, 200, "[" * 100_000, "the answer is not JSON", id="json nested too deep"),
    ],
)
def test_what_is_wrong_with_an_answer(test: SmokeTest, status: int | None, text: str, problem: str | None) -> None:
    assert test.problem(status, text) == problem


@given(st.text())
def test_no_answer_of_any_kind_breaks_the_comparison(text: str) -> None:
    assert JSON.problem(200, text) is not None

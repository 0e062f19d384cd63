from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.errors import InvalidInputError
from runbook.rules.api_changes import breaking_api_changes, read_api

API: dict[str, Any] = {
    "openapi": "3.1.0",
    "paths": {
        "/orders/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "parameters": [{"name": "view", "in": "query", "schema": {"type": "string", "enum": ["a", "b"]}}],
                "responses": {
                    "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}},
                    "404": {"description": "none"},
                },
            },
            "put": {
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["sku"],
                                "properties": {"sku": {"type": "string"}, "quantity": {"type": "number"}},
                            }
                        }
                    }
                },
                "responses": {"204": {"description": "done"}},
            },
        },
        "/health": {"get": {"responses": {"200": {"description": "fine"}}}},
    },
    "components": {
        "schemas": {
            "Order": {
                "type": "object",
                "required": ["id", "lines"],
                "properties": {
                    "id": {"type": "string"},
                    "note": {"type": ["string", "null"]},
                    "lines": {"type": "array", "items": {"$ref": "#/components/schemas/Line"}},
                    "follows": {"$ref": "#/components/schemas/Order"},
                },
            },
            "Line": {"type": "object", "properties": {"sku": {"type": "string"}, "total": {"type": "integer"}}},
        }
    },
}
GET, PUT = ("paths", "/orders/{id}", "get"), ("paths", "/orders/{id}", "put")
BODY = (*PUT, "requestBody")
SCHEMA = (*BODY, "content", "application/json", "schema")
ORDER, LINE = ("components", "schemas", "Order"), ("components", "schemas", "Line")
GONE = object()


def changed(path: tuple[Any, ...], value: object) -> dict[str, Any]:
    document = copy.deepcopy(API)
    node: Any = document
    for part in path[:-1]:
        node = node[part]
    if value is GONE:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("paths", "/health"), GONE, "/health is gone"),
        (PUT, GONE, "PUT /orders/{id} is gone"),
        ((*GET, "parameters", 0, "required"), True, "GET /orders/{id} requires the query parameter view"),
        (
            (*GET, "parameters"),
            [{"name": "tenant", "in": "header", "required": True}],
            "GET /orders/{id} requires the header parameter tenant",
        ),
        (
            (*GET, "parameters", 0, "schema", "enum"),
            ["a"],
            "GET /orders/{id}, query parameter view: 'b' is not taken any more",
        ),
        ((*BODY, "required"), True, "PUT /orders/{id} requires a body"),
        ((*BODY, "content"), {"text/csv": {}}, "PUT /orders/{id} does not take application/json any more"),
        ((*SCHEMA, "required"), ["sku", "quantity"], "PUT /orders/{id}, body: quantity is required"),
        (
            (*SCHEMA, "properties", "quantity", "type"),
            "integer",
            "PUT /orders/{id}, body.quantity: number is not taken any more, but integer",
        ),
        ((*GET, "responses", "200"), GONE, "GET /orders/{id} does not answer 200 any more"),
        ((*ORDER, "required"), ["id"], "GET /orders/{id}, answer 200: lines may be missing"),
        ((*ORDER, "properties", "note"), GONE, "GET /orders/{id}, answer 200: note is gone"),
        ((*ORDER, "properties", "id", "type"), "integer", "GET /orders/{id}, answer 200.id: integer instead of string"),
        (
            (*LINE, "properties", "total", "type"),
            "number",
            "GET /orders/{id}, answer 200.lines[].total: number instead of integer",
        ),
    ],
)
def test_what_breaks_callers_is_found(path: tuple[Any, ...], value: object, said: str) -> None:
    assert said in breaking_api_changes(API, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("paths", "/new"), {"get": {}}),
        ((*GET, "responses", "404"), GONE),
        ((*GET, "parameters", 0, "schema", "enum"), ["a", "b", "c"]),
        ((*GET, "parameters"), [{"name": "page", "in": "query"}]),
        ((*SCHEMA, "required"), []),
        ((*SCHEMA, "properties", "colour"), {"type": "string"}),
        ((*ORDER, "properties", "colour"), {"type": "string"}),
        ((*ORDER, "required"), ["id", "lines", "note"]),
        ((*ORDER, "properties", "note", "type"), "string"),
        ((*SCHEMA, "properties", "sku", "type"), ["string", "integer"]),
    ],
)
def test_what_does_not_break_callers_is_not(path: tuple[Any, ...], value: object) -> None:
    assert breaking_api_changes(API, changed(path, value)) == []


def test_a_path_whose_parameter_has_another_name_is_the_same() -> None:
    renamed = copy.deepcopy(API)
    renamed["paths"]["/orders/{order}"] = renamed["paths"].pop("/orders/{id}")
    assert breaking_api_changes(API, renamed) == []


def test_documents_in_yaml_are_read() -> None:
    assert breaking_api_changes(read_api("paths:\n  /a: {get: {}}\n", "a"), read_api("paths: {}", "b")) == [
        "/a is gone"
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "a: [", "paths: 5", "!!python/object:os.system {}"])
def test_what_is_no_document_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"api/openapi\.yaml"):
        read_api(text, "api/openapi.yaml")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["get", "parameters", "schema", "$ref", "type", "properties", "required", "enum", "content"]
            )
            | st.text(max_size=3),
            children,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.just("paths"), st.dictionaries(st.text(max_size=4), _JSON)), st.data())
def test_any_document_against_itself_breaks_nothing(document: dict[str, Any], data: st.DataObject) -> None:
    assert breaking_api_changes(document, document) == []
    breaking_api_changes(document, {"paths": data.draw(st.dictionaries(st.text(max_size=4), _JSON))})

"""A small document of an invented service: what is cut away, and how strictly the rest is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.contracts import Contract
from tests.conformance.openapi import JSON, pruned, read
from tests.emulators.recording import Record

NAMED: JSON = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "minLength": 1}}}
DOCUMENT: JSON = {
    "openapi": "3.0.3",
    "info": {"title": "invented", "version": "1"},
    "paths": {
        "/things": {
            "get": {
                "parameters": [{"$ref": "#/components/parameters/limit"}],
                "responses": {
                    "200": {
                        "description": "ok",
                        "content": {
                            "application/json": {
                                "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}
                            }
                        },
                    },
                    "default": {"$ref": "#/components/responses/Error"},
                },
            },
            "post": {
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewThing"}}},
                },
                "responses": {"201": {"description": "made"}},
            },
            "delete": {"responses": {"200": {"description": "x"}}, "security": [{"never": []}]},
        },
        "/things/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {"responses": {"204": {"description": "there"}}},
        },
        "/others": {"get": {"responses": {"200": {"$ref": "#/components/responses/Unused"}}}},
    },
    "components": {
        "parameters": {"limit": {"name": "limit", "in": "query", "schema": {"type": "integer", "maximum": 10}}},
        "responses": {
            "Error": {
                "description": "no",
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["message"],
                            "properties": {"message": {"type": "string"}, "details": {"type": "object"}},
                        }
                    }
                },
            },
            "Unused": {"description": "unused"},
        },
        "schemas": {
            "Named": NAMED,
            "NewThing": {
                "oneOf": [{"$ref": "#/components/schemas/Named"}, {**NAMED, "description": "overlaps"}],
                "allOf": [],
            },
            "Thing": {
                "allOf": [
                    {"$ref": "#/components/schemas/Named"},
                    {
                        "type": "object",
                        "properties": {"size": {"type": "integer", "enum": [1, 1, 2], "nullable": True}},
                    },
                ]
            },
        },
    },
}
USED = {"/things": ["get", "post"], "/things/{id}": ["get"]}
JSON_TYPE = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def invented() -> Contract:
    return Contract(pruned(DOCUMENT, USED), "/api")


def listed(*things: Any) -> Record:  # noqa: ANN401 - what is answered
    return Record("invented", "", "GET", "/things", "limit=3", {}, None, 200, JSON_TYPE, json.dumps(list(things)))


def created(body: Any) -> Record:  # noqa: ANN401 - what is sent
    text = None if body is None else json.dumps(body)
    return Record("invented", "", "POST", "/things", "", JSON_TYPE, text, 201, {}, None)


def test_only_what_is_used_stays() -> None:
    kept = pruned(DOCUMENT, USED)
    assert set(kept["paths"]) == set(USED)
    assert "delete" not in kept["paths"]["/things"]
    assert set(kept["components"]["responses"]) == {"Error"}
    assert set(kept["components"]["schemas"]) == {"Named", "NewThing", "Thing"}


def test_an_operation_that_the_document_lacks_is_not_cut_out_silently() -> None:
    with pytest.raises(KeyError, match="patch"):
        pruned(DOCUMENT, {"/things": ["patch"]})


def test_a_document_keeps_its_moments_and_its_keys_as_text(tmp_path: Path) -> None:
    file = tmp_path / "document.yaml"
    file.write_text("responses: {200: {example: 2025-01-04T12:00:00Z}}")
    assert read(file) == {"responses": {"200": {"example": "2025-01-04T12:00:00Z"}}}


@pytest.mark.parametrize(
    "fitting",
    [
        listed(),
        listed({"name": "a", "size": 2}, {"name": "b", "size": None}),
        created({"name": "fits both alternatives"}),
        Record("invented", "", "GET", "/things/1", "", {}, None, 204, {}, None),
        replace(listed(), status=400, answer='{"message": "no", "details": {"anything": 1}}'),
        replace(listed(), status=200, answer="wrong on purpose", emulated=True),
    ],
)
def test_what_the_document_says_is_no_violation(invented: Contract, fitting: Record) -> None:
    assert invented.violations(fitting) == []


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (replace(listed(), query="limit=11"), "request: 11 is greater than the maximum of 10"),
        (replace(listed(), query="limit=3&offset=1"), "request.query: offset is not a parameter"),
        (replace(listed(), body="{}"), "request: a body"),
        (replace(listed(), path="/nothing"), "request: no such operation"),
        (replace(listed(), method="DELETE"), "request: no such operation"),
        (listed({"name": "a", "size": 3}), "answer[].size: 3 is not one of [1, 2, None]"),
        (listed({"size": 1}), "answer[]: 'name' is a required property"),
        (
            listed({"name": "a", "colour": 1}),
            "answer[]: Additional properties are not allowed ('colour' was unexpected)",
        ),
        (replace(listed(), status=302), None),
        (replace(listed(), status=404, answer="{}"), "answer: 'message' is a required property"),
        (replace(listed(), status=503, answer="{}", emulated=True), "answer: 'message' is a required property"),
        (replace(listed(), answer_headers={"content-type": "text/plain"}), None),
        (created(None), None),
        (created({"name": ""}), "request.name: '' should be non-empty"),
        (created({"name": "a", "x": 1}), "request: Additional properties are not allowed ('x' was unexpected)"),
        (replace(created({"name": "a"}), status=200), "answer: status 200"),
    ],
)
def test_what_the_document_does_not_say_is_a_violation(invented: Contract, spoiled: Record, said: str | None) -> None:
    found = invented.violations(spoiled)
    assert found == [said] if said else found

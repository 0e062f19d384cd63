"""What the official OpenAPI documents say, cut to the operations that are used and read as strictly as they can be.

`pruned` changes nothing of what a document says. `strict` closes what it leaves open by default (an object has the
members that are listed, and no others) and repairs what no validator accepts.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

JSON = dict[str, Any]
Operations = Mapping[str, Iterable[str]]
"""Methods by path template, as the document spells them."""

_COMBINED = ("allOf", "anyOf", "oneOf")
_NAMES = {"properties", "headers", "parameters", "responses", "schemas", "requestBodies"}
_METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}


class _Loader(yaml.CSafeLoader):
    """Leaves moments in examples and defaults the text that they are on the wire."""


_Loader.yaml_implicit_resolvers = {  # pyright: ignore[reportUnannotatedClassAttribute]
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def read(file: Path) -> JSON:
    """Return the document in a file, JSON or YAML."""
    text = file.read_text()
    document = json.loads(text) if file.suffix == ".json" else yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    return cast("JSON", _with_text_keys(document))


def pruned(document: JSON, operations: Operations) -> JSON:
    """Return the part of a document that `operations` need, without its examples.

    Raises:
        KeyError: the document has no such operation.
    """
    paths: JSON = {}
    for path, methods in operations.items():
        item = document["paths"][path]
        shared = {key: value for key, value in item.items() if key not in _METHODS}
        paths[path] = shared | {method: item[method] for method in methods}
    document, paths = _plain(document), _plain(paths)
    components: dict[str, JSON] = {}
    pending: list[Any] = [paths]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += cast("list[Any]", value)
        elif isinstance(value, dict):
            members = cast("JSON", value)
            pending += members.values()
            kind, name = _component(members)
            if kind and name not in components.setdefault(kind, {}):
                components[kind][name] = document["components"][kind][name]
                pending.append(components[kind][name])
    kept = {key: document[key] for key in ("openapi", "info")}
    return {**kept, "paths": paths, "components": components}


def used(document: JSON) -> Operations:
    """Return the operations of a document that was pruned before."""
    return {path: [method for method in item if method in _METHODS] for path, item in document["paths"].items()}


def strict(document: JSON, server: str, refusal: JSON) -> JSON:
    """Return a document as a validator can hold exchanges with `server` against it.

    `refusal` is the schema of answers with a status that the document does not speak of.
    """
    closed = _strict(document, document)
    other = {"description": "not documented", "content": {"application/json": {"schema": refusal}}}
    for path, methods in used(closed).items():
        for method in methods:
            operation = closed["paths"][path][method]
            operation.pop("security", None)
            operation["responses"].setdefault("default", other)
    return closed | {"servers": [{"url": server}]}


def _strict(value: Any, document: JSON, *, closing: bool = True) -> Any:  # noqa: ANN401 - a piece of JSON
    if isinstance(value, list):
        return [_strict(each, document) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    schema = _repaired(cast("JSON", value))
    parts = [key for key in _COMBINED if key in schema]
    whole = closing and (("properties" in schema and parts) or "allOf" in schema)
    result: JSON = {}
    for key, member in schema.items():
        if key == "properties" and isinstance(member, dict) and "$ref" not in member:
            result[key] = {name: _strict(each, document) for name, each in cast("JSON", member).items()}
        elif key in parts and (whole or not closing):
            alternatives = cast("list[JSON]", member)
            result[key] = [_strict(_resolved(each, document), document, closing=False) for each in alternatives]
        else:
            result[key] = _strict(member, document)
    if whole:
        listed: JSON = result.get("properties", {})
        result["properties"] = {name: {} for name in _names(schema, document)} | listed
    if closing and "properties" in result and _is_schema(result) and not _has_others(schema, document):
        result["additionalProperties"] = False
    if not closing and result.get("additionalProperties") is False:
        del result["additionalProperties"]
    return result


def _repaired(schema: JSON) -> JSON:
    """Return a schema without what validators stumble over.

    Alternatives that overlap reject what fits two of them, so one of them has to fit, not exactly one; and what may be
    null may be so although no list of values has it.
    """
    repaired = {key: value for key, value in schema.items() if not (key in _COMBINED and value == [])}
    if isinstance(repaired.get("oneOf"), list) and "anyOf" not in repaired:
        repaired["anyOf"] = repaired.pop("oneOf")
    for key in ("enum", "required"):
        if isinstance(repaired.get(key), list):
            repaired[key] = [each for at, each in enumerate(repaired[key]) if each not in repaired[key][:at]]
    if repaired.get("nullable") is True and isinstance(repaired.get("enum"), list) and None not in repaired["enum"]:
        repaired["enum"] = [*repaired["enum"], None]
    return repaired


def _plain(value: Any, *, names: bool = False) -> Any:  # noqa: ANN401 - a piece of JSON
    """Return a value without examples and without what is of interest to one tool only; `names` are never left out."""
    if isinstance(value, list):
        return [_plain(each) for each in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    members = cast("JSON", value)
    return {
        key: _plain(each, names=key in _NAMES)
        for key, each in members.items()
        if names or not (key in {"example", "examples"} or key.startswith("x-"))
    }


def _names(schema: JSON, document: JSON, seen: frozenset[int] = frozenset()) -> list[str]:
    """Return the members that a schema knows in any of its parts."""
    if id(schema) in seen:
        return []
    names = list(cast("JSON", schema.get("properties", {})))
    for key in _COMBINED:
        for part in schema.get(key, []):
            names += _names(_resolved(part, document), document, seen | {id(schema)})
    return list(dict.fromkeys(names))


def _has_others(schema: JSON, document: JSON) -> bool:
    """Say whether a schema admits, in any of its parts, members that it does not list."""
    parts = [_resolved(part, document) for key in _COMBINED for part in schema.get(key, [])]
    return schema.get("additionalProperties", False) is not False or any(_has_others(each, document) for each in parts)


def _resolved(schema: JSON, document: JSON) -> JSON:
    kind, name = _component(schema)
    while kind:
        schema = document["components"][kind][name]
        kind, name = _component(schema)
    return copy.copy(schema)


def _component(value: JSON) -> tuple[str, str]:
    reference = value.get("$ref")
    if not isinstance(reference, str) or not reference.startswith("#/components/"):
        return "", ""
    kind, _, name = reference.removeprefix("#/components/").partition("/")
    return kind, name.replace("~1", "/").replace("~0", "~")


def _is_schema(value: JSON) -> bool:
    return isinstance(value.get("properties"), dict) and value.get("type", "object") == "object"


def _with_text_keys(value: Any) -> Any:  # noqa: ANN401 - a piece of JSON
    if isinstance(value, dict):
        return {str(key): _with_text_keys(each) for key, each in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_with_text_keys(each) for each in cast("list[Any]", value)]
    return value

"""What a new version of an OpenAPI document takes away from those who call the application.

Only what breaks a caller that was right before: something gone, something newly required, another type. What an answer
may newly hold is not, though a caller with a closed list of values may stumble over it.

Source: runbook, "Stage 1: Pre-Deployment Validation" ("Check for breaking changes"); OpenAPI 3.1, "Schema Object".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, cast

import yaml

from runbook.errors import InvalidInputError

_METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_DEEPEST = 12

Node = Mapping[str, Any]


def read_api(text: str, name: str) -> Node:
    """Read an OpenAPI document, in JSON or YAML.

    Raises:
        InvalidInputError: it is neither, or describes no paths.
    """
    try:
        found: object = json.loads(text) if text.lstrip().startswith("{") else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise InvalidInputError("api_document", name, "JSON or YAML", f"Mend the file: {error}") from error
    if not isinstance(found, dict) or not isinstance(cast("Node", found).get("paths"), dict):
        raise InvalidInputError("api_document", name, "an OpenAPI document with `paths`", "Name another file.")
    return cast("Node", found)


def breaking_api_changes(before: Node, after: Node) -> list[str]:
    """Return what breaks callers, one line each, in the order of the earlier document."""
    now = {_shape(path): (path, item) for path, item in _children(after, "paths")}
    found: list[str] = []
    for path, item in _children(before, "paths"):
        if _shape(path) not in now:
            found.append(f"{path} is gone")
            continue
        found += _operations(_Pair(before, after), path, item, now[_shape(path)][1])
    return list(dict.fromkeys(found))


class _Pair:
    """The two documents, in which references are followed."""

    def __init__(self, before: Node, after: Node) -> None:
        self._before, self._after = before, after

    def old(self, node: object) -> Node:
        return _resolved(self._before, node)

    def new(self, node: object) -> Node:
        return _resolved(self._after, node)


def _operations(pair: _Pair, path: str, before: Node, after: Node) -> Iterator[str]:
    for method in _METHODS:
        if method not in before:
            continue
        name = f"{method.upper()} {path}"
        if method not in after:
            yield f"{name} is gone"
            continue
        old, new = pair.old(before[method]), pair.new(after[method])
        yield from _parameters(pair, name, (before, old), (after, new))
        yield from _body(pair, name, old, new)
        yield from _answers(pair, name, old, new)


def _parameters(pair: _Pair, name: str, before: tuple[Node, Node], after: tuple[Node, Node]) -> Iterator[str]:
    old = {_key(each): each for node in before for each in map(pair.old, _list(node, "parameters"))}
    new = {_key(each): each for node in after for each in map(pair.new, _list(node, "parameters"))}
    for key, parameter in new.items():
        place, label = key
        if place == "path":
            continue  # a path's own parts are compared as a path
        was = old.get(key)
        if parameter.get("required") and not (was and was.get("required")):
            yield f"{name} requires the {place} parameter {label}"
        if was is not None:
            yield from _asked(pair, f"{name}, {place} parameter {label}", was.get("schema"), parameter.get("schema"))


def _body(pair: _Pair, name: str, before: Node, after: Node) -> Iterator[str]:
    old, new = pair.old(before.get("requestBody")), pair.new(after.get("requestBody"))
    if new.get("required") and not old.get("required"):
        yield f"{name} requires a body"
    kinds = dict(_children(new, "content"))
    for kind, content in _children(old, "content"):
        if kind not in kinds:
            yield f"{name} does not take {kind} any more"
        else:
            yield from _asked(pair, f"{name}, body", content.get("schema"), kinds[kind].get("schema"))


def _answers(pair: _Pair, name: str, before: Node, after: Node) -> Iterator[str]:
    now = dict(_children(after, "responses"))
    for status, answer in _children(before, "responses"):
        if not status.startswith("2"):
            continue
        if status not in now:
            yield f"{name} does not answer {status} any more"
            continue
        kinds = dict(_children(pair.new(now[status]), "content"))
        for kind, content in _children(pair.old(answer), "content"):
            if kind not in kinds:
                yield f"{name} does not answer with {kind} any more"
            else:
                yield from _told(pair, f"{name}, answer {status}", content.get("schema"), kinds[kind].get("schema"))


def _asked(pair: _Pair, where: str, before: object, after: object, depth: int = 0) -> Iterator[str]:
    """Compare what callers send: nothing may be newly required, and no value newly refused."""
    old, new = pair.old(before), pair.new(after)
    if depth > _DEEPEST or not old or not new:
        return
    if _types(old) - _types(new) and _types(new):
        yield f"{where}: {_named(old)} is not taken any more, but {_named(new)}"
    if gone := [value for value in _list(old, "enum") if value not in _list(new, "enum")] if "enum" in new else []:
        yield f"{where}: {', '.join(map(repr, gone))} is not taken any more"
    for name in _list(new, "required"):
        if name not in _list(old, "required"):
            yield f"{where}: {name} is required"
    properties = dict(_children(new, "properties"))
    for name, schema in _children(old, "properties"):
        if name in properties:
            yield from _asked(pair, f"{where}.{name}", schema, properties[name], depth + 1)
    yield from _asked(pair, f"{where}[]", old.get("items"), new.get("items"), depth + 1)


def _told(pair: _Pair, where: str, before: object, after: object, depth: int = 0) -> Iterator[str]:
    """Compare what callers get: nothing may be missing, and nothing of another type."""
    old, new = pair.old(before), pair.new(after)
    if depth > _DEEPEST or not old or not new:
        return
    if _types(new) - _types(old) and _types(old):
        yield f"{where}: {_named(new)} instead of {_named(old)}"
    properties = dict(_children(new, "properties"))
    for name, schema in _children(old, "properties"):
        if name not in properties:
            yield f"{where}: {name} is gone"
            continue
        if name in _list(old, "required") and name not in _list(new, "required"):
            yield f"{where}: {name} may be missing"
        yield from _told(pair, f"{where}.{name}", schema, properties[name], depth + 1)
    yield from _told(pair, f"{where}[]", old.get("items"), new.get("items"), depth + 1)


def _resolved(document: Node, node: object) -> Node:
    for _ in range(_DEEPEST):
        if not isinstance(node, dict):
            return {}
        found = cast("Node", node)
        reference = found.get("$ref")
        if not isinstance(reference, str):
            return found
        node = document if reference.startswith("#/") else None
        for part in reference.removeprefix("#/").split("/"):
            part = part.replace("~1", "/").replace("~0", "~")
            node = cast("Node", node).get(part) if isinstance(node, dict) else None
    return {}


def _children(node: Node, name: str) -> list[tuple[str, Node]]:
    found = node.get(name)
    if not isinstance(found, dict):
        return []
    named = cast("Mapping[object, object]", found)
    return [(str(key), cast("Node", value)) for key, value in named.items() if isinstance(value, dict)]


def _list(node: Node, name: str) -> list[Any]:
    found = node.get(name)
    return cast("list[Any]", found) if isinstance(found, list) else []


def _types(schema: Node) -> set[str]:
    given = schema.get("type")
    types = {str(each) for each in cast("list[object]", given)} if isinstance(given, list) else {str(given or "")}
    types |= {"null"} if schema.get("nullable") else set()
    return (types | {"integer"} if "number" in types else types) - {""}


def _named(schema: Node) -> str:
    types = _types(schema)
    return " or ".join(sorted(types - {"integer"} if "number" in types else types))


def _key(parameter: Node) -> tuple[str, str]:
    return str(parameter.get("in", "")), str(parameter.get("name", ""))


def _shape(path: str) -> str:
    """Return a path without the names of its parameters: to rename one changes nothing for callers."""
    return re.sub(r"\{[^{}]*\}", "{}", path)

"""Holds recorded exchanges against what a service's official OpenAPI document says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

from jsonschema.exceptions import ValidationError
from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from werkzeug.datastructures import Headers, ImmutableMultiDict

from tests.conformance.openapi import JSON, strict, used
from tests.emulators.recording import Record

_SERVER = "http://emulated"
_FORM = "application/x-www-form-urlencoded"


class _Request:
    """A recorded request as openapi-core wants it."""

    def __init__(self, record: Record, root: str) -> None:
        query = ImmutableMultiDict(parse_qsl(record.query, keep_blank_values=True))
        self.parameters = RequestParameters(query=query, header=Headers(list(record.headers.items())))
        self.host_url = _SERVER
        self.path = root + record.path
        self.method = record.method.lower()
        self.body = None if record.body is None else record.body.encode()
        self.content_type = record.headers.get("content-type", "").lower()


class _Response:
    """A recorded answer as openapi-core wants it."""

    def __init__(self, record: Record) -> None:
        self.status_code = record.status
        self.headers = Headers(list(record.answer_headers.items()))
        self.content_type = self.headers.get("content-type", "")
        self.data = None if record.answer is None else record.answer.encode()


class Contract:
    """The operations of one service.

    `root` is the part of the path between the server and what the document's paths begin with, `refusal` the schema of
    refusals with a status that the document does not list; `renamed` are patterns of paths that the document has under
    other names.
    """

    def __init__(
        self,
        document: JSON,
        root: str = "",
        refusal: JSON | None = None,
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.document = strict(document, _SERVER + root, refusal or {})
        self.root = root
        self._renamed = renamed or {}
        self._documented = {
            (path, method): set(document["paths"][path][method]["responses"])
            for path, methods in used(document).items()
            for method in methods
        }

    @cached_property
    def _openapi(self) -> OpenAPI:
        return OpenAPI.from_dict(self.document)

    @cached_property
    def _templates(self) -> list[tuple[re.Pattern[str], str]]:
        literal_first = sorted(self.document["paths"], key=lambda path: (path.count("{"), -len(path)))
        return [(re.compile(re.sub(r"\\\{[^/}]+\\\}", "[^/]+", re.escape(path))), path) for path in literal_first]

    def operation_of(self, record: Record) -> str | None:
        """Return method and path template of what was asked; None when the document has no such operation."""
        asked = self._path(record)
        for pattern, path in self._templates:
            if pattern.fullmatch(asked) and record.method.lower() in self.document["paths"][path]:
                return f"{record.method} {path}"
        return None

    def _path(self, record: Record) -> str:
        path = record.path
        for pattern, name in self._renamed.items():
            path = re.sub(pattern, name, path)
        return path

    def violations(self, record: Record) -> list[str]:
        """Say what in an exchange is not as the document says, the place first."""
        name = self.operation_of(record)
        if name is None:
            return ["request: no such operation"]
        if record.answer is not None and "stream+json" in record.answer_headers.get("content-type", ""):
            kind = {"content-type": "application/json"}
            lines = [replace(record, answer=line, answer_headers=kind) for line in record.answer.splitlines()]
            return [violation for line in lines for violation in self.violations(line)]
        path, method = name.partition(" ")[2], record.method.lower()
        operation = self._operation(path, method)
        request = _Request(replace(record, path=self._path(record)), self.root)
        found = [*self._undocumented(record, operation), *_said("request", self._openapi.iter_request_errors(request))]
        if record.emulated and record.status < 400:
            return found  # wrong on purpose
        documented = self._documented[path, method] & {str(record.status), f"{record.status // 100}XX", "default"}
        if not documented and not record.emulated:
            found.append(f"answer: status {record.status}")
        if not documented and record.status < 400:
            return found
        return [*found, *_said("answer", self._openapi.iter_response_errors(request, _Response(record)))]

    def _operation(self, path: str, method: str) -> JSON:
        item = self.document["paths"][path]
        operation = item[method]
        return operation | {"parameters": [*item.get("parameters", []), *operation.get("parameters", [])]}

    def _undocumented(self, record: Record, operation: JSON) -> Iterator[str]:
        """Yield what was sent that the document does not speak of, which openapi-core passes over."""
        parameters = [self._parameter(each) for each in operation["parameters"]]
        known = {each["name"].removesuffix("[]") for each in parameters if each["in"] == "query"}
        for name in dict(parse_qsl(record.query, keep_blank_values=True)):
            if name.partition("[")[0] not in known:
                yield f"request.query: {name} is not a parameter"
        if record.body is not None and "requestBody" not in operation:
            yield "request: a body"
        elif record.headers.get("content-type", "").startswith(_FORM):
            members = operation["requestBody"]["content"][_FORM]["schema"]["properties"]
            for name in dict(parse_qsl(record.body or "", keep_blank_values=True)):
                if name not in members:
                    yield f"request.body: {name} is not in the form"

    def _parameter(self, parameter: JSON) -> JSON:
        reference = parameter.get("$ref", "")
        return self.document["components"]["parameters"][reference.rpartition("/")[2]] if reference else parameter


def _said(side: str, errors: Iterator[Exception]) -> Iterator[str]:
    for error in errors:
        causes = list(_schema_errors(error))
        if causes:
            yield from (f"{side}{_place(cause)}: {_message(cause)}" for cause in causes)
        else:
            yield f"{side}: {error}"


def _schema_errors(error: BaseException) -> Iterator[ValidationError]:
    cause: Any = error
    while cause is not None:
        for each in getattr(cause, "schema_errors", ()):
            yield from _leaves(each)
        cause = cause.__cause__


def _leaves(error: ValidationError) -> list[ValidationError]:
    """Return what is wrong, and where no alternative fits, what is in the one that comes closest."""
    if not error.context or error.validator not in {"anyOf", "oneOf"}:
        return [error]
    alternatives: dict[Any, list[ValidationError]] = {}
    for each in error.context:
        alternatives.setdefault(each.schema_path[0], []).extend(_leaves(each))

    def distance(leaves: list[ValidationError]) -> tuple[bool, int]:
        here = error.absolute_path
        return any(each.validator == "type" and each.absolute_path == here for each in leaves), len(leaves)

    return min(alternatives.values(), key=distance)


def _place(error: ValidationError) -> str:
    return "".join("[]" if isinstance(each, int) else f".{each}" for each in error.absolute_path)


def _message(error: ValidationError) -> str:
    return error.message if len(error.message) < 300 else f"{error.message[:300]}..."

"""Smoke tests: a few requests that tell whether a release works, kept in the application's own repository.

Source: runbook, "Manual Verification" (`npm run test:smoke`).
"""

from __future__ import annotations

import json
import tomllib
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, ValidationInfo, field_validator

from runbook.errors import InvalidInputError


class SmokeTest(BaseModel):
    """One request and what its answer has to be.

    With `visible` the page is opened in a browser, too, and has to show that text once its scripts have run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)

    name: str
    method: Literal["GET", "POST", "PUT", "DELETE"] = "GET"
    path: str = Field(pattern=r"^/[^\s\x00-\x1f\x7f]*$")
    body: dict[str, JsonValue] | None = None
    status: int = Field(default=200, ge=100, le=599)
    expected: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue], alias="json")
    contains: str | None = None
    visible: str | None = Field(default=None, min_length=1)

    # Not a validator of the whole model: below one pydantic 2.14 forgets `allow_inf_nan` for what is in `body`.
    @field_validator("visible")
    @classmethod
    def _is_of_a_page(cls, visible: str | None, info: ValidationInfo) -> str | None:
        if visible is not None and (info.data.get("method"), info.data.get("status")) != ("GET", 200):
            raise ValueError("it is for a page: method GET and status 200")
        return visible

    def problem(self, status: int | None, text: str) -> str | None:
        """Say what is wrong with an answer, or None when it is as expected."""
        if status != self.status:
            return f"answered {status}, expected {self.status}"
        if self.contains is not None and self.contains not in text:
            return f"the answer does not contain {self.contains!r}"
        if self.expected:
            try:
                found = json.loads(text)
            except (ValueError, RecursionError):
                return "the answer is not JSON"
            if not isinstance(found, dict):
                return "the answer is not a JSON object"
            values = cast("dict[str, Any]", found)
            wrong = [key for key, value in self.expected.items() if values.get(key) != value]
            if wrong:
                return f"other values than expected for {', '.join(wrong)}"
        return None


class _SmokeFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    request: tuple[SmokeTest, ...] = Field(min_length=1)


def parse_smoke_tests(text: str, name: str) -> tuple[SmokeTest, ...]:
    """Read a smoke file: TOML with one `[[request]]` table a request.

    Raises:
        InvalidInputError: it is not TOML, holds no request, or a field is unknown or not acceptable.
    """
    try:
        return _SmokeFile.model_validate(tomllib.loads(text)).request
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError("smoke file", f"{name}: {where}", first["msg"], "Mend the file.") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or deep nesting, is no TOML error
        raise InvalidInputError("smoke file", name, "valid TOML", f"Mend the file: {error}") from error

"""What is unsafe in a migration, by the rules of squawk and by what destroys rows."""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """What a finding of a lint rule does: ERROR refuses, WARNING is shown, OFF is not looked for."""

    ERROR = "error"
    WARNING = "warning"
    OFF = "off"

"""Errors in a log, grouped by what they have in common.

A signature holds no number, no quoted text and nothing that looks like a secret: it may be shown to everybody.

Source: runbook, "What to Monitor (First 30 Minutes)" (Error Logs).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime

_LENGTH = 200
_ERRORS = frozenset({"error", "critical", "fatal", "emergency", "alert", "panic"})
_SECRETS = "password|passwd|pwd|secret|token|api[_-]?key|authorization|cookie"
# In this order: what is whole to a reader goes before its parts do.
_VALUES = (
    (re.compile(r"(?i)\b(bearer|basic)\s+\S+"), r"\1 ?"),
    (re.compile(rf"(?i)([\w-]*(?:{_SECRETS}))(\"?\s*[=:]\s*)[^\s,;]+"), r"\1\2?"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s'\"]+"), r"\1?"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"), "?"),
    (re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`"), "?"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "?"),
    (re.compile(r"\b0x[0-9a-fA-F]+\b"), "?"),
    (re.compile(r"\b(?=[\w+/=-]*\d)[\w+/=-]{16,}"), "?"),
    (re.compile(r"\b(?=[0-9a-fA-F]*\d)[0-9a-fA-F]{7,}\b"), "?"),
    (re.compile(r"\d+(?:[.:,]\d+)*"), "?"),
)  # fmt: skip


@dataclass(frozen=True)
class ErrorGroup:
    """Errors of one signature: how many, the first and the last of them."""

    signature: str
    count: int
    first_at: datetime
    last_at: datetime


def is_error(level: str) -> bool:
    """Return whether a line of this level (in any case) is an error."""
    return level.lower() in _ERRORS


def signature(message: str) -> str:
    """Return the first line of a message, cut and with `?` for each value; the same for errors of the same kind."""
    text = next((line.strip() for line in message.splitlines() if line.strip()), "")[: 4 * _LENGTH]
    for pattern, by in _VALUES:
        text = pattern.sub(by, text)
    return text[:_LENGTH]


def group_errors(lines: Iterable[tuple[datetime, str, str]]) -> list[ErrorGroup]:
    """Return the errors among lines (time, level, message) by signature, most frequent first."""
    groups: dict[str, ErrorGroup] = {}
    for at, level, message in lines:
        if not is_error(level):
            continue
        name = signature(message)
        known = groups.get(name, ErrorGroup(name, 0, at, at))
        first, last = min(known.first_at, at), max(known.last_at, at)
        groups[name] = replace(known, count=known.count + 1, first_at=first, last_at=last)
    return sorted(groups.values(), key=lambda group: (-group.count, group.signature))

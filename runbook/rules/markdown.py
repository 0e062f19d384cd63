"""Texts of people and of services put into markdown, of which it makes nothing but those texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime

# An underscore inside a word marks nothing up; left alone, names of databases can be copied.
_MARKUP = re.compile(r"[\\`*\[\]<>#|~&!]|(?<![^\W_])_|_(?![^\W_])")


def safe(text: str) -> str:
    """Return a text on one line of which markdown makes nothing but that text; it has to begin with a word of ours."""
    return _MARKUP.sub(r"\\\g<0>", one_line(text))


def one_line(text: str) -> str:
    """Return a text on one line, without characters that are not to be seen."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def utc(at: datetime) -> str:
    """Return a time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def section(title: str, lines: Sequence[str]) -> list[str]:
    """Return a section with its heading of the second level."""
    return ["", f"## {title}", "", *lines]


def subsection(title: str, lines: Sequence[str]) -> list[str]:
    """Return a section with its heading of the third level."""
    return ["", f"### {title}", "", *lines]


def bullets(texts: Sequence[str]) -> list[str]:
    """Return a list."""
    return [f"- {safe(text)}" for text in texts]


def boxes(texts: Sequence[str]) -> list[str]:
    """Return a list of what is to be ticked."""
    return [f"- [ ] {safe(text)}" for text in texts]

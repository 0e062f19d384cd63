"""The environment variables of the application: whether they are there, and whether their values can be meant.

A value is looked at where it is, by the client of the host; what leaves it is a length and a few words.

Source: runbook, "Required Environment Variables".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

from runbook.rules.checklist import Check, Outcome

_CRITICAL = (
    ("DATABASE_URL", "Production database connection string", 1),
    ("NEXTAUTH_SECRET", "Authentication secret (min 32 chars)", 32),
    ("NEXTAUTH_URL", "Production URL", 1),
    ("JWT_SECRET", "JWT signing key", 1),
)
_OPTIONAL = (
    ("ANTHROPIC_API_KEY", "AI features"),
    ("OPENAI_API_KEY", "AI features"),
    ("SLACK_WEBHOOK_URL", "Notifications"),
)
_SECRETS = ("NEXTAUTH_SECRET", "JWT_SECRET")
_URLS = {"NEXTAUTH_URL": ("http", "https"), "SLACK_WEBHOOK_URL": ("https",)}
_PREFIXES = {"ANTHROPIC_API_KEY": "sk-ant-", "OPENAI_API_KEY": "sk-"}
_PLACEHOLDER = re.compile(
    r"change[-_ ]?(?:me|this|it)|replace[-_ ]?(?:me|this)|your[-_ ]|placeholder|example\.(?:com|org|net)|"
    r"\bto[-_ ]?do\b|\bfixme\b|x{6}|<[^>]*>|\$\{|\{\{|^\W*$",
    re.IGNORECASE,
)
_LOG10_GUESSES = 25
"""A random value of 32 hexadecimal digits takes more than 10^27 guesses, a sentence of five words fewer than this."""
_EXAMINED = 128


class Flaw(StrEnum):
    """What is wrong with a value; the text says it."""

    PLACEHOLDER = "it looks like a placeholder"
    SHAPE = "it does not have the form of such a value"
    WEAK = "it can be guessed"
    PLAIN_HTTP = "it is not https"
    SHARED = "another secret has the same value"
    READABLE = "the host stores it readable for everybody in the project"


_DISABLING = (Flaw.PLACEHOLDER, Flaw.SHAPE)
_ACTIONS = {
    Flaw.PLACEHOLDER: "Set {name} to a value of its own.",
    Flaw.SHAPE: "Mend {name}: {shape}.",
    Flaw.WEAK: "Set {name} to a random value: `openssl rand -base64 32`.",
    Flaw.PLAIN_HTTP: "Set {name} to the https address.",
    Flaw.SHARED: "Give {name} a value of its own, so that who knows one does not know both.",
    Flaw.READABLE: "Store {name} as a sensitive variable.",
}
_SHAPES = {
    "DATABASE_URL": "postgresql://user:password@host/database",
    "NEXTAUTH_URL": "https://host",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.com/...",
    **{name: f"{prefix}..." for name, prefix in _PREFIXES.items()},
}


@dataclass(frozen=True)
class Variable:
    """What may be told of a variable; `length` in characters, None where the host does not tell."""

    length: int | None
    flaws: tuple[Flaw, ...] = ()


def examine(values: Mapping[str, str]) -> dict[str, Variable]:
    """Return what may be told of variables whose values are known; the values are not kept."""
    shared = {name for name in _SECRETS for other in _SECRETS if name != other and _same(values, name, other)}
    return {
        name: Variable(len(value), (*_flaws(name, value), *((Flaw.SHARED,) if name in shared else ())))
        for name, value in values.items()
    }


def is_secret(name: str) -> bool:
    """Return whether a variable of the runbook is not for everybody to read."""
    return name != "NEXTAUTH_URL" and any(name == known for known, *_ in (*_CRITICAL, *_OPTIONAL))


def required_variables(found: Mapping[str, Variable]) -> list[Check]:
    """Return one check for each variable of the runbook, critical ones first, in its order.

    A critical variable that is missing, empty, too short, a placeholder or not of its form fails; one of unknown length
    could not be checked, which stops nothing. An optional one, and one that could be better, warns.

    Source: runbook, "Required Environment Variables".
    """
    return [_critical(name, meaning, least, found.get(name)) for name, meaning, least in _CRITICAL] + [
        _optional(name, meaning, found.get(name)) for name, meaning in _OPTIONAL
    ]


def _critical(name: str, meaning: str, least: int, found: Variable | None) -> Check:
    if found is None or found.length == 0:
        return Check(name, Outcome.FAILED, f"{meaning}: {'empty' if found else 'not set'}", f"Set {name}.")
    if found.length is not None and found.length < least:
        detail = f"{meaning}: {found.length} characters, at least {least} are needed"
        return Check(name, Outcome.FAILED, detail, f"Set {name} to at least {least} characters.")
    if found.flaws:
        outcome = Outcome.FAILED if any(flaw in _DISABLING for flaw in found.flaws) else Outcome.WARNING
        return _flawed(name, meaning, found, outcome)
    if found.length is None:
        detail = f"{meaning}: set; the host does not tell whether it has the {least} characters that are needed"
        return Check(name, Outcome.COULD_NOT_RUN, detail, is_needed=False)
    return Check(name, Outcome.PASSED, f"{meaning}: set")


def _optional(name: str, meaning: str, found: Variable | None) -> Check:
    if found is None or found.length == 0:
        detail = f"{meaning}: {'empty' if found else 'not set'}"
        return Check(name, Outcome.WARNING, detail, f"Set {name}, or accept to go without: {meaning}.")
    if found.flaws:
        return _flawed(name, meaning, found, Outcome.WARNING)
    return Check(name, Outcome.PASSED, f"{meaning}: set")


def _flawed(name: str, meaning: str, found: Variable, outcome: Outcome) -> Check:
    actions = [_ACTIONS[flaw].format(name=name, shape=_SHAPES.get(name, "")) for flaw in found.flaws]
    return Check(name, outcome, f"{meaning}: {', '.join(found.flaws)}", " ".join(actions))


def _flaws(name: str, value: str) -> list[Flaw]:
    if not value:
        return []
    if _PLACEHOLDER.search(value):
        return [Flaw.PLACEHOLDER]
    if not _has_its_form(name, value):
        return [Flaw.SHAPE]
    if name in _SECRETS and _guesses_log10(value) < _LOG10_GUESSES:
        return [Flaw.WEAK]
    if name == "NEXTAUTH_URL" and value.startswith("http:") and not _is_loopback(urlsplit(value).hostname or ""):
        return [Flaw.PLAIN_HTTP]
    return []


def _has_its_form(name: str, value: str) -> bool:
    if prefix := _PREFIXES.get(name):
        return value.startswith(prefix) and not re.search(r"\s", value)
    try:
        parts = urlsplit(value)
    except ValueError:
        return name not in _URLS and name != "DATABASE_URL"
    if name == "DATABASE_URL":
        return parts.scheme in ("postgres", "postgresql") and bool(parts.hostname) and len(parts.path) > 1
    if schemes := _URLS.get(name):
        return parts.scheme in schemes and bool(parts.hostname)
    return True


def _guesses_log10(value: str) -> float:
    from zxcvbn import zxcvbn  # reads its dictionaries when imported

    return float(zxcvbn(value[:_EXAMINED], max_length=_EXAMINED)["guesses_log10"])


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _same(values: Mapping[str, str], name: str, other: str) -> bool:
    return bool(values.get(name)) and values.get(name) == values.get(other)

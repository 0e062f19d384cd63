"""What kind of errors are in a log, and which of them a release has brought.

Source: runbook, "What to Monitor (First 30 Minutes)": "Application errors", "Database errors", "Authentication
failures".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from runbook.rules.error_signatures import ErrorGroup


class ErrorKind(StrEnum):
    """What an error is about."""

    APPLICATION = "application"
    DATABASE = "database"
    AUTHENTICATION = "authentication"


# What drivers, ORMs and servers call their errors; names of classes and of SQLSTATE conditions, not of applications.
_DATABASE = re.compile(
    r"(?i)\b(database|postgres\w*|psycopg\w*|pg|sql\w*|sqlstate|prisma\w*|drizzle|sequelize|typeorm|deadlock"
    r"|too many connections|connection pool|operationalerror|integrityerror|programmingerror"
    r"|undefined(table|column)|uniqueviolation|\w*violation|(column|relation|table) \S+ does not exist)\b"
)
_AUTHENTICATION = re.compile(
    r"(?i)(\bauth(en|or|n|z)?\b|\bauth(enticat|oriz|oris)\w*|\bunauthori[sz]ed\b|\blog[- ]?in\b|\bsign[- ]?in\b|\bjwt\b"
    r"|\bjsonwebtoken\w*|\btoken(expired)?\b|\bnextauth\w*|\bsession (expired|invalid|not found)|\bcsrf\b|\boauth\w*"
    r"|\binvalid (credentials|signature)\b)"
)


@dataclass(frozen=True)
class LogFinding:
    """Errors of one signature since a release got the traffic; `is_new` is None where that is not known."""

    kind: ErrorKind
    group: ErrorGroup
    is_new: bool | None


def kind_of(signature: str) -> ErrorKind:
    """Return what an error is about, by its words; one that names the database is about the database."""
    if _DATABASE.search(signature):
        return ErrorKind.DATABASE
    return ErrorKind.AUTHENTICATION if _AUTHENTICATION.search(signature) else ErrorKind.APPLICATION


def log_findings(groups: Sequence[ErrorGroup], known: Collection[str] | None) -> tuple[LogFinding, ...]:
    """Return errors with what they are about, those that are new first, then by how many.

    Args:
        groups: the errors since the release got the traffic.
        known: the signatures in the log of what ran before; None where it cannot be read.
    """
    found = [
        LogFinding(kind_of(one.signature), one, None if known is None else one.signature not in known) for one in groups
    ]
    return tuple(sorted(found, key=lambda one: (one.is_new is False, -one.group.count, one.group.signature)))

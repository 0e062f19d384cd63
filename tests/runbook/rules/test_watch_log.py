from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runbook.rules.error_signatures import ErrorGroup, signature
from runbook.rules.watch_log import ErrorKind, kind_of, log_findings

AT = datetime(2025, 1, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("psycopg.errors.UndefinedColumn: column orders.channel does not exist", ErrorKind.DATABASE),
        ("PrismaClientKnownRequestError: Unique constraint failed", ErrorKind.DATABASE),
        ("Prisma: Can't reach database server", ErrorKind.DATABASE),
        ("deadlock detected", ErrorKind.DATABASE),
        ("FATAL: too many connections for role shop", ErrorKind.DATABASE),
        ("[next-auth][error][JWT_SESSION_ERROR] decryption failed", ErrorKind.AUTHENTICATION),
        ("JsonWebTokenError: invalid signature", ErrorKind.AUTHENTICATION),
        ("login failed for user 7", ErrorKind.AUTHENTICATION),
        ("TypeError: Cannot read properties of undefined (reading 'name')", ErrorKind.APPLICATION),
        ("ValueError: not enough values to unpack", ErrorKind.APPLICATION),
        ("authored page could not be rendered", ErrorKind.APPLICATION),
    ],
)
def test_an_error_is_about_what_its_words_say(message: str, kind: ErrorKind) -> None:
    assert kind_of(signature(message)) is kind


def test_what_is_new_comes_first() -> None:
    groups = [ErrorGroup("old", 9, AT, AT), ErrorGroup("new", 2, AT, AT), ErrorGroup("newer", 3, AT, AT)]
    found = [(one.group.signature, one.is_new) for one in log_findings(groups, {"old"})]
    assert found == [("newer", True), ("new", True), ("old", False)]
    assert {one.is_new for one in log_findings(groups, None)} == {None}

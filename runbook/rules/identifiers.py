"""Names that arrive from outside: environments, backup ids, git refs. Checked before they touch a path or a command."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath

from runbook.errors import InvalidInputError

_BACKUP_ID = re.compile(r"backup_([0-9]{4})([0-9]{2})([0-9]{2})_([0-9]{2})([0-9]{2})([0-9]{2})")
_INCIDENT = re.compile(r"inc_[0-9]{8}_[0-9]{6}_[0-9]{6}")
_ENVIRONMENT = re.compile(r"[a-z][a-z0-9-]{0,30}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_$-]*")

_GIT_REF_MAX_BYTES = 255
_IDENTIFIER_MAX_BYTES = 63
_GIT_FORBIDDEN = ("..", "~", "^", ":", "?", "*", "[", "\\", "@{", "//", "/.")


def new_backup_id(now: datetime) -> str:
    """Return the id of a backup taken at `now`: `backup_YYYYMMDD_HHMMSS` in UTC, whole seconds, cut off.

    Raises:
        ValueError: `now` has no time zone.

    Source: runbook, "Full Rollback" (`--backup-id=backup_20250104_120000`).
    """
    if now.utcoffset() is None:
        raise ValueError(f"a backup id needs an aware time, got {now.isoformat()} without a time zone")
    at = now.astimezone(UTC)
    return f"backup_{at.year:04d}{at.month:02d}{at.day:02d}_{at.hour:02d}{at.minute:02d}{at.second:02d}"


def time_stamp(now: datetime) -> str:
    """Return a time as it is in names: `YYYYMMDD_HHMMSS_ffffff`, UTC."""
    return f"{now.astimezone(UTC):%Y%m%d_%H%M%S_%f}"


def backup_taken_at(backup_id: str) -> datetime:
    """Return when the backup was taken, aware UTC, whole seconds.

    Raises:
        InvalidInputError: not exactly `backup_YYYYMMDD_HHMMSS`, or no such date or time.

    Source: runbook, "Full Rollback" (`--backup-id=backup_20250104_120000`).
    """
    match = _BACKUP_ID.fullmatch(backup_id)
    if match is not None:
        year, month, day, hour, minute, second = (int(part) for part in match.groups())
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            pass
    raise InvalidInputError(
        "backup_id",
        backup_id,
        "backup_YYYYMMDD_HHMMSS with a real date and time in UTC, such as backup_20250104_120000",
        "List the backups with `runbook db:backups`.",
    )


def check_backup_id(text: str) -> str:
    """Return `text` unchanged when it is a backup id; it is then safe as a part of a path.

    Raises:
        InvalidInputError: not exactly `backup_YYYYMMDD_HHMMSS`, or no such date or time.

    Source: runbook, "Full Rollback" (`--backup-id=backup_20250104_120000`).
    """
    backup_taken_at(text)
    return text


def check_incident_id(text: str) -> str:
    """Return `text` unchanged when it is the id of an incident; it is then safe as a part of a path.

    Raises:
        InvalidInputError: anything else.
    """
    if _INCIDENT.fullmatch(text) is None:
        raise InvalidInputError(
            "incident", text, "an id such as inc_20250104_120000_000000", "List them with `runbook incident:show`."
        )
    return text


def check_environment_name(text: str) -> str:
    """Return `text` unchanged when it names an environment: 1 to 31 of `a-z0-9-`, the first one a letter.

    Raises:
        InvalidInputError: anything else.

    Source: runbook, "Automated Checks" (`--environment=staging`, `--environment=production`).
    """
    if _ENVIRONMENT.fullmatch(text) is None:
        raise InvalidInputError(
            "environment",
            text,
            "1 to 31 of a-z, 0-9 and '-', the first one a letter",
            "Use the name of an environment, such as staging or production.",
        )
    return text


def check_git_ref(text: str) -> str:
    """Return `text` unchanged when it is a commit, a tag or a branch (`origin/main`); at most 255 bytes.

    Revision expressions (`HEAD~1`, `main@{1}`) are refused: what they mean changes from hour to hour.

    Raises:
        InvalidInputError: anything that `git check-ref-format` refuses, or that a command could read as an option.

    Source: git-check-ref-format(1): "They cannot have ASCII control characters (...), space, tilde ~, caret ^, or
    colon : anywhere", "cannot have two consecutive dots .. anywhere", "cannot have question-mark ?, asterisk *, or
    open bracket [", "cannot begin or end with a slash / or contain multiple consecutive slashes", "cannot end with
    a dot .", "cannot contain a sequence @{", "cannot be the single character @", no backslash "anywhere", no component
    "can begin with a dot . or end with the sequence .lock".
    """
    refused = (
        text in {"", "@"}
        or text.startswith(("-", "/", "."))
        or text.endswith(("/", "."))
        or any(part.endswith(".lock") for part in text.split("/"))
        or any(part in text for part in _GIT_FORBIDDEN)
        or any(character.isspace() or not character.isprintable() for character in text)
        or len(text.encode()) > _GIT_REF_MAX_BYTES
    )
    if refused:
        raise InvalidInputError(
            "git_ref",
            text,
            f"a commit, tag or branch as `git check-ref-format` allows it, at most {_GIT_REF_MAX_BYTES} bytes",
            "Give a commit id, a tag or a branch, such as origin/main.",
        )
    return text


def check_file_name(text: str) -> str:
    """Return `text` unchanged when it is a relative path of plain names, safe to join to a folder or a key.

    Raises:
        InvalidInputError: it is absolute, has `..` or an empty part, or a character that no file of a backup has.
    """
    if _FILE_NAME.fullmatch(text) is None:
        raise InvalidInputError(
            "file name",
            text,
            "a relative path of A-Z, a-z, 0-9, '.', '_' and '-', no part beginning with '.' or '-'",
            "A manifest that names such a file was not written by the runbook.",
        )
    return text


def check_relative_pattern(text: str) -> str:
    """Return `text` unchanged when it is empty, or a pattern of files (`reports/*.xml`) that stays below its folder.

    Raises:
        InvalidInputError: it is absolute, has `..` as a part, or is no pattern.
    """
    parts = PurePosixPath(text).parts
    if text and (text.startswith("/") or ".." in parts or not parts or "\0" in text):
        raise InvalidInputError(
            "pattern", text, "a relative path in the checkout, with * and ** if need be", "Such as reports/*.xml."
        )
    return text


def check_recipient(text: str) -> str:
    """Return `text` unchanged when it has the form of an age public key.

    Raises:
        InvalidInputError: anything else; a secret key is not shown.

    Source: https://age-encryption.org/v1 (recipients are Bech32 with the prefix `age`).
    """
    if _RECIPIENT.fullmatch(text) is None:
        shown = "(an age secret key, not shown)" if text.upper().startswith("AGE-SECRET-KEY-") else text
        raise InvalidInputError(
            "recipients",
            shown,
            "an age public key: `age1` and 58 letters and digits",
            "Make a key pair with `age-keygen`, keep the secret key elsewhere and give the public one.",
        )
    return text


def check_identifier(text: str, field: str) -> str:
    """Return `text` unchanged when it can name a database, role or schema; `field` is the input's name in the error.

    1 to 63 bytes; letters, digits, `_`, `$` and `-`, the first one a letter or `_`. Still quote it in SQL.

    Raises:
        InvalidInputError: anything else.

    Source: PostgreSQL manual, "Lexical Structure", Identifiers and Key Words: "the maximum identifier length is
    63 bytes".
    """
    if _IDENTIFIER.fullmatch(text) is None or len(text) > _IDENTIFIER_MAX_BYTES:
        raise InvalidInputError(
            field,
            text,
            f"1 to {_IDENTIFIER_MAX_BYTES} of A-Z, a-z, 0-9, '_', '$' and '-', the first one a letter or '_'",
            "Use the name as the database lists it (`\\l` in psql).",
        )
    return text

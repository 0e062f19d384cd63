"""Has a migration been edited since it was applied, and does it matter?

Kept are the hash of the file as it is, and one without comments and white space.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

from runbook.errors import InvalidInputError
from runbook.rules.sql import essence


class Drift(StrEnum):
    """What became of a file since it was applied. UNKNOWN: the recorded checksum is of a kind that is not known."""

    SAME = "same"
    COSMETIC = "cosmetic"
    EDITED = "edited"
    UNKNOWN = "unknown"


_HASHES = {64: hashlib.sha256, 40: hashlib.sha1, 32: hashlib.md5}


def checksum(text: str) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def normalised_checksum(text: str) -> str:
    """Return the sha256 of a file without comments and without white space outside strings, in hex."""
    try:
        return checksum(essence(text))
    except InvalidInputError:  # what cannot be read as SQL has only line ends to lose
        return checksum("\n".join(line.rstrip() for line in text.removeprefix("\ufeff").split("\n")))


def drift(text: str, recorded: str | None, recorded_normalised: str | None) -> Drift:
    """Compare a file with the checksums in the history; sha256, sha1 and md5 in hex are known.

    Source: runbook, "Stage 4: Database Migration" ("Pre-migration validation").
    """
    if recorded_normalised and recorded_normalised == normalised_checksum(text):
        return Drift.SAME if recorded == checksum(text) else Drift.COSMETIC
    digest = _HASHES.get(len(recorded or ""))
    if recorded is None or digest is None or not set(recorded.lower()) <= set("0123456789abcdef"):
        return Drift.EDITED if recorded_normalised else Drift.UNKNOWN
    unix = text.replace("\r\n", "\n").removeprefix("\ufeff")
    forms = (text, unix, unix.replace("\n", "\r\n"), unix.rstrip("\n"), f"{unix}\n", f"\ufeff{unix}")
    matches = [digest(form.encode()).hexdigest() == recorded.lower() for form in forms]
    if matches[0]:
        return Drift.SAME
    return Drift.COSMETIC if any(matches) else Drift.EDITED

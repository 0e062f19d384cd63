"""The journal of a run: what it was about to do to an environment, and how that ended.

One JSON file an entry, in the backup store: `journal/<environment>/<run>/0001.json`, `0002.json`, ... Nothing is ever
changed or deleted in it, and an entry's file can only be created once, so of two writers one wins.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue


class EntryKind(StrEnum):
    """What an entry says.

    `begun`: the run begins; `intent`: an effect is about to happen; `done`, `failed`: how it ended, as far as its run
    knows; `undone`: it was taken back; `passed`: from here on a run that dies is finished, not undone; `taken-over`:
    another run goes on with this journal, and the one before writes nothing any more; `ended`: nothing is left to do.
    """

    BEGUN = "begun"
    INTENT = "intent"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"
    PASSED = "passed"
    TAKEN_OVER = "taken-over"
    ENDED = "ended"


class Effect(StrEnum):
    """What a run does to an environment, each with what is needed to take it back in the entry's `detail`."""

    BACKUP = "backup"
    COPY = "copy"
    MIGRATE = "migrate"
    STAGE = "stage"
    PROMOTE = "promote"
    SWAP = "swap"
    ROLL_BACK_APPLICATION = "roll-back-application"
    HOLD = "hold"
    DROP = "drop"


class Entry(BaseModel):
    """One line of a journal. `number` counts from 1; `intent` is the number of the intent that this entry is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: str
    number: int = Field(ge=1)
    at: AwareDatetime
    token: int = Field(ge=1, description="Of the environment's lock, when it was written.")
    kind: EntryKind
    effect: Effect | None = None
    intent: int | None = None
    detail: dict[str, JsonValue] = Field(default={})


def open_intents(entries: list[Entry]) -> list[Entry]:
    """Return the intents that may have had an effect and were not taken back, in the order they were written.

    One that failed is among them: how far it came only a look at the world can say.
    """
    undone = {entry.intent for entry in entries if entry.kind is EntryKind.UNDONE}
    return [entry for entry in entries if entry.kind is EntryKind.INTENT and entry.number not in undone]

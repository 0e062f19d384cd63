"""The journal of a run, in a folder: durable, readable, and nobody writes in another's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runbook.clients.folder_store import FolderStore
from runbook.clients.journals import Journal
from runbook.clients.object_store import ObjectExistsError
from runbook.errors import LostLockError, RejectedError, StageError
from runbook.journal import Effect, EntryKind

RUN = "rollback_20250104_120000_000000"


def journal(root: Path, token: int = 1) -> Journal:
    return Journal(FolderStore(root), "production", RUN, token=token, require=lambda: None)


def kinds(written: Journal) -> list[str]:
    return [str(entry.kind) for entry in written.entries]


def test_the_intent_is_in_the_store_before_the_effect_and_the_outcome_after(tmp_path: Path) -> None:
    written = journal(tmp_path)
    written.write(EntryKind.BEGUN, detail={"scope": "full"})
    with written.effect(Effect.SWAP, restored="shop_restored"):
        assert kinds(journal(tmp_path)) == ["begun", "intent"]
    with pytest.raises(StageError), written.effect(Effect.ROLL_BACK_APPLICATION):
        raise StageError("no answer")
    again = journal(tmp_path)
    assert kinds(again) == ["begun", "intent", "done", "intent", "failed"]
    assert [intent.effect for intent in again.open_intents()] == [Effect.SWAP, Effect.ROLL_BACK_APPLICATION]
    again.undone(again.open_intents()[1])
    assert [intent.effect for intent in journal(tmp_path).open_intents()] == [Effect.SWAP]
    assert not again.has_ended
    again.end("VERIFIED")
    assert journal(tmp_path).has_ended


def test_an_entry_can_be_read_without_this_project(tmp_path: Path) -> None:
    with journal(tmp_path).effect(Effect.SWAP, restored="shop_restored"):
        pass
    entry = json.loads((tmp_path / "journal" / "production" / RUN / "0001.json").read_text())
    assert (entry["kind"], entry["effect"], entry["detail"]) == ("intent", "swap", {"restored": "shop_restored"})


def test_a_run_that_was_taken_over_does_nothing_any_more(tmp_path: Path) -> None:
    slow = journal(tmp_path)
    slow.write(EntryKind.BEGUN)
    journal(tmp_path, token=2).write(EntryKind.TAKEN_OVER)
    with pytest.raises(LostLockError, match="another run has taken over"), slow.effect(Effect.SWAP):
        pytest.fail("the effect happened all the same")


def test_a_lost_lock_stops_an_effect_before_its_intent(tmp_path: Path) -> None:
    def lost() -> None:
        raise LostLockError("lost")

    written = Journal(FolderStore(tmp_path), "production", RUN, token=1, require=lost)
    with pytest.raises(LostLockError), written.effect(Effect.SWAP):
        pytest.fail("the effect happened all the same")
    assert not written.has_begun


class _Answerless(FolderStore):
    """A store whose answer to the first `create` is lost, and which then is asked again."""

    def create(self, key: str, data: bytes, *, protected: bool = False) -> None:
        super().create(key, data, protected=protected)
        raise ObjectExistsError("it is there already")


def test_an_answer_that_was_lost_is_not_taken_for_another_writer(tmp_path: Path) -> None:
    written = Journal(_Answerless(tmp_path), "production", RUN, token=1, require=lambda: None)
    written.write(EntryKind.BEGUN)
    assert kinds(journal(tmp_path)) == ["begun"]


@pytest.mark.parametrize("damage", ["cut", "missing", "of another run"])
def test_a_damaged_journal_is_refused(tmp_path: Path, damage: str) -> None:
    written = journal(tmp_path)
    written.write(EntryKind.BEGUN)
    written.write(EntryKind.PASSED)
    path = tmp_path / "journal" / "production" / RUN / "0001.json"
    if damage == "cut":
        path.write_text(path.read_text()[:20])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text().replace(RUN, "deploy_1"))
    with pytest.raises(RejectedError, match="journal"):
        journal(tmp_path)

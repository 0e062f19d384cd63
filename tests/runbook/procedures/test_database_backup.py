"""A backup on its own: made, proven, copied; people hear of it when one of the three fails."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from runbook.connections import Connections
from runbook.errors import StageError
from runbook.manifest import BackupManifest, VerificationLevel
from runbook.procedures.database_backup import BackupStages, database_backup
from tests.runbook.manifests import manifest


@dataclass
class Stages:
    """The stages, one of which may fail; what was done is kept in order."""

    broken: str = ""
    done: list[str] = field(default_factory=list[str])
    told: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    def act(self, step: str) -> None:
        if step == self.broken:
            raise StageError(f"{step} is broken")
        self.done.append(step)

    def create_backup(self, _: Connections, *, reason: str, triggered_by: str) -> BackupManifest:
        self.act("made")
        return manifest(reason=reason, triggered_by=triggered_by)

    def verify_backup(self, _: Connections, backup_id: str, *, level: VerificationLevel | None) -> BackupManifest:
        self.act(f"proven by {level}")
        return manifest(backup_id)

    def copy_backup(self, _: Connections, backup_id: str) -> str:
        self.act("copied")
        return f"elsewhere/{backup_id}"

    def notify(self, _: Connections, level: str, title: str, text: str) -> tuple[str, ...]:
        self.told.append((level, title, text))
        return ()

    def all(self) -> BackupStages:
        return BackupStages(**{name: getattr(self, name) for name in BackupStages.__dataclass_fields__})


STEPS = ["made", "proven by sample", "copied"]


def run(stages: Stages, connections: Connections) -> BackupManifest:
    level = VerificationLevel.SAMPLE
    return database_backup(connections, reason="test", triggered_by="somebody", level=level, stages=stages.all())


def test_a_backup_is_made_proven_and_copied_in_this_order(connections: Connections) -> None:
    stages = Stages()
    assert run(stages, connections).backup_id == manifest().backup_id
    assert (stages.done, stages.told) == (STEPS, [])


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_ends_the_run_and_is_said_aloud(connections: Connections, step: str) -> None:
    stages = Stages(broken=step)
    with pytest.raises(StageError, match=f"{step} is broken"):
        run(stages, connections)
    assert stages.done == STEPS[: STEPS.index(step)]
    assert stages.told == [("error", "backup of test failed", f"{step} is broken")]

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from runbook.clients.git import Repository
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, StageError
from runbook.procedures.maintenance import (
    MaintenanceReport,
    MaintenanceStages,
    cancel,
    maintenance,
    records_of,
    schedule,
)
from runbook.rules.maintenance import MaintenanceWindow
from runbook.rules.maintenance_queue import Change, ChangeKind, ChangeState, fits, next_change, predicted_s
from runbook.settings import MaintenanceSettings
from tests.runbook.helpers import commit, git
from tests.runbook.surroundings import surrounded


@dataclass
class Site:
    """An environment with a window that is open for two hours more."""

    connections: Connections
    made: list[str] = field(default_factory=list[str])
    told: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    fails: set[ChangeKind] = field(default_factory=set[ChangeKind])
    before: Callable[[], None] = lambda: None

    def approve(self, kind: ChangeKind, **parameters: str) -> Change:
        return schedule(self.connections, kind, parameters, reason="as planned", by="Ada")

    def run(self) -> MaintenanceReport:
        return maintenance(self.connections, MaintenanceStages(dict.fromkeys(ChangeKind, self._make), self._tell))

    def states(self) -> list[ChangeState]:
        return [change.state for change in records_of(self.connections).queue()]

    def _make(self, _: Connections, change: Change) -> str:
        self.before()
        self.made.append(change.kind)
        if change.kind in self.fails:
            raise StageError("it did not work")
        return "it worked"

    def _tell(self, _: Connections, level: str, title: str, text: str) -> tuple[str, ...]:
        self.told.append((level, f"{title}\n{text}"))
        return ()


def with_window(connections: Connections, *, left: timedelta, reserve_s: float = 300) -> Connections:
    """Let a window be open that ends in so much time."""
    start = datetime.now(UTC) + left - timedelta(hours=4)
    window = MaintenanceWindow(start=start.replace(tzinfo=None), duration_s=4 * 3600)
    planned = MaintenanceSettings(windows=(window,), reserve_s=reserve_s)
    return replace(connections, settings=connections.settings.model_copy(update={"maintenance": planned}))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch=main")
    commit(repository, {"README": "x"})
    found = replace(surrounded(tmp_path / "records"), repository=Repository(repository))
    return Site(with_window(found, left=timedelta(hours=2)))


def test_approved_changes_are_made_in_their_order_and_everybody_is_told_at_both_ends(site: Site) -> None:
    for kind, parameters in ((ChangeKind.DEPLOY, {"git_ref": "main"}), (ChangeKind.VACUUM, {}), (ChangeKind.DRILL, {})):
        site.approve(kind, **parameters)
    report = site.run()
    assert site.made == ["deploy", "vacuum", "drill"]
    assert site.states() == [ChangeState.DONE] * 3
    assert [change.detail for change in report.made] == ["it worked"] * 3
    (first, begins), (last, ends) = site.told
    assert (first, last) == ("info", "info")
    assert "maintenance of production begins, until" in begins
    assert "deploy git_ref=" in begins
    assert "3 made, 0 moved" in ends
    with pytest.raises(RefusedError, match="nothing waits"):
        site.run()


def test_a_deploy_is_of_the_commit_that_was_approved(site: Site) -> None:
    approved = site.connections.repository.resolve("main")
    change = site.approve(ChangeKind.DEPLOY, git_ref="main")
    commit(site.connections.repository.path, {"README": "newer"})
    assert records_of(site.connections).change(change.id).parameters == {"git_ref": approved}


def test_what_does_not_fit_any_more_is_moved_and_nothing_overtakes_it(site: Site) -> None:
    """A rollback may take 15 minutes; retention would fit, but comes after it."""
    site.connections = with_window(site.connections, left=timedelta(minutes=12), reserve_s=60)
    site.approve(ChangeKind.ROLLBACK)
    site.approve(ChangeKind.RETENTION)
    report = site.run()
    assert site.made == []
    assert [change.state for change in report.moved] == [ChangeState.MOVED] * 2
    assert "it is expected to take 15 min" in report.moved[0].detail
    assert site.told[-1][0] == "warning"
    site.connections = with_window(site.connections, left=timedelta(hours=2))
    site.run()
    assert site.made == ["rollback", "retention"]


def test_after_a_change_that_failed_no_other_is_begun(site: Site) -> None:
    site.fails = {ChangeKind.VACUUM}
    for kind in (ChangeKind.VACUUM, ChangeKind.REINDEX):
        site.approve(kind)
    report = site.run()
    assert site.states() == [ChangeState.FAILED, ChangeState.MOVED]
    assert report.has_failed
    assert site.told[-1][0] == "error"
    assert "it did not work" in site.told[-1][1]


def test_a_change_whose_run_died_is_not_made_again(site: Site) -> None:
    class KilledError(BaseException):
        pass

    def die() -> None:
        raise KilledError

    site.before = die
    site.approve(ChangeKind.ROLLBACK)
    site.approve(ChangeKind.VACUUM)
    with pytest.raises(KilledError):
        site.run()
    assert site.states() == [ChangeState.RUNNING, ChangeState.WAITING]
    site.before = lambda: None
    site.run()
    assert site.made == ["vacuum"]
    assert "its run died" in records_of(site.connections).queue()[0].detail


def test_outside_of_a_window_nothing_is_made(site: Site) -> None:
    site.approve(ChangeKind.VACUUM)
    site.connections = with_window(site.connections, left=timedelta(seconds=-1))
    with pytest.raises(RefusedError, match="no maintenance window is open"):
        site.run()
    assert (site.made, site.told) == ([], [])


def test_a_change_can_be_cancelled_while_it_waits(site: Site) -> None:
    change = site.approve(ChangeKind.VACUUM)
    assert "cancelled by Grace: not now" in cancel(site.connections, change.id, reason="not now", by="Grace").detail
    with pytest.raises(RefusedError, match="is cancelled"):
        cancel(site.connections, change.id, reason="again", by="Grace")
    with pytest.raises(InvalidInputError, match="one of: none"):
        cancel(site.connections, "vacuum-x", reason="x", by="Grace")
    with pytest.raises(RefusedError, match="nothing waits"):
        site.run()


@pytest.mark.parametrize(
    ("kind", "parameters", "field"),
    [
        (ChangeKind.DEPLOY, {}, "git_ref"),
        (ChangeKind.DEPLOY, {"git_ref": "no-such-branch"}, "git_ref"),
        (ChangeKind.RETENTION, {"git_ref": "main"}, "for retention: none"),
        (ChangeKind.VACUUM, {"tables": "x"}, "for vacuum: table"),
    ],
)
def test_a_change_that_could_not_be_made_is_refused_when_it_is_approved(
    site: Site, kind: ChangeKind, parameters: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidInputError, match=field):
        site.approve(kind, **parameters)
    assert records_of(site.connections).queue() == []


def test_how_long_a_change_takes_is_learned_from_earlier_ones() -> None:
    assert predicted_s(ChangeKind.DEPLOY, [10, 20]) == 1200, "two are too few"
    assert predicted_s(ChangeKind.DEPLOY, [10, 30, 20]) == 30
    assert predicted_s(ChangeKind.DEPLOY, [float(number) for number in range(1, 101)]) == 95
    assert fits(600, 900, 300)
    assert not fits(600.1, 900, 300)
    assert next_change([]) is None


def test_what_a_change_took_counts_for_the_next_window(site: Site) -> None:
    records = records_of(site.connections)
    for _ in range(3):
        change = site.approve(ChangeKind.ROLLBACK)
        records.keep(change.model_copy(update={"state": ChangeState.DONE, "duration_s": 30.0}))
    site.connections = with_window(site.connections, left=timedelta(minutes=2), reserve_s=60)
    site.approve(ChangeKind.ROLLBACK)
    site.run()
    assert site.made == ["rollback"], "30 s fit, 15 min would not"

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from deployments.demo.repository import RELEASES, build_repository
from runbook.errors import InvalidInputError


def git(repository: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=repository, check=True, capture_output=True, text=True).stdout


def files(repository: Path, tag: str) -> set[str]:
    return set(git(repository, "ls-tree", "-r", "--name-only", tag).split())


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "shop"
    build_repository(path)
    return path


def test_every_release_is_a_tagged_commit_on_main(repository: Path) -> None:
    tags = build_repository(repository)
    assert list(tags) == ["v1", "v2", "v3", "v4", "v5", "v6"]
    assert all(re.fullmatch("[0-9a-f]{40}", sha) for sha in tags.values())
    assert git(repository, "rev-list", "--reverse", "main").split() == list(tags.values())
    assert git(repository, "branch", "--show-current").strip() == "main"
    assert git(repository, "status", "--porcelain") == ""


def test_two_builds_make_the_same_commits(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody Else")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    tags: Mapping[str, str] = build_repository(tmp_path / "again" / "shop")
    monkeypatch.delenv("GIT_DIR")
    assert tags == build_repository(repository)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["shop"], "nothing is left beside it"


@pytest.mark.parametrize("tag", ["v3", "v4"])
def test_a_release_without_migrations_has_those_of_v2(repository: Path, tag: str) -> None:
    def migrations(of: str) -> set[str]:
        return {name for name in files(repository, of) if name.startswith("migrations/")}

    assert migrations(tag) == migrations("v2")


def test_later_releases_are_built_on_v2_not_on_the_failed_ones(repository: Path) -> None:
    assert "tests/test_stock.py" in files(repository, "v3")
    for tag in ("v4", "v5", "v6"):
        changed = set(git(repository, "diff", "--name-only", "v2", tag).split())
        release = next(release for release in RELEASES if release.tag == tag)
        assert release.base == "v2"
        assert "shop/stock.py" not in changed
    assert "migrations/0008_backfill_discount.sql" not in files(repository, "v6")


def test_the_breaking_release_says_so(repository: Path) -> None:
    message = git(repository, "log", "-1", "--format=%B", "v6")
    assert message.startswith("feat!: ")
    assert "BREAKING CHANGE: " in message


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear diary")
    with pytest.raises(InvalidInputError, match="a new or empty folder"):
        build_repository(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_another_repository_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    with pytest.raises(InvalidInputError, match="a repository with the tags"):
        build_repository(tmp_path)

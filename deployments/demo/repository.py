"""The git repository of the sample application, made on the fly: releases v1 to v6, the same commits every time."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runbook.errors import InvalidInputError, StageError

SOURCES = Path(__file__).parent / "app"


@dataclass(frozen=True)
class ReleaseSource:
    """One release: the release whose files it starts from, and its commit message."""

    tag: str
    base: str | None
    message: str


RELEASES = (
    ReleaseSource("v1", None, "feat: stock, orders and health endpoints"),
    ReleaseSource("v2", "v1", "feat: order channels and stock alerts"),
    ReleaseSource("v3", "v2", "feat: say for how many days the stock lasts"),
    ReleaseSource("v4", "v2", "feat: greet customers by their initials\n\nTakes the days left of v3 out again."),
    ReleaseSource("v5", "v2", "feat: discount for regular customers\n\nTakes the initials of v4 out again."),
    ReleaseSource(
        "v6",
        "v2",
        "feat!: clean up closed orders\n\nTakes the discount of v5 out again.\n\n"
        "BREAKING CHANGE: customers have no telephone number any more.",
    ),
)


def build_repository(path: Path) -> dict[str, str]:
    """Make the repository of the sample application at `path`, unless it is there.

    Needs git and nothing else: no git configuration, no home folder, no network. Safe to repeat; an interrupted
    build leaves nothing at `path`.

    Returns:
        The full SHA of each tag, `v1` to `v6`. The same on every machine.

    Raises:
        InvalidInputError: `path` holds something else.
        StageError: git failed.
    """
    if (path / ".git").exists():
        return _read_tags(path)
    if path.exists() and any(path.iterdir()):
        raise InvalidInputError("path", str(path), "a new or empty folder", "Choose another folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        draft = Path(scratch) / "repository"
        draft.mkdir()
        _git(draft, "init", "--quiet", "--template=", "--object-format=sha1", "--initial-branch=main")
        for number, release in enumerate(RELEASES):
            _write_files(draft, release)
            _commit(draft, release, f"2025-01-{6 + number:02d}T10:00:00+00:00")
        draft.replace(path)
    return _read_tags(path)


def _read_tags(repository: Path) -> dict[str, str]:
    lines = _git(repository, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags").splitlines()
    tags = dict(line.split(" ") for line in lines)
    expected = {release.tag for release in RELEASES}
    if set(tags) != expected:
        raise InvalidInputError(
            "path", str(repository), f"a repository with the tags {sorted(expected)}", "Remove it or choose another."
        )
    return tags


def _write_files(repository: Path, release: ReleaseSource) -> None:
    for entry in repository.iterdir():
        if entry.is_dir() and entry.name != ".git":
            shutil.rmtree(entry)
        elif entry.is_file():
            entry.unlink()
    for tag in _layers(release):
        shutil.copytree(
            SOURCES / tag,
            repository,
            dirs_exist_ok=True,
            copy_function=shutil.copyfile,  # contents only: the mode is part of a commit
            ignore=shutil.ignore_patterns("__pycache__"),
        )


def _layers(release: ReleaseSource) -> list[str]:
    bases = {source.tag: source.base for source in RELEASES}
    layers: list[str] = []
    tag: str | None = release.tag
    while tag is not None:
        layers.insert(0, tag)
        tag = bases[tag]
    return layers


def _commit(repository: Path, release: ReleaseSource, date: str) -> None:
    _git(repository, "add", "--all", "--force")
    _git(repository, "commit", "--quiet", "--no-verify", "--message", release.message, date=date)
    _git(repository, "tag", release.tag)


def _git(repository: Path, *arguments: str, date: str = "2025-01-06T10:00:00+00:00") -> str:
    options = ("commit.gpgsign=false", "tag.gpgsign=false", "core.autocrlf=false", "core.fileMode=false", "gc.auto=0")
    argv = ["git", *(part for option in options for part in ("-c", option)), *arguments]
    # nothing of the caller's git: neither its configuration nor the repository that a hook of it runs in
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Sam Shopkeeper",
        "GIT_AUTHOR_EMAIL": "sam@shop.example",
        "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_NAME": "Sam Shopkeeper",
        "GIT_COMMITTER_EMAIL": "sam@shop.example",
        "GIT_COMMITTER_DATE": date,
    }
    result = subprocess.run(argv, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise StageError(f"git {arguments[0]}: {result.stderr.strip()}")
    return result.stdout

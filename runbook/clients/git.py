"""The application's git repository: which commit a name means, what lies in it, a clean copy of it."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from runbook.errors import InvalidInputError, RejectedError
from runbook.rules.identifiers import check_git_ref


@dataclass(frozen=True)
class Repository:
    """A local git repository. Nothing here changes it or its working tree."""

    path: Path

    def check(self) -> None:
        """Raise `RejectedError` unless the path is a git repository."""
        self._git("rev-parse", "--git-dir")

    def resolve(self, git_ref: str) -> str:
        """Return the full SHA of the commit that a branch, tag or SHA means.

        Raises:
            InvalidInputError: the name is malformed or unknown.
        """
        check_git_ref(git_ref)
        try:
            return self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{git_ref}^{{commit}}").strip()
        except RejectedError as error:
            tags = self._git("tag", "--sort=-creatordate").split()[:5]
            raise InvalidInputError(
                "git_ref",
                git_ref,
                f"a branch, tag or commit of {self.path}; newest tags: {', '.join(tags) or 'none'}",
                "Fetch it first, or mend the name.",
            ) from error

    def uncommitted(self) -> list[str]:
        """Return the tracked paths of the working tree that differ from its commit; a bare repository has none."""
        if self._git("rev-parse", "--is-bare-repository").strip() == "true":
            return []
        entries = self._git("status", "--porcelain=v1", "-z", "--untracked-files=no").split("\0")
        return [entry[3:] for entry in entries if entry]

    def version(self, git_sha: str) -> str:
        """Return a commit's tag, or its first twelve digits when it has none."""
        tags = self._git("tag", "--points-at", git_sha, "--sort=-version:refname").split()
        return tags[0] if tags else git_sha[:12]

    def files(self, git_sha: str, directory: str) -> list[str]:
        """Return the paths of the files of a commit below a directory."""
        return [p for p in self._git("ls-tree", "-r", "-z", "--name-only", git_sha, f"{directory}/").split("\0") if p]

    def text(self, git_sha: str, path: str) -> str | None:
        """Return a file of a commit as text, or None when the commit has no such file.

        Raises:
            RejectedError: the file is not UTF-8.
        """
        done = self._run("cat-file", "blob", f"{git_sha}:{path}")
        if done.returncode:
            return None
        try:
            return done.stdout.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise RejectedError(f"{path} at {git_sha[:12]} is not UTF-8: {error}") from error

    def texts(self, git_sha: str, paths: Sequence[str]) -> dict[str, str]:
        """Return several files of a commit as text by their paths; those that the commit does not have are left out.

        Raises:
            RejectedError: a file is not UTF-8.
        """
        asked = "".join(f"{git_sha}:{path}\n" for path in paths).encode()
        answer = io.BytesIO(self._run("cat-file", "--batch", source=asked).stdout)
        found: dict[str, str] = {}
        for path in paths:
            header = answer.readline().split()
            if header[-1:] == [b"missing"] or len(header) != 3:
                continue
            data = answer.read(int(header[2]))
            answer.read(1)
            try:
                found[path] = data.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = data.count(b"\n", 0, error.start) + 1
                raise RejectedError(f"{path}:{line} at {git_sha[:12]} is not UTF-8: {error}") from error
        return found

    def mentions(self, git_sha: str, word: str, *, outside: str, limit: int = 3) -> list[str]:
        """Return where a commit's files have a word, in any case, as `path:line`; at most `limit` places.

        Binary files and those below the directory `outside` are left out.

        Raises:
            RejectedError: the commit cannot be searched.
        """
        done = self._run(
            "grep", "-n", "-w", "-i", "-F", "-I", "-z", "-e", word, git_sha, "--", ".", f":(exclude,top){outside}"
        )
        if done.returncode > 1:
            raise RejectedError(f"repository {self.path}: {done.stderr.decode(errors='replace').strip()}")
        found = [line.split("\0") for line in done.stdout.decode(errors="replace").split("\n") if line.count("\0") > 1]
        return [f"{path.removeprefix(f'{git_sha}:')}:{number}" for path, number, *_ in found[:limit]]

    def messages(self, since: str | None, until: str) -> list[str]:
        """Return the commit messages after one commit up to another; all up to it when `since` is None."""
        span = until if since is None else f"{since}..{until}"
        return [text.strip() for text in self._git("log", "--format=%B%x00", span).split("\0") if text.strip()]

    def commit_times(self, since: str | None, until: str) -> list[datetime]:
        """Return when the commits after one up to another were made; only that of the last one when `since` is None."""
        span = [until, "--max-count=1"] if since is None else [f"{since}..{until}"]
        return [datetime.fromisoformat(line) for line in self._git("log", "--format=%cI", *span, "--").split()]

    def newest_commits(self, ref: str, count: int) -> list[str]:
        """Return the newest commits up to a ref, in a line each, the newest first."""
        return self._git("log", "--format=%h %cI %an: %s", f"--max-count={count}", ref, "--").splitlines()

    def export(self, git_sha: str, target: Path) -> None:
        """Write the files of a commit into a new folder, without history; the working tree is not touched.

        Raises:
            RejectedError: the commit is not in the repository, or the folder exists.
        """
        # Through an index of its own, because git itself writes safely: nothing lands outside of the folder.
        with tempfile.TemporaryDirectory(prefix="runbook-index-") as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git("read-tree", f"{git_sha}^{{commit}}", variables=index)
            try:
                target.mkdir(parents=True)
            except FileExistsError as error:
                raise RejectedError(f"{target} exists already; a commit is exported into a new folder") from error
            self._git("checkout-index", "--all", variables=index | {"GIT_WORK_TREE": str(target.resolve())})

    def _git(self, *arguments: str, variables: Mapping[str, str] | None = None) -> str:
        done = self._run(*arguments, variables=variables)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip() or f"git {arguments[0]} ended with {done.returncode}"
            raise RejectedError(f"repository {self.path}: {reason}")
        return done.stdout.decode(errors="replace")

    def _run(
        self, *arguments: str, variables: Mapping[str, str] | None = None, source: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        # Another owner's repository is read all the same: the path is configured, not found.
        argv = ["git", "-c", f"safe.directory={self.path.resolve()}", "-C", str(self.path), *arguments]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment = inherited | dict(variables or {})
        try:
            return subprocess.run(argv, env=environment, capture_output=True, input=source, timeout=120, check=False)
        except subprocess.TimeoutExpired as error:
            raise RejectedError(f"repository {self.path}: git {arguments[0]} did not end within 120 s") from error

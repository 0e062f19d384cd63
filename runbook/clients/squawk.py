"""squawk, which knows what is unsafe in a migration for a PostgreSQL that is in use.

Source: squawk, "CLI" and "Rules" (squawkhq.com).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from runbook.errors import RejectedError
from runbook.rules.lint import Finding
from runbook.rules.sql import has_data, statements

_TIMEOUT_S = 120


def lint_files(files: Mapping[str, str], *, server_major: int, transactional: Collection[str]) -> list[Finding]:
    """Return what squawk finds in files, given by their paths.

    What only psql understands, meta-commands and data, is blanked out; lines stay where they are.

    Args:
        files: text by path.
        server_major: version of the server, for example 18.
        transactional: the paths of those that run inside a transaction.

    Raises:
        RejectedError: squawk is missing, or answers something else than findings.
    """
    inside = {path: text for path, text in files.items() if path in transactional}
    outside = {path: text for path, text in files.items() if path not in transactional}
    return [
        *_run(inside, ["--assume-in-transaction"], server_major),
        *_run(outside, ["--no-assume-in-transaction"], server_major),
    ]


def _run(files: Mapping[str, str], options: list[str], server_major: int) -> list[Finding]:
    if not files:
        return []
    with tempfile.TemporaryDirectory(prefix="runbook-lint-") as folder:
        config = Path(folder) / "squawk.toml"
        config.touch()
        names: dict[str, str] = {}
        for number, (path, text) in enumerate(files.items()):
            file = Path(folder) / f"{number:05d}.sql"
            file.write_text(_plain_sql(text), encoding="utf-8", newline="")
            names[file.name] = path
        argv = [_program(), "--reporter", "json", "--pg-version", f"{server_major}.0", "--config", str(config)]
        try:
            done = subprocess.run(
                [*argv, *options, *names],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
                check=False,
            )
            found = json.loads(done.stdout)
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            raise RejectedError(f"squawk, which lints migrations, did not answer with findings: {error}") from error
    return [
        Finding(
            path=names[Path(item["file"]).name],
            line=item["line"] + 1,
            rule=item["rule_name"],
            message=item["message"],
            safer=item["help"] or "",
        )
        for item in found
    ]


def _program() -> str:
    beside = Path(sys.executable).with_name("squawk")
    found = str(beside) if beside.exists() else shutil.which("squawk")
    if found is None:
        raise RejectedError("squawk, which lints migrations, is not installed; it comes with this project's packages")
    return found


def _plain_sql(text: str) -> str:
    """Return a script without what only psql understands; every line stays where it is."""
    pieces: list[str] = []
    at = 0
    for statement in statements(text):
        end = statement.start + len(statement.text)
        if statement.bare.startswith("\\") or has_data(statement):
            pieces += [text[at : statement.start], "\n" * statement.text.count("\n")]
            at = end
        elif statement.sent_by:
            pieces += [text[at : statement.start], statement.text[: statement.text.rindex("\\")], ";"]
            at = end
    return "".join([*pieces, text[at:]])

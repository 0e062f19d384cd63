"""How far long work has come, as progress artifacts in the UI."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from runbook.progress import listening

_UPDATE_EVERY_S = 1


@contextmanager
def progress_artifacts(of: str) -> Generator[None]:
    """Show each phase of the body of a `with` as a progress artifact, brought up to date about once a second."""
    shown: dict[str, UUID] = {}
    updated_at: dict[str, float] = {}

    def show(phase: str, fraction: float) -> None:
        percent, now = round(100 * fraction, 1), time.monotonic()
        if phase not in shown:
            shown[phase] = create_progress_artifact(progress=percent, description=f"{of}: {phase}")  # pyright: ignore[reportArgumentType] - called without await it returns the id
        elif now - updated_at[phase] >= _UPDATE_EVERY_S or fraction == 1:
            update_progress_artifact(shown[phase], progress=percent)
        else:
            return
        updated_at[phase] = now

    with listening(show):
        yield

"""How stages become tasks: never from a cache, and tried again only when the error says that it can help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from runbook.errors import TransientError

P = ParamSpec("P")
R = TypeVar("R")
_BACK_OFF_S: list[float] = [2, 10, 30]


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a task failed with `TransientError`."""
    try:
        state.result()
    except TransientError:
        return True
    except Exception:  # noqa: BLE001 - whatever else it is, trying again cannot help
        return False
    return False


def stage_task(name: str, *, retries: int = 0) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return the decorator that makes a task of a stage.

    Effects and observations are never taken from a cache: with one, a rollback would verify itself against the outage.

    Args:
        name: how the task is called in the UI.
        retries: how often it is tried again after a `TransientError`; 0 for what is not safe to repeat.
    """
    return task(
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        retries=retries,
        retry_delay_seconds=_BACK_OFF_S[:retries],
        retry_condition_fn=is_transient,
    )

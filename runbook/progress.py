"""How far long work has come, for whoever listens: a progress artifact, a bar in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, float], None]
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("progress_listeners", default=())


@contextmanager
def listening(listener: Listener) -> Generator[None]:
    """Call `listener` with what is being done and its fraction, 0 to 1, during the body of a `with`."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


def report(what: str, fraction: float) -> None:
    """Tell the listeners of this context that `fraction` of `what` is done."""
    for listener in _listeners.get():
        listener(what, min(max(fraction, 0.0), 1.0))

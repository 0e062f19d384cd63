from __future__ import annotations

import pytest

from runbook.progress import listening, report


def test_listeners_hear_what_is_reported_while_they_listen() -> None:
    first, second = list[tuple[str, float]](), list[tuple[str, float]]()
    report("backup", 0.1)
    with listening(lambda what, fraction: first.append((what, fraction))):
        report("backup", 0.2)
        with listening(lambda what, fraction: second.append((what, fraction))):
            report("restore", 0.3)
        report("backup", 7)
        report("backup", -1)
    report("backup", 0.5)
    assert first == [("backup", 0.2), ("restore", 0.3), ("backup", 1), ("backup", 0)]
    assert second == [("restore", 0.3)]


def test_nobody_listens_after_an_error() -> None:
    heard = list[float]()
    with pytest.raises(KeyboardInterrupt), listening(lambda _, fraction: heard.append(fraction)):
        raise KeyboardInterrupt
    report("backup", 0.5)
    assert heard == []

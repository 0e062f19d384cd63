"""Tests in a real browser, where there is one on the machine."""

from __future__ import annotations

import pytest

from runbook.clients.browser import require_browser
from runbook.errors import RefusedError


def _has_browser() -> bool:
    try:
        require_browser()
    except RefusedError:
        return False
    return True


needs_browser = pytest.mark.skipif(not _has_browser(), reason="there is no Chromium or Chrome on this machine")

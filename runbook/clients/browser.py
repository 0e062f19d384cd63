"""A page opened in a real browser, with its scripts run; it always ends in time with a finding.

Needs the extra `browser` of this project and a Chromium or Chrome of the machine.
Source: https://playwright.dev/python/docs/api/class-page.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from runbook.errors import RefusedError
from runbook.rules.smoke import SmokeTest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_TIMEOUT_S = 15
_QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def require_browser() -> str:
    """Return the program of a browser on this machine.

    Raises:
        RefusedError: there is none, or nothing that drives it.
    """
    if importlib.util.find_spec("playwright") is None:
        raise RefusedError(
            "a page is to be opened in a browser, and nothing here drives one. Install `mantis-runbook[browser]`."
        )
    for name in _PROGRAMS:
        if program := shutil.which(name):
            return program
    raise RefusedError(
        f"a page is to be opened in a browser, and there is none on this machine: none of {', '.join(_PROGRAMS)} is in "
        "PATH. Install one (`apt-get install chromium`)."
    )


def look_at_pages(
    base_url: str,
    tests: Sequence[SmokeTest],
    headers: Mapping[str, SecretStr] | None = None,
    *,
    timeout_s: float = _TIMEOUT_S,
) -> list[str | None]:
    """Open each page and return what is wrong with it, or None; all in one browser, that is closed afterwards.

    Right is a page on which a person sees the text `visible`, and whose scripts ended without an error.

    Args:
        base_url: where the application is.
        tests: those with a text in `visible`.
        headers: sent to the application alone, where the host protects the URL; never to where its pages lead.
        timeout_s: seconds for one page.

    Raises:
        RefusedError: there is no browser, or it does not start.
    """
    program = require_browser()
    # In a thread of its own: the library refuses to run where an event loop does.
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(_look, program, base_url, tests, headers or {}, timeout_s).result()


def _look(
    program: str, base_url: str, tests: Sequence[SmokeTest], headers: Mapping[str, SecretStr], timeout_s: float
) -> list[str | None]:
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(
                executable_path=program, args=list(_QUIET), timeout=1000 * max(timeout_s, _TIMEOUT_S)
            )
        except Error as error:
            raise RefusedError(f"{program} does not start: {_first_line(error)}. Look at the installation.") from error
        try:
            return [_page(browser, base_url, test, headers, timeout_s) for test in tests]
        finally:
            browser.close()


def _page(
    browser: Browser, base_url: str, test: SmokeTest, headers: Mapping[str, SecretStr], timeout_s: float
) -> str | None:
    from playwright.sync_api import Error, expect

    failures: list[str] = []
    with browser.new_context(service_workers="block") as context:
        page = context.new_page()
        page.on("pageerror", lambda error: failures.append(_first_line(error)))
        page.on("crash", lambda _: failures.append("the page crashed"))
        page.route("**/*", _with_headers(base_url, headers))
        try:
            page.goto(base_url + test.path, timeout=1000 * timeout_s, wait_until="domcontentloaded")
            text = page.get_by_text(str(test.visible)).filter(visible=True).first
            expect(text).to_be_visible(timeout=1000 * timeout_s)
        except AssertionError:
            failures.insert(0, f"nobody sees {test.visible!r} within {timeout_s:g} s")
        except Error as error:
            failures.append(_first_line(error))
    return "; ".join(dict.fromkeys(failures)) or None


def _with_headers(base_url: str, headers: Mapping[str, SecretStr]) -> Callable[[Route], None]:
    own = urlsplit(base_url)[:2]
    secret = {name: value.get_secret_value() for name, value in headers.items()}

    def send(route: Route) -> None:
        if urlsplit(route.request.url)[:2] == own:
            route.continue_(headers={**route.request.headers, **secret})
        else:
            route.continue_()

    return send


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]

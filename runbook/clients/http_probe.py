"""One HTTP request that always ends in time with a finding, whatever the other side does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class Answer:
    """What came back. `status` is None when nothing did; `problem` then says why. `elapsed_s` in seconds."""

    status: int | None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    text: str = ""
    elapsed_s: float = 0.0
    problem: str = ""


def probe(url: str, *, method: str = "GET", body: Mapping[str, Any] | None = None, timeout_s: float = 5) -> Answer:
    """Send one request and read at most 1 MiB of its answer, all within `timeout_s`. Redirects are not followed."""
    begun = time.monotonic()
    try:
        with (
            httpx.Client(timeout=timeout_s, follow_redirects=False, trust_env=False) as client,
            client.stream(method, url, json=body) as response,
        ):
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > _LIMIT_BYTES:
                    return Answer(None, problem=f"the answer is larger than {_LIMIT_BYTES} bytes")
                if time.monotonic() - begun > timeout_s:
                    return Answer(None, problem=f"no whole answer within {timeout_s:g} s")
            return Answer(
                status=response.status_code,
                headers={name.lower(): value for name, value in response.headers.items()},
                text=content.decode(errors="replace"),
                elapsed_s=time.monotonic() - begun,
            )
    except httpx.TimeoutException:
        return Answer(None, elapsed_s=time.monotonic() - begun, problem=f"no answer within {timeout_s:g} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(None, elapsed_s=time.monotonic() - begun, problem=str(error) or type(error).__name__)

"""What clients and emulators say to each other in the tests is what the services' official documents say."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

import runbook.clients
from tests.conformance.deviations import DEVIATIONS, Deviation, unexpected
from tests.conformance.services import SERVICES, WITHOUT_DOCUMENT, contract_of
from tests.emulators.recording import Record

_CLIENTS = Path(runbook.clients.__file__).parent
CLIENTS = [service for service in SERVICES if (_CLIENTS / f"{service}.py").exists()]
"""The services that the runbook talks to; others are emulated for those that come."""

pytestmark = [pytest.mark.conformance, pytest.mark.xdist_group("exchanges"), pytest.mark.timeout(900)]

_LIKE_A_KEY = re.compile(
    r"never_to_be_seen|Bearer [^*]|npg_[0-9a-f]{6}|xox[a-z]-\w|://[^:/@\s\"]+:[^@*/\s\"]+@", re.IGNORECASE
)


@pytest.mark.parametrize("service", CLIENTS)
def test_every_exchange_is_as_the_official_document_says(service: str, exchanges: list[Record]) -> None:
    contract = contract_of(service)
    found = Counter(
        (contract.operation_of(each) or f"{each.method} {each.path}", each.status, line)
        for each in exchanges
        if each.service == service
        for line in unexpected(each)
    )
    assert dict(found) == {}


@pytest.mark.parametrize("service", CLIENTS)
def test_every_operation_that_is_relied_on_was_exchanged(service: str, exchanges: list[Record]) -> None:
    contract, about = contract_of(service), SERVICES[service]
    seen = {contract.operation_of(each) for each in exchanges if each.service == service and each.status < 400}
    wanted = {f"{method.upper()} {path}" for path, methods in about.operations.items() for method in methods}
    assert wanted - seen == set()


@pytest.mark.parametrize(
    "deviation",
    [each for each in DEVIATIONS if each.service in CLIENTS],
    ids=lambda each: f"{each.service}: {each.said}",
)
def test_a_known_deviation_still_is_one(deviation: Deviation, exchanges: list[Record]) -> None:
    contract = contract_of(deviation.service)
    of_service = (each for each in exchanges if each.service == deviation.service)
    assert any(deviation.covers(each, line) for each in of_service for line in contract.violations(each))


def test_every_service_that_is_talked_to_has_a_document(exchanges: list[Record]) -> None:
    assert set(CLIENTS) <= {each.service for each in exchanges} <= set(SERVICES) | WITHOUT_DOCUMENT


def test_no_record_shows_a_key(exchanges: list[Record]) -> None:
    assert [found[0] for each in exchanges if (found := _LIKE_A_KEY.search(json.dumps(vars(each))))] == []

from __future__ import annotations

import time
from collections.abc import Generator

import pytest
from pydantic import SecretStr

from runbook.clients.http_api import LostError, Patience
from runbook.clients.statuspage import ComponentStatus, PublicIncident, Statuspage
from runbook.errors import InvalidInputError, RejectedError, TransientError
from runbook.rules.incident_messages import PublicIncidentStatus
from tests.emulators.statuspage import PAGE, StatuspageEmulator, statuspage_emulator

KEY = "never_to_be_seen_0123456789"
OUTAGE = {"web": ComponentStatus.MAJOR_OUTAGE}


@pytest.fixture(scope="module")
def server() -> Generator[StatuspageEmulator]:
    with statuspage_emulator(key=KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: StatuspageEmulator) -> StatuspageEmulator:
    server.reset()
    return server


@pytest.fixture
def page(emulator: StatuspageEmulator) -> Statuspage:
    return reaching(emulator.url)


def reaching(url: str, key: str = KEY, page: str = PAGE, pause_s: float = 0) -> Statuspage:
    patience = Patience(answer_s=2, pause_s=0.005, longest_pause_s=1)
    return Statuspage(page, SecretStr(key), url=url, block="block page", patience=patience, pause_s=pause_s)


def open_incident(page: Statuspage) -> PublicIncident:
    status = PublicIncidentStatus.INVESTIGATING
    return page.open_incident("Orders fail", "We look into it.", status=status, components=OUTAGE, notify=False)


def test_an_incident_is_published_updated_and_resolved(emulator: StatuspageEmulator, page: Statuspage) -> None:
    made = open_incident(page)
    assert emulator.components["web"] == "major_outage"
    page.update_incident(made.id, "We know.", status=PublicIncidentStatus.IDENTIFIED, components={})
    over = {"web": ComponentStatus.OPERATIONAL}
    page.update_incident(made.id, "It is over.", status=PublicIncidentStatus.RESOLVED, components=over)
    [incident] = emulator.incidents
    assert (incident.status, incident.bodies) == ("resolved", ["We look into it.", "We know.", "It is over."])
    assert emulator.components["web"] == "operational"


def test_an_incident_whose_answer_is_lost_is_found_and_not_published_again(
    emulator: StatuspageEmulator, page: Statuspage
) -> None:
    emulator.lose("POST", "/incidents$")
    assert open_incident(page).id == emulator.incidents[0].id
    assert len(emulator.incidents) == 1


def test_an_update_whose_answer_is_lost_is_seen_and_not_said_twice(
    emulator: StatuspageEmulator, page: Statuspage
) -> None:
    made = open_incident(page)
    emulator.lose("PATCH", "/incidents/")
    page.update_incident(made.id, "We know.", status=PublicIncidentStatus.IDENTIFIED, components={})
    assert emulator.incidents[0].bodies == ["We look into it.", "We know."]
    emulator.refuse("PATCH", "/incidents/", 503)
    with pytest.raises(LostError):
        page.update_incident(made.id, "It is over.", status=PublicIncidentStatus.RESOLVED, components={})


def test_an_incident_that_never_came_is_said_to_be_lost(emulator: StatuspageEmulator, page: Statuspage) -> None:
    emulator.refuse("POST", "/incidents$", 503)
    with pytest.raises(LostError):
        open_incident(page)
    assert emulator.incidents == []


def test_a_component_is_set_though_an_answer_is_lost(emulator: StatuspageEmulator, page: Statuspage) -> None:
    emulator.lose("PATCH", "/components/")
    page.set_component("database", ComponentStatus.DEGRADED_PERFORMANCE)
    assert emulator.components["database"] == "degraded_performance"


@pytest.mark.parametrize("status", [420, 429])
def test_too_many_requests_are_sent_again(emulator: StatuspageEmulator, page: Statuspage, status: int) -> None:
    emulator.refuse("POST", "/incidents$", status)
    open_incident(page)
    assert len(emulator.incidents) == 1


def test_it_asks_no_more_than_once_in_a_pause(emulator: StatuspageEmulator) -> None:
    page, begun = reaching(emulator.url, pause_s=0.2), time.monotonic()
    for _ in range(3):
        page.check()
    assert time.monotonic() - begun >= 2 * 0.2


def test_a_wrong_key_page_or_component_is_named(emulator: StatuspageEmulator, page: Statuspage) -> None:
    assert page.check() == "Statuspage Mantis"
    with pytest.raises(
        RejectedError, match=r"Could not authenticate.*key that may manage the page into the block page"
    ):
        reaching(emulator.url, "wrong").check()
    with pytest.raises(RejectedError, match="Mend the page in the block page"):
        reaching(emulator.url, page="gone").check()
    with pytest.raises(RejectedError, match="component is unknown"):
        page.set_component("gone", ComponentStatus.OPERATIONAL)


def test_no_message_shows_the_key(emulator: StatuspageEmulator, page: Statuspage) -> None:
    said = [repr(page)]
    for status in (400, 401, 404, 429, 500):
        headers = {"Retry-After": "9999"} if status == 429 else {}
        emulator.refuse("POST", "/incidents$", status, message=f"no: {KEY}", headers=headers, times=3)
        with pytest.raises((RejectedError, TransientError)) as raised:
            open_incident(page)
        said.append(str(raised.value))
        emulator.faults.clear()
    with pytest.raises(InvalidInputError) as clear:
        reaching("http://api.statuspage.example/v1")
    assert KEY not in "".join([*said, str(clear.value)])

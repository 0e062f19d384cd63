from __future__ import annotations

from collections.abc import Generator

import pytest
from pydantic import SecretStr

from runbook.clients.channels import Notification
from runbook.clients.http_api import Patience
from runbook.clients.pager_duty import PagerDuty, pager_duty
from runbook.errors import InvalidInputError, RejectedError, TransientError
from tests.emulators.pager_duty import PagerDutyEmulator, pager_duty_emulator

KEY = "neverToBeSeen0123456789abcdefghi"
NOTICE = Notification("production", "error", "v2 not released", "disk full")


@pytest.fixture(scope="module")
def server() -> Generator[PagerDutyEmulator]:
    with pager_duty_emulator(routing_key=KEY) as emulator:
        yield emulator


@pytest.fixture
def emulator(server: PagerDutyEmulator) -> PagerDutyEmulator:
    server.reset()
    return server


@pytest.fixture
def client(emulator: PagerDutyEmulator) -> PagerDuty:
    return reaching(emulator.url)


def reaching(url: str, key: str = KEY) -> PagerDuty:
    patience = Patience(answer_s=2, pause_s=0.005, longest_pause_s=1)
    return pager_duty(SecretStr(key), url=url, run_url="https://prefect.example/1", block="block p", patience=patience)


def test_an_error_wakes_somebody_once_and_all_else_nobody(emulator: PagerDutyEmulator, client: PagerDuty) -> None:
    for level in ("info", "warning"):
        client.send(Notification("production", level, "v2 released", ""))
    assert emulator.exchanges == []
    client.send(NOTICE)
    client.send(NOTICE)
    [alert] = emulator.alerts.values()
    assert (alert.summary, alert.severity, alert.events) == ("v2 not released (production)", "critical", 2)


def test_the_same_error_elsewhere_is_another_alert(emulator: PagerDutyEmulator, client: PagerDuty) -> None:
    client.send(NOTICE)
    client.send(Notification("staging", "error", NOTICE.title, NOTICE.text))
    assert len(emulator.alerts) == 2


def test_an_alert_is_acknowledged_and_resolved_by_its_key(emulator: PagerDutyEmulator, client: PagerDuty) -> None:
    client.trigger("deploy_1", "production is down", source="production")
    client.acknowledge("deploy_1")
    assert emulator.alerts["deploy_1"].state == "acknowledged"
    client.resolve("deploy_1")
    assert emulator.alerts["deploy_1"].state == "resolved"


@pytest.mark.parametrize("action", ["trigger", "acknowledge", "resolve"])
def test_an_event_whose_answer_is_lost_is_sent_again_and_counts_once(
    emulator: PagerDutyEmulator, client: PagerDuty, action: str
) -> None:
    client.trigger("deploy_1", "production is down", source="production")
    emulator.lose("POST", "/v2/enqueue")
    if action == "trigger":
        client.trigger("deploy_1", "production is down", source="production")
    else:
        getattr(client, action)("deploy_1")
    assert len(emulator.alerts) == 1
    ends_as = {"trigger": "triggered", "acknowledge": "acknowledged", "resolve": "resolved"}
    assert emulator.alerts["deploy_1"].state == ends_as[action]


def test_a_key_of_the_wrong_shape_gives_no_client_and_is_not_shown() -> None:
    with pytest.raises(InvalidInputError, match=r"routing_key.*32 letters and digits.*into the block p") as raised:
        reaching("https://events.pagerduty.com", "R0123 neverToBeSeen")
    assert "neverToBeSeen" not in str(raised.value)


def test_no_message_shows_the_key(emulator: PagerDutyEmulator, client: PagerDuty) -> None:
    said = [repr(client)]
    for status in (400, 429, 500):
        headers = {"Retry-After": "9999"} if status == 429 else {}
        emulator.refuse("POST", "/v2/enqueue", status, message=f"no: {KEY}", headers=headers, times=3)
        with pytest.raises((RejectedError, TransientError)) as raised:
            client.send(NOTICE)
        said.append(str(raised.value))
        emulator.reset()
    with pytest.raises(RejectedError, match=r"integration key .* into the block p") as refused:
        reaching(emulator.url, "x" * 32).send(NOTICE)
    assert KEY not in "".join([*said, str(refused.value)])


def test_a_check_wakes_nobody(emulator: PagerDutyEmulator, client: PagerDuty) -> None:
    assert "whether it works only an alert can tell" in client.check()
    assert emulator.exchanges == []

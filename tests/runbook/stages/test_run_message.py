from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from runbook.clients.channels import LogChannel
from runbook.clients.http_api import Patience
from runbook.clients.slack import slack_channel
from runbook.connections import Connections
from runbook.reports import FinalState
from runbook.stages.notification import notify
from runbook.stages.run_message import RunMessage
from tests.emulators.slack import SlackEmulator, slack_emulator
from tests.runbook.surroundings import surrounded

TOKEN = "xoxb-never_to_be_seen_0123456789"


@pytest.fixture(scope="module")
def server() -> Generator[SlackEmulator]:
    with slack_emulator(token=TOKEN, webhook_secret="hook_never_to_be_seen") as emulator:
        yield emulator


@pytest.fixture
def slack(server: SlackEmulator) -> SlackEmulator:
    server.reset()
    return server


@pytest.fixture
def connections(slack: SlackEmulator, tmp_path: Path) -> Connections:
    return surrounded(
        tmp_path,
        LogChannel(tmp_path / "log"),
        reaching(slack.url, slack.posted_to.id),
        run_url="http://127.0.0.1:4200/runs/flow-run/1",
    )


def reaching(url: str, channel: str):  # noqa: ANN201 - as the client says
    patience = Patience(answer_s=2, pause_s=0.005, longest_pause_s=1)
    return slack_channel(SecretStr(TOKEN), channel, url=f"{url}/api", patience=patience)


def shown(connections: Connections, wait_s: float = 15) -> RunMessage:
    return RunMessage(connections, "deploy_1", "deploy", "v2", wait_s)


def test_one_message_says_how_far_the_run_is_and_how_it_ended(slack: SlackEmulator, connections: Connections) -> None:
    run = shown(connections)
    run.begin()
    run.step("Stage 2: Test <Suite>")
    assert run.end(success=True, state=FinalState.VERIFIED) == ()
    notify(connections, "info", "v2 is released", "all is well")
    message, reply = slack.posted_to.messages
    link = "<http://127.0.0.1:4200/runs/flow-run/1|log>"
    assert message.text == f":white_check_mark: *deploy v2* on production: done, VERIFIED  {link}"
    assert reply.thread_ts == message.ts


@pytest.mark.parametrize(
    ("success", "state", "mark"),
    [
        (True, FinalState.UNVERIFIED, ":warning:"),
        (False, FinalState.VERIFIED, ":warning:"),
        (False, FinalState.DIVERGED, ":rotating_light:"),
    ],
)
def test_how_it_ended_can_be_seen_from_afar(
    slack: SlackEmulator, connections: Connections, success: bool, state: FinalState, mark: str
) -> None:
    run = shown(connections)
    run.begin()
    run.end(success=success, state=state)
    assert slack.posted_to.messages[0].text.startswith(mark)


def test_who_recovers_a_dead_run_goes_on_with_its_message(slack: SlackEmulator, connections: Connections) -> None:
    dead = shown(connections)
    dead.begin()
    dead._background._worker.shutdown()  # pyright: ignore[reportPrivateUsage] - what it said was sent before it died
    later = replace(connections, channels=(reaching(slack.url, slack.posted_to.id),))
    assert shown(later).end(success=False, state=FinalState.VERIFIED) == ()
    [message] = slack.posted_to.messages
    assert "not done, VERIFIED" in message.text


def test_a_slow_slack_holds_up_no_step_and_hears_only_the_newest(
    slack: SlackEmulator, connections: Connections
) -> None:
    slack.delay("POST", "/api/chat.postMessage", 1.5)
    run = shown(connections)
    run.begin()
    for number in range(20):
        run.step(f"step {number}")
    run.end(success=True, state=FinalState.VERIFIED)
    [message] = slack.posted_to.messages
    assert message.edits == 1, "no step waited until the message was there"


def test_a_slack_that_is_down_is_a_finding_and_no_more(connections: Connections) -> None:
    run = shown(replace(connections, channels=(reaching("http://127.0.0.1:1", "C1"),)))
    run.begin()
    [finding] = run.end(success=True, state=FinalState.VERIFIED)
    assert finding.startswith("Slack does not show how this ended: Slack, post a message")
    assert TOKEN not in finding


def test_without_slack_nothing_happens(slack: SlackEmulator, connections: Connections) -> None:
    run = shown(replace(connections, channels=connections.channels[:1]))
    run.begin()
    run.step("x")
    assert run.end(success=True, state=FinalState.VERIFIED) == ()
    assert slack.exchanges == []


def test_who_leaves_says_nothing_more(slack: SlackEmulator, connections: Connections) -> None:
    run = shown(connections)
    run.begin()
    run.leave()
    run._background._worker.shutdown()  # pyright: ignore[reportPrivateUsage] - waits for what is under way
    assert not [message for message in slack.posted_to.messages if "done" in message.text]

from __future__ import annotations

from collections.abc import Generator

import pytest
from pydantic import SecretStr

from runbook.clients.channels import Notification
from runbook.clients.http_api import LostError, Patience
from runbook.clients.slack import SlackChannel, SlackWebhook, slack_channel, slack_webhook
from runbook.clients.slack_api import LONGEST
from runbook.errors import InvalidInputError, RejectedError, TransientError
from tests.emulators.slack import SlackEmulator, slack_emulator

TOKEN = "xoxb-never_to_be_seen_0123456789"
SECRET = "hook_never_to_be_seen_0123456789"
PATIENCE = Patience(answer_s=2, pause_s=0.005, longest_pause_s=2)
NOTICE = Notification("production", "error", "v2 not released", "disk <full> & so on")


@pytest.fixture(scope="module")
def server() -> Generator[SlackEmulator]:
    with slack_emulator(token=TOKEN, webhook_secret=SECRET) as emulator:
        yield emulator


@pytest.fixture
def slack(server: SlackEmulator) -> SlackEmulator:
    server.reset()
    return server


@pytest.fixture
def channel(slack: SlackEmulator) -> SlackChannel:
    return reaching(slack)


def reaching(slack: SlackEmulator, token: str = TOKEN) -> SlackChannel:
    to = slack.posted_to.id
    return slack_channel(SecretStr(token), to, url=f"{slack.url}/api", block="block slack/ops", patience=PATIENCE)


def hook(slack: SlackEmulator) -> SlackWebhook:
    return slack_webhook(SecretStr(slack.webhook_url), block="block slack/ops", patience=PATIENCE)


def texts(slack: SlackEmulator) -> list[str]:
    return [message.text for message in slack.posted_to.messages]


def test_what_slack_would_take_for_a_link_or_a_mention_is_escaped(slack: SlackEmulator, channel: SlackChannel) -> None:
    channel.send(NOTICE)
    assert texts(slack) == [":rotating_light: *v2 not released*\ndisk &lt;full&gt; &amp; so on"]


def test_a_run_has_one_message_that_is_updated_and_what_is_said_is_in_its_thread(
    slack: SlackEmulator, channel: SlackChannel
) -> None:
    for step in ("has begun", "Stage 2", "done"):
        channel.show(step)
    channel.send(NOTICE)
    message, reply = slack.posted_to.messages
    assert (message.text, message.edits, reply.thread_ts) == ("done", 2, message.ts)


def test_another_process_goes_on_with_the_message_of_a_run(slack: SlackEmulator, channel: SlackChannel) -> None:
    channel.show("has begun")
    assert channel.shown is not None
    other = reaching(slack)
    other.go_on_with(channel.shown)
    other.show("recovered")
    assert texts(slack) == ["recovered"]


def test_no_comes_with_status_200_and_names_what_to_do(slack: SlackEmulator, channel: SlackChannel) -> None:
    slack.scopes.remove("chat:write")
    with pytest.raises(RejectedError, match=r"missing_scope.*block slack/ops the scope chat:write, and install"):
        channel.send(NOTICE)
    with pytest.raises(
        RejectedError, match=r"invalid_auth.*bot token \(xoxb-\.\.\.\) of the app into the block slack/ops"
    ):
        reaching(slack, "xoxb-wrong").check()
    slack.scopes.add("chat:write")
    gone = slack_channel(SecretStr(TOKEN), "C0", url=f"{slack.url}/api", patience=PATIENCE)
    with pytest.raises(RejectedError, match=r"channel_not_found.*invite the app there"):
        gone.send(NOTICE)
    slack.posted_to.is_archived = True
    with pytest.raises(RejectedError, match="is_archived"):
        channel.send(NOTICE)
    assert texts(slack) == []


@pytest.mark.parametrize("is_reply", [False, True])
def test_a_message_whose_answer_is_lost_is_found_and_not_posted_again(
    slack: SlackEmulator, channel: SlackChannel, is_reply: bool
) -> None:
    if is_reply:
        channel.show("has begun")
    slack.lose("POST", "/api/chat.postMessage")
    channel.send(NOTICE)
    assert len(texts(slack)) == 1 + is_reply


def test_a_message_that_may_be_there_and_cannot_be_looked_for_is_lost(
    slack: SlackEmulator, channel: SlackChannel
) -> None:
    slack.scopes.remove("channels:history")
    slack.lose("POST", "/api/chat.postMessage")
    with pytest.raises(RejectedError, match="scope channels:history"):
        channel.send(NOTICE)


def test_a_message_that_never_came_is_said_to_be_lost(slack: SlackEmulator, channel: SlackChannel) -> None:
    slack.refuse("POST", "/api/chat.postMessage", 503)
    with pytest.raises(LostError):
        channel.send(NOTICE)
    assert texts(slack) == []


def test_an_update_whose_answer_is_lost_is_sent_again(slack: SlackEmulator, channel: SlackChannel) -> None:
    channel.show("has begun")
    slack.lose("POST", "/api/chat.update")
    channel.show("done")
    assert texts(slack) == ["done"]


def test_who_asks_too_often_waits_as_long_as_slack_says(slack: SlackEmulator, channel: SlackChannel) -> None:
    slack.refuse("POST", "/api/chat.postMessage", 429, headers={"Retry-After": "1"})
    channel.send(NOTICE)
    assert (len(texts(slack)), slack.too_early) == (1, 0)


def test_a_long_text_is_cut_before_slack_refuses_it(slack: SlackEmulator, channel: SlackChannel) -> None:
    channel.send(Notification("production", "info", "log", "<" * 50_000))
    assert len(texts(slack)[0]) <= LONGEST
    assert texts(slack)[0].endswith("&lt;")


def test_an_incident_channel_is_made_with_topic_and_people_and_a_taken_name_gets_a_number(
    slack: SlackEmulator, channel: SlackChannel
) -> None:
    first = channel.open_incident_channel("INC 2025-01-04: down!", topic="SEV1: down", people=("U1", "U2"))
    second = channel.open_incident_channel("inc 2025-01-04 down", topic="again")
    assert (first.name, second.name) == ("inc-2025-01-04-down", "inc-2025-01-04-down-2")
    made = slack.channels[first.id]
    assert (made.topic, made.members[1:]) == ("SEV1: down", ["U1", "U2"])


def test_an_incident_channel_whose_answer_is_lost_is_not_made_twice(
    slack: SlackEmulator, channel: SlackChannel
) -> None:
    slack.lose("POST", "/api/conversations.create")
    assert channel.open_incident_channel("inc-1", topic="x").name == "inc-1"
    assert [each.name for each in slack.channels.values()] == ["deploys", "inc-1"]


def test_a_channel_that_was_there_before_is_not_taken_for_the_one_whose_answer_was_lost(
    slack: SlackEmulator, channel: SlackChannel
) -> None:
    first = channel.open_incident_channel("inc-1", topic="of somebody else")
    slack.lose("POST", "/api/conversations.create")
    assert channel.open_incident_channel("inc-1", topic="ours").name == "inc-1-2"
    assert slack.channels[first.id].topic == "of somebody else"


def test_inviting_those_who_are_there_is_no_error(slack: SlackEmulator, channel: SlackChannel) -> None:
    made = channel.open_incident_channel("inc-1", topic="x", people=("U1",))
    channel.api.invite(made.id, ("U1",))
    assert slack.channels[made.id].members.count("U1") == 1


@pytest.mark.parametrize("method", ["invite", "setTopic"])
def test_people_and_topic_are_set_once_though_an_answer_is_lost(
    slack: SlackEmulator, channel: SlackChannel, method: str
) -> None:
    slack.lose("POST", f"/api/conversations.{method}")
    made = slack.channels[channel.open_incident_channel("inc-1", topic="SEV1: down", people=("U1",)).id]
    assert (made.topic, made.members[1:]) == ("SEV1: down", ["U1"])


def test_archiving_twice_is_no_error(slack: SlackEmulator, channel: SlackChannel) -> None:
    made = channel.open_incident_channel("inc-1", topic="x")
    slack.lose("POST", "/api/conversations.archive")
    channel.api.archive(made.id)
    assert slack.channels[made.id].is_archived


def test_a_file_is_shared_in_the_thread_of_the_run_and_once_though_an_answer_is_lost(
    slack: SlackEmulator, channel: SlackChannel
) -> None:
    channel.show("has begun")
    slack.lose("POST", "/api/files.completeUploadExternal")
    slack.lose("POST", "/upload/")
    channel.attach("incident.md", b"# What happened")
    [file] = slack.files.values()
    assert (file.content, file.channel) == (b"# What happened", slack.posted_to.id)
    assert file.thread_ts == slack.posted_to.messages[0].ts
    assert slack.posted_to.files == [file.id]
    uploads = [each.call for each in slack.exchanges if each.call.path.startswith("/upload/")]
    assert uploads
    assert all(TOKEN.encode() not in call.raw and "authorization" not in call.headers for call in uploads)


def test_a_webhook_posts_and_says_what_is_wrong_with_it(slack: SlackEmulator) -> None:
    hook(slack).send(NOTICE)
    assert hook(slack).check() == "the incoming webhook of Slack takes messages"
    assert len(texts(slack)) == 1, "a check posts nothing"
    gone = slack_webhook(SecretStr(f"{slack.webhook_url}x"), block="block slack/ops", patience=PATIENCE)
    with pytest.raises(RejectedError, match=r"no_service.*new webhook.*block slack/ops"):
        gone.check()
    slack.posted_to.is_archived = True
    with pytest.raises(RejectedError, match="channel is archived"):
        hook(slack).send(NOTICE)


def test_a_webhook_that_may_have_posted_is_not_asked_again(slack: SlackEmulator) -> None:
    slack.lose("POST", "/services/")
    with pytest.raises(LostError):
        hook(slack).send(NOTICE)
    assert len(texts(slack)) == 1


def test_no_message_shows_the_token_or_the_address_of_the_webhook(slack: SlackEmulator) -> None:
    said: list[str] = []
    for status in (400, 403, 404, 429, 500, 302):
        headers = {"Retry-After": "9999"} if status == 429 else {"Location": slack.webhook_url} if status == 302 else {}
        slack.refuse("POST", "/", status, message=f"{TOKEN} {slack.webhook_url}", headers=headers, times=2)
        for send in (reaching(slack).send, hook(slack).send):
            with pytest.raises((RejectedError, TransientError)) as raised:
                send(NOTICE)
            said.append(str(raised.value))
        slack.faults.clear()
        slack._not_before = 0.0  # pyright: ignore[reportPrivateUsage] - the limit is over
    refused = slack_webhook(SecretStr("http://127.0.0.1:1/services/T/B/" + SECRET), patience=PATIENCE)
    with pytest.raises(TransientError) as unreachable:
        refused.send(NOTICE)
    with pytest.raises(InvalidInputError) as clear:
        slack_webhook(SecretStr("http://hooks.example.com/services/T/B/" + SECRET))
    said += [str(unreachable.value), str(clear.value), repr(reaching(slack)), repr(hook(slack))]
    assert not [line for line in said if TOKEN in line or SECRET in line]

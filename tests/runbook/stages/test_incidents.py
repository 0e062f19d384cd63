from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from runbook.clients.backup_store import BackupStore
from runbook.clients.channels import Channel, LogChannel
from runbook.clients.folder_store import FolderStore
from runbook.clients.http_api import Patience
from runbook.clients.pager_duty import pager_duty
from runbook.clients.site_target import FolderSite
from runbook.clients.slack import slack_channel
from runbook.clients.statuspage import Statuspage
from runbook.connections import Connections
from runbook.errors import InvalidInputError, RefusedError, RejectedError
from runbook.rules.incidents import EscalationLevel, EventKind, Incident, IncidentEvent, IncidentStatus
from runbook.rules.thresholds import Severity
from runbook.settings import IncidentSettings
from runbook.stages.incidents import (
    Opening,
    acknowledge,
    escalate_due,
    note_run,
    open_or_join,
    publish,
    records_of,
    remind,
    resolve,
    say,
    write_post_mortem,
)
from runbook.stages.notification import records_of as undelivered_of
from tests.emulators.pager_duty import PagerDutyEmulator, pager_duty_emulator
from tests.emulators.slack import SlackEmulator, slack_emulator
from tests.emulators.statuspage import PAGE, StatuspageEmulator, statuspage_emulator
from tests.runbook.surroundings import surrounded

TOKEN = "xoxb-never_to_be_seen_0123456789"
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
PAGE_KEY = "never_to_be_seen_0123456789"
PATIENCE = Patience(answer_s=2, pause_s=0.005, longest_pause_s=0.5)


@pytest.fixture(scope="module")
def servers() -> Generator[tuple[SlackEmulator, PagerDutyEmulator, StatuspageEmulator]]:
    with (
        slack_emulator(token=TOKEN, webhook_secret="hook") as slack,
        pager_duty_emulator(routing_key=ROUTING_KEY) as pager,
        statuspage_emulator(key=PAGE_KEY) as page,
    ):
        yield slack, pager, page


@pytest.fixture
def slack(servers: tuple[SlackEmulator, PagerDutyEmulator, StatuspageEmulator]) -> SlackEmulator:
    for server in servers:
        server.reset()
    return servers[0]


@pytest.fixture
def pager(
    slack: SlackEmulator, servers: tuple[SlackEmulator, PagerDutyEmulator, StatuspageEmulator]
) -> PagerDutyEmulator:
    return servers[1]


@pytest.fixture
def page(
    slack: SlackEmulator, servers: tuple[SlackEmulator, PagerDutyEmulator, StatuspageEmulator]
) -> StatuspageEmulator:
    return servers[2]


@pytest.fixture
def connections(
    tmp_path: Path, slack: SlackEmulator, pager: PagerDutyEmulator, page: StatuspageEmulator
) -> Connections:
    channels: list[Channel] = [
        LogChannel(tmp_path / "log"),
        slack_channel(SecretStr(TOKEN), slack.posted_to.id, url=f"{slack.url}/api", patience=PATIENCE),
        pager_duty(SecretStr(ROUTING_KEY), url=pager.url, patience=PATIENCE),
    ]
    status_page = Statuspage(PAGE, SecretStr(PAGE_KEY), url=page.url, patience=PATIENCE, pause_s=0)
    found = surrounded(tmp_path, *channels, status_page=status_page)
    return with_path(found, EscalationLevel(name="Lead", contacts=("lead@acme.io",)), EscalationLevel(name="CTO"))


def with_path(connections: Connections, *path: EscalationLevel) -> Connections:
    incidents = IncidentSettings(escalation=path, components=("the shop",))
    return replace(connections, settings=connections.settings.model_copy(update={"incidents": incidents}))


def opened(connections: Connections, title: str = "errors > 10 %", key: str = "", **more: object) -> Incident:
    severity = Severity(str(more.pop("severity", Severity.SEV1)))
    return open_or_join(connections, Opening(title, severity, "alerts", key=key))


def event(kind: EventKind, text: str = "", **more: object) -> IncidentEvent:
    return IncidentEvent.model_validate({"at": datetime.now(UTC), "by": "Ada", "kind": kind, "text": text, **more})


def test_an_incident_is_told_everywhere_and_has_a_channel_of_its_own(
    connections: Connections, slack: SlackEmulator, pager: PagerDutyEmulator, tmp_path: Path
) -> None:
    incident = opened(connections)
    shown, news = slack.posted_to.messages
    assert "*SEV1 on production: errors &gt; 10 %*" in shown.text
    assert "Status: Investigating" in shown.text
    assert news.thread_ts == shown.ts
    own = next(channel for channel in slack.channels.values() if channel.name.startswith("inc-"))
    assert own.topic == "SEV1: errors > 10 %"
    assert f"<#{own.id}>" in shown.text
    [alert] = pager.alerts.values()
    assert incident.id in alert.summary
    assert "INCIDENT REPORT" in (tmp_path / "log").read_text()
    assert incident.texts(EventKind.TOLD) == ["log, Slack, PagerDuty"]


def test_each_update_edits_the_same_message_and_adds_to_its_thread(
    connections: Connections, slack: SlackEmulator, pager: PagerDutyEmulator
) -> None:
    """Also from another process, with clients of its own."""
    incident = opened(connections)
    fresh = replace(
        connections,
        channels=tuple(
            slack_channel(SecretStr(TOKEN), slack.posted_to.id, url=f"{slack.url}/api", patience=PATIENCE)
            if channel.name == "Slack"
            else channel
            for channel in connections.channels
        ),
    )
    say(fresh, incident.id, event(EventKind.STATUS, status=IncidentStatus.MITIGATING), event(EventKind.ETA, "04:00"))
    say(fresh, incident.id, event(EventKind.NOTE, "looking at the locks"), aloud=False)
    shown, _, update = slack.posted_to.messages
    assert shown.edits == 1
    assert "Status: Mitigating" in shown.text
    assert "ETA: 04:00" in shown.text
    assert update.thread_ts == shown.ts
    [alert] = pager.alerts.values()
    assert alert.events == 2, "the same alert, no new one"
    assert len([one for one in slack.channels.values() if one.name.startswith("inc-")]) == 1


def test_two_incidents_have_messages_of_their_own(connections: Connections, slack: SlackEmulator) -> None:
    opened(connections, "one")
    opened(connections, "two")
    heads = [message for message in slack.posted_to.messages if message.thread_ts is None]
    assert ["one" in heads[0].text, "two" in heads[1].text] == [True, True]
    escalate_due(connections)
    assert [message.edits for message in slack.posted_to.messages if message.thread_ts is None] == [1, 1]


def test_alerts_of_one_cause_make_one_incident_that_a_later_one_raises_or_reopens(connections: Connections) -> None:
    first = opened(connections, "p95 > 5 s", key="p95-critical", severity="SEV2")
    joined = opened(connections, "errors > 10 %", key="error-rate-critical", severity="SEV1")
    assert joined.id == first.id
    assert joined.severity is Severity.SEV1
    again = opened(connections, "errors > 10 %", key="error-rate-critical", severity="SEV3")
    assert (again.severity, len(again.events)) == (Severity.SEV1, len(joined.events)), "nothing new, nothing lower"
    resolve(connections, first.id, by="Ada", note="v6 runs")
    reopened = opened(connections, "errors > 10 %", key="error-rate-critical", severity="SEV2")
    assert (reopened.id, reopened.status) == (first.id, IncidentStatus.INVESTIGATING)
    assert reopened.severity is Severity.SEV2
    assert EventKind.REOPENED in {one.kind for one in reopened.events}
    resolve(connections, first.id, by="Ada", note="v6 runs")
    by_hand = opened(connections, "something else")
    assert opened(connections, "errors > 10 %", key="error-rate-critical").id == by_hand.id, (
        "one that is open comes first"
    )
    resolve(connections, by_hand.id, by="Ada", note="over")
    first = opened(connections, "errors > 10 %", key="error-rate-critical")
    other = opened(connections, "disk", key="disk-critical")
    assert other.id == first.id, "while it is open all alerts of the environment join it"


def test_the_levels_are_called_one_after_the_other_until_somebody_answers(
    connections: Connections, pager: PagerDutyEmulator
) -> None:
    impatient = EscalationLevel(name="Lead", contacts=("lead@acme.io",), acknowledge_within_s=0.001)
    connections = with_path(connections, impatient, EscalationLevel(name="CTO", contacts=("+1 555",)))
    incident = opened(connections)
    [first] = escalate_due(connections)
    [second] = escalate_due(connections)
    assert [first.level, second.level] == [1, 2]
    assert "nobody of level 1" in second.why
    assert escalate_due(connections) == ()
    assert len(pager.alerts) == 3, "the incident, and each call"
    incident = acknowledge(connections, incident.id, by="Grace", note="on it")
    assert incident.acknowledged_at is not None
    assert {alert.state for alert in pager.alerts.values()} == {"acknowledged"}
    resolve(connections, incident.id, by="Grace", note="mended")
    assert {alert.state for alert in pager.alerts.values()} == {"resolved"}
    assert escalate_due(connections) == ()


def test_a_channel_that_is_down_stops_nothing_and_hears_of_it_later(
    connections: Connections, slack: SlackEmulator
) -> None:
    slack.token = "another"
    incident = opened(connections)
    assert incident.texts(EventKind.TOLD) == ["log, PagerDuty"]
    assert [one.channel for one in undelivered_of(connections).waiting().values()] == ["Slack"]
    slack.token = TOKEN
    say(connections, incident.id, event(EventKind.IMPACT, "nobody can pay"))
    assert any("opened by alerts" in message.text for message in slack.posted_to.messages)


def test_a_store_that_cannot_be_written_is_said(connections: Connections, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    broken = replace(connections, store=BackupStore(FolderStore(tmp_path / "file")))
    with pytest.raises(RejectedError, match="file"):
        opened(broken)


def test_resolving_writes_a_post_mortem_once_and_keeps_what_people_wrote(
    connections: Connections, tmp_path: Path
) -> None:
    incident = opened(connections)
    resolve(connections, incident.id, by="Ada", note="v6 runs")
    [draft] = (tmp_path / "logs").glob("postmortem_*.md")
    assert "# Post-mortem: errors" in draft.read_text()
    assert draft.stat().st_mode & 0o077 == 0
    draft.write_text("what people wrote")
    assert write_post_mortem(connections, incident.id).endswith(draft.name)
    assert draft.read_text() == "what people wrote"
    with pytest.raises(RefusedError, match="resolved already"):
        resolve(connections, incident.id, by="Ada", note="again")


def test_users_are_told_in_the_words_that_were_approved(
    connections: Connections, page: StatuspageEmulator, tmp_path: Path
) -> None:
    incident = opened(connections)
    assert page.incidents == [], "nothing is public by itself"
    publish(connections, incident.id, text="", by="Ada")
    publish(connections, incident.id, text="Payments fail for some.", by="Ada")
    resolve(connections, incident.id, by="Ada", note="v6 runs")
    publish(connections, incident.id, text="", by="Ada")
    [shown] = page.incidents
    assert shown.bodies == [
        "We are looking into a problem with the shop.",
        "Payments fail for some.",
        "The problem with the shop is over. We are sorry for the trouble.",
    ]
    assert shown.status == "resolved"
    assert "errors > 10 %" not in str(shown)
    with pytest.raises(RefusedError, match="no status page"):
        publish(replace(connections, status_page=None), incident.id, text="", by="Ada")
    site = FolderSite(tmp_path / "site")
    publish(replace(connections, status_page=None, status_site=site), incident.id, text="All is well.", by="Ada")
    assert records_of(connections).incident(incident.id).texts(EventKind.PUBLISHED)[-1] == "All is well."


def test_what_runs_do_while_an_incident_is_open_is_part_of_it(connections: Connections) -> None:
    note_run(connections, "v7 released", by="ci", is_action=True)
    assert records_of(connections).incidents() == []
    incident = opened(connections)
    note_run(connections, "v8 not released", by="ci", is_action=False)
    assert records_of(connections).incident(incident.id).acted_at is None
    note_run(connections, "rolled back", by="", is_action=True)
    found = records_of(connections).incident(incident.id)
    assert (found.texts(EventKind.ACTION), found.texts(EventKind.NOTE)) == (["rolled back"], ["v8 not released"])
    resolve(connections, incident.id, by="Ada", note="over")
    note_run(connections, "v9 released", by="ci", is_action=True)
    assert records_of(connections).incident(incident.id).texts(EventKind.ACTION) == ["rolled back"]


def test_open_action_items_are_reminded_of_once_they_are_due(connections: Connections, tmp_path: Path) -> None:
    incident = opened(connections)
    now = datetime.now(UTC)
    items = [("a1", "alert earlier", now), ("a2", "later", now + timedelta(days=3)), ("a3", "done", now)]
    for key, text, due in items:
        say(connections, incident.id, event(EventKind.ACTION_ITEM, text, key=key, owner="Ben", due=due), aloud=False)
    say(connections, incident.id, event(EventKind.ITEM_DONE, key="a3"), aloud=False)
    [late] = remind(connections)
    assert late.startswith("alert earlier (owner Ben, due ")
    assert "1 action items of incidents are due" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("opening", "field"),
    [
        (Opening(" ", Severity.SEV1, "Ada"), "title"),
        (Opening("x", Severity.SEV1, "Ada", began=datetime.now(UTC) + timedelta(hours=1)), "began"),
    ],
)
def test_an_incident_that_cannot_be_meant_is_not_opened(connections: Connections, opening: Opening, field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        open_or_join(connections, opening)
    assert records_of(connections).incidents() == []

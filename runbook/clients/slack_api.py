"""The part of Slack's Web API that the runbook needs: messages, channels, files.

Slack says no with HTTP 200 and `"ok": false`. What a lost answer has done is found by looking: a message carries an
id of its own in its metadata, a channel is known by its name, a file by its id.

Source: https://docs.slack.dev/reference/methods; https://docs.slack.dev/apis/web-api/rate-limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import httpx
from pydantic import BaseModel, Field, SecretStr

from runbook.clients.http_api import Answer, HttpApi, LostError, Patience, Service, TakenError
from runbook.errors import RejectedError

API_URL = "https://slack.com/api"
LONGEST = 3900
"""Characters of a message: Slack cuts off, and finally refuses, what is much longer."""

_EVENT = "runbook_message"
_LOOK = "50"  # newest messages among which one is looked for
_PAGE = "200"
_UNSURE = {"fatal_error", "internal_error", "request_timeout", "service_unavailable"}  # "may have succeeded partially"
_TOKEN = {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "not_allowed_token_type"}


class Identity(Answer):
    """Who a token belongs to."""

    team: str
    user: str


class Message(Answer):
    """A message; it is known by its channel and `ts` together."""

    channel: str
    ts: str


class Conversation(Answer):
    """A channel."""

    id: str
    name: str
    is_archived: bool = False


class _Verdict(Answer):
    ok: bool
    error: str = ""
    needed: str = ""


class _Created(Answer):
    channel: Conversation


class _Following(Answer):
    next_cursor: str = ""


class _Conversations(Answer):
    channels: list[Conversation]
    response_metadata: _Following = _Following()


class _Metadata(Answer):
    event_payload: dict[str, object] = Field(default_factory=dict[str, object])


class _Written(Answer):
    ts: str
    metadata: _Metadata = _Metadata()


class _History(Answer):
    messages: list[_Written]


class _Upload(Answer):
    upload_url: str
    file_id: str


class _FileDetails(Answer):
    channels: list[str] = Field(default_factory=list[str])
    groups: list[str] = Field(default_factory=list[str])


class _FileInfo(Answer):
    file: _FileDetails


class _Nothing(Answer):
    """An answer of which only `ok` counts."""


_Model = TypeVar("_Model", bound=BaseModel)


class SlackApi:
    """A workspace over HTTP, as an app with a bot token; the token is in no message.

    Every method raises `TransientError` when Slack is busy or cannot be reached, `LostError` when it is not known what
    it did, and `RejectedError` when it says no; the message has Slack's own word for it, and names the block and the
    scope that is missing.

    Scopes: `chat:write`; to find what a lost answer has done `channels:history` (`groups:history` in a private
    channel); `channels:manage` and `channels:read` for incident channels; `files:write` and `files:read` for files.
    """

    def __init__(self, token: SecretStr, patience: Patience | None = None, *, url: str, block: str) -> None:
        self._block = block
        self._patience = patience
        self._http = HttpApi(
            Service(
                name="Slack", url=url, key=token, words=lambda _answer: "", headers={"Authorization": "Bearer {key}"}
            ),
            patience,
        )

    def identity(self) -> Identity:
        """Return who the token belongs to."""
        return self._call("auth.test", "ask who the token belongs to", Identity, {}, repeatable=True)

    def post(
        self, channel: str, text: str, *, message_id: str, thread: str | None = None, aloud: bool = False
    ) -> Message:
        """Post a message, or a reply to one, `aloud` one that the whole channel sees.

        `message_id` is unique, and by it the message is found again.
        """
        body: dict[str, object] = {
            "channel": channel,
            "text": text[:LONGEST],
            "unfurl_links": False,
            "metadata": {"event_type": _EVENT, "event_payload": {"id": message_id}},
        }
        if thread is not None:
            body |= {"thread_ts": thread, "reply_broadcast": aloud}
        try:
            return self._call("chat.postMessage", "post a message", Message, body)
        except LostError:
            found = self._find(channel, message_id, thread)
            if found is None:
                raise
            return found

    def update(self, message: Message, text: str) -> None:
        """Change a message where it is."""
        body = {"channel": message.channel, "ts": message.ts, "text": text[:LONGEST]}
        self._call("chat.update", "update a message", _Nothing, body, repeatable=True)

    def create_channel(self, name: str) -> Conversation:
        """Create a public channel; `TakenError` when there is one of that name, archived or not.

        It is looked for beforehand: what is there when an answer is lost is then the one that was created.
        """
        if self.channel(name) is not None:
            raise TakenError(f"Slack, create #{name}: name_taken.")
        try:
            answer = self._call("conversations.create", f"create #{name}", _Created, {"name": name})
        except LostError:
            found = self.channel(name)
            if found is None or found.is_archived:
                raise
            return found
        return answer.channel

    def channel(self, name: str) -> Conversation | None:
        """Return a channel by its name; None when there is none, or the token does not see it."""
        cursor = ""
        while True:
            query = {"limit": _PAGE, "exclude_archived": "false"} | ({"cursor": cursor} if cursor else {})
            page = self._read("conversations.list", "list the channels", _Conversations, query)
            for found in page.channels:
                if found.name == name:
                    return found
            cursor = page.response_metadata.next_cursor
            if not cursor:
                return None

    def invite(self, channel: str, users: tuple[str, ...]) -> None:
        """Invite people by their ids; those who are there already stay."""
        body = {"channel": channel, "users": ",".join(users)}
        try:
            self._call("conversations.invite", "invite people", _Nothing, body, repeatable=True)
        except TakenError:
            return

    def set_topic(self, channel: str, topic: str) -> None:
        """Set the topic of a channel, at most 250 characters."""
        body = {"channel": channel, "topic": topic[:250]}
        self._call("conversations.setTopic", "set a topic", _Nothing, body, repeatable=True)

    def archive(self, channel: str) -> None:
        """Archive a channel; one that is archived already stays so."""
        body = {"channel": channel}
        try:
            self._call("conversations.archive", "archive a channel", _Nothing, body, repeatable=True)
        except TakenError:
            return

    def upload(self, channel: str, name: str, content: bytes, *, thread: str | None = None) -> None:
        """Share a file in a channel, or as a reply there.

        Source: https://docs.slack.dev/messaging/working-with-files/#uploading_files.
        """
        what = f"upload {name}"
        query = {"filename": name, "length": str(len(content))}
        place = self._read("files.getUploadURLExternal", what, _Upload, query)
        # The address is a secret of its own, at another host, where the token is not sent to.
        target = Service("Slack", place.upload_url, SecretStr(place.upload_url), lambda _answer: "", headers={})
        HttpApi(target, self._patience).send("POST", "", what, content=content, repeatable=True)
        body: dict[str, object] = {"files": [{"id": place.file_id, "title": name}], "channel_id": channel}
        if thread is not None:
            body["thread_ts"] = thread
        try:
            self._call("files.completeUploadExternal", what, _Nothing, body)
        except LostError:
            about = self._read("files.info", f"look for {name}", _FileInfo, {"file": place.file_id}).file
            if channel not in (*about.channels, *about.groups):
                raise

    def _find(self, channel: str, message_id: str, thread: str | None) -> Message | None:
        method = "conversations.replies" if thread else "conversations.history"
        query = {"channel": channel, "limit": _LOOK, "include_all_metadata": "true"} | (
            {"ts": thread} if thread else {}
        )
        for written in self._read(method, "look for a message", _History, query).messages:
            if written.metadata.event_payload.get("id") == message_id:
                return Message(channel=channel, ts=written.ts)
        return None

    def _call(
        self, method: str, what: str, model: type[_Model], body: Mapping[str, object], *, repeatable: bool = False
    ) -> _Model:
        return self._understood(
            self._http.send("POST", f"/{method}", what, body=dict(body), repeatable=repeatable), what, model
        )

    def _read(self, method: str, what: str, model: type[_Model], query: Mapping[str, str]) -> _Model:
        return self._understood(self._http.send("GET", f"/{method}", what, query=query), what, model)

    def _understood(self, response: httpx.Response, what: str, model: type[_Model]) -> _Model:
        verdict = self._http.parse(response, what, _Verdict)
        if verdict.ok:
            return self._http.parse(response, what, model)
        said = f"Slack, {what}: {verdict.error}."
        if verdict.error in _UNSURE:
            raise LostError(said)
        if verdict.error in ("name_taken", "already_in_channel", "already_archived"):
            raise TakenError(said)
        raise RejectedError(f"{said} {self._hint(verdict)}".rstrip())

    def _hint(self, verdict: _Verdict) -> str:
        if verdict.error in _TOKEN:
            return f"Put a bot token (xoxb-...) of the app into the {self._block}."
        if verdict.error == "missing_scope":
            return f"Give the app whose token is in the {self._block} the scope {verdict.needed}, and install it again."
        if verdict.error in ("not_in_channel", "channel_not_found"):
            return f"Mend the channel in the {self._block}, and invite the app there (/invite)."
        return "Archived channels take no messages: name another one." if verdict.error == "is_archived" else ""

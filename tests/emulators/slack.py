"""A Slack in memory behind real HTTP: one workspace, its channels, messages and files, and an incoming webhook.

It has the traps of the real one: what goes wrong is answered with 200 and `"ok": false`, a message is known by channel
and `ts` together, arguments come as a form or as JSON and a form has `blocks` as JSON and truth as a text, the name of
an archived channel stays taken, and a webhook answers with words instead of JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from tests.emulators.service import JSON, Call, Emulator, Refusal, Reply

EVERYTHING = {
    "chat:write", "channels:history", "channels:manage", "channels:read", "files:read", "files:write"
}  # fmt: skip
_TEAM, _BOT, _USER = "T01234567", "B01234567", "U01234567"
_START_S = 1735992000
_LONGEST = 40_000  # characters of a text
_MOST = 50  # blocks


@dataclass
class Message:
    ts: str
    text: str
    blocks: list[JSON]
    thread_ts: str | None = None
    metadata: JSON = field(default_factory=dict[str, object])
    edits: int = 0


@dataclass
class Channel:
    id: str
    name: str
    is_private: bool = False
    is_archived: bool = False
    topic: str = ""
    members: list[str] = field(default_factory=list[str])
    messages: list[Message] = field(default_factory=list[Message])
    files: list[str] = field(default_factory=list[str])


@dataclass
class File:
    id: str
    name: str
    length: int
    title: str = ""
    content: bytes | None = None
    channel: str | None = None
    thread_ts: str | None = None


class SlackEmulator(Emulator):
    """The workspace and what goes wrong with it. `url` with `/api/` is where the Web API is."""

    def __init__(self, *, token: str, webhook_secret: str) -> None:
        self.token = token
        self.webhook_path = f"/services/{_TEAM}/{_BOT}/{webhook_secret}"
        self._webhook_secret = webhook_secret
        super().__init__()

    def reset(self) -> None:
        """Forget everything: there is one channel, `deploys`, to which the webhook posts; the token may do all."""
        super().reset()
        self.scopes = set(EVERYTHING)
        self.channels: dict[str, Channel] = {}
        self.files: dict[str, File] = {}
        self._ids = 0
        self.posted_to = self._add_channel("deploys", is_private=False)

    @property
    def secrets(self) -> list[str]:
        return [self.token, self._webhook_secret]

    @property
    def webhook_url(self) -> str:
        return self.url + self.webhook_path

    def named(self, name: str) -> Channel | None:
        return next((each for each in self.channels.values() if each.name == name), None)

    # HTTP

    def error(self, status: int, message: str) -> JSON:
        return {"ok": False, "error": "ratelimited" if status == 429 else message}

    def handle(self, call: Call) -> Reply:
        if call.method == "POST" and call.path.startswith("/services/"):
            return self._webhook(call)
        if call.method == "POST" and (match := re.fullmatch("/upload/v1/([^/]+)", call.path)):
            return self._upload(call, match[1])
        method = call.path.removeprefix("/api/")
        table: dict[str, tuple[str | None, Callable[[JSON], JSON]]] = {
            "auth.test": (None, self._auth_test),
            "chat.postMessage": ("chat:write", self._post),
            "chat.update": ("chat:write", self._update),
            "conversations.create": ("channels:manage", self._create),
            "conversations.list": ("channels:read", self._list),
            "conversations.invite": ("channels:manage", self._invite),
            "conversations.setTopic": ("channels:manage", self._set_topic),
            "conversations.archive": ("channels:manage", self._archive),
            "conversations.history": ("channels:history", self._history),
            "conversations.replies": ("channels:history", self._replies),
            "files.info": ("files:read", self._file_info),
            "files.getUploadURLExternal": ("files:write", self._upload_url),
            "files.completeUploadExternal": ("files:write", self._complete_upload),
        }
        if method not in table:
            raise Refusal(200, "unknown_method")
        scope, handler = table[method]
        given = _arguments(call)
        token = call.headers.get("authorization", "").removeprefix("Bearer ") or given.pop("token", "")
        if token != self.token:
            raise Refusal(200, "invalid_auth" if token else "not_authed")
        if scope is not None and scope not in self.scopes:
            provided = ",".join(sorted(self.scopes))
            return Reply(200, {"ok": False, "error": "missing_scope", "needed": scope, "provided": provided})
        return Reply(200, {"ok": True, **handler(given)})

    def _webhook(self, call: Call) -> Reply:
        def said(status: int, words: str) -> Reply:
            return Reply(status, words.encode(), {"content-type": "text/html"})

        if call.path != self.webhook_path:
            return said(404, "no_service")
        try:
            payload: JSON = dict(call.body)
        except (TypeError, ValueError):
            return said(400, "invalid_payload")
        if not payload.get("text") and not payload.get("blocks"):
            return said(400, "no_text")
        if self.posted_to.is_archived:
            return said(410, "channel_is_archived")
        self._write(self.posted_to, payload)
        return said(200, "ok")

    def _auth_test(self, given: JSON) -> JSON:
        about = {"url": f"{self.url}/", "team": "Mantis", "user": "runbook"}
        return about | {"team_id": _TEAM, "user_id": _USER, "bot_id": _BOT}

    def _post(self, given: JSON) -> JSON:
        channel = self._open(given)
        self._check_said(given)
        message = self._write(channel, given)
        return {"channel": channel.id, "ts": message.ts, "message": _message(message)}

    def _update(self, given: JSON) -> JSON:
        channel = self._open(given)
        message = next((each for each in channel.messages if each.ts == given.get("ts")), None)
        if message is None:
            raise Refusal(200, "message_not_found")
        self._check_said(given)
        message.text, message.edits = given.get("text", message.text), message.edits + 1
        message.blocks = given.get("blocks", message.blocks)
        return {"channel": channel.id, "ts": message.ts, "text": message.text, "message": {"text": message.text}}

    def _write(self, channel: Channel, given: JSON) -> Message:
        self._ids += 1
        ts = f"{_START_S + self._ids}.{self._ids:06d}"
        metadata = dict(given.get("metadata", {}))
        message = Message(ts, given.get("text", ""), given.get("blocks", []), given.get("thread_ts"), metadata)
        channel.messages.append(message)
        return message

    def _check_said(self, given: JSON) -> None:
        if not given.get("text") and not given.get("blocks"):
            raise Refusal(200, "no_text")
        if len(given.get("text", "")) > _LONGEST:
            raise Refusal(200, "msg_too_long")
        if len(given.get("blocks", [])) > _MOST:
            raise Refusal(200, "invalid_blocks")

    def _create(self, given: JSON) -> JSON:
        name = given.get("name", "")
        if not name:
            raise Refusal(200, "invalid_name_required")
        if len(name) > 80:
            raise Refusal(200, "invalid_name_maxlength")
        if re.fullmatch("[a-z0-9_-]+", name) is None:
            raise Refusal(200, "invalid_name_specials")
        if self.named(name) is not None:
            raise Refusal(200, "name_taken")
        return {"channel": _channel(self._add_channel(name, is_private=_is_true(given.get("is_private"))))}

    def _add_channel(self, name: str, *, is_private: bool) -> Channel:
        self._ids += 1
        channel = Channel(f"C{self._ids:09d}", name, is_private, members=[_USER])
        self.channels[channel.id] = channel
        return channel

    def _list(self, given: JSON) -> JSON:
        found = [
            each
            for each in self.channels.values()
            if not (each.is_archived and _is_true(given.get("exclude_archived")))
        ]
        size, at = int(given.get("limit", 100)), int(given.get("cursor") or 0)
        following = str(at + size) if at + size < len(found) else ""
        page = [_channel(each) for each in found[at : at + size]]
        return {"channels": page, "response_metadata": {"next_cursor": following}}

    def _history(self, given: JSON) -> JSON:
        written = [each for each in self._known(given).messages if each.thread_ts is None]
        newest = written[::-1][: int(given.get("limit", 100))]
        about = {"pin_count": 0, "channel_actions_ts": None, "channel_actions_count": 0}
        return about | {"messages": [_message(each) for each in newest], "has_more": len(written) > len(newest)}

    def _replies(self, given: JSON) -> JSON:
        channel, thread = self._known(given), given.get("ts")
        written = [each for each in channel.messages if thread in (each.ts, each.thread_ts)]
        if not written:
            raise Refusal(200, "thread_not_found")
        return {"messages": [_message(each) for each in written[: int(given.get("limit", 1000))]], "has_more": False}

    def _file_info(self, given: JSON) -> JSON:
        file = self.files.get(given.get("file", ""))
        if file is None:
            raise Refusal(200, "file_not_found")
        channels = [file.channel] if file.channel else []
        return {
            "file": {"id": file.id, "name": file.name, "title": file.title, "channels": channels, "groups": []},
            "comments": [],
        }

    def _invite(self, given: JSON) -> JSON:
        channel = self._open(given)
        users = given.get("users", "").split(",")
        if set(users) <= set(channel.members):
            raise Refusal(200, "already_in_channel")
        channel.members += [each for each in users if each not in channel.members]
        return {"channel": _channel(channel)}

    def _set_topic(self, given: JSON) -> JSON:
        channel = self._open(given)
        channel.topic = given.get("topic", "")[:250]
        return {"channel": _channel(channel)}

    def _archive(self, given: JSON) -> JSON:
        channel = self._known(given)
        if channel.is_archived:
            raise Refusal(200, "already_archived")
        channel.is_archived = True
        return {}

    def _upload_url(self, given: JSON) -> JSON:
        self._ids += 1
        file = File(f"F{self._ids:09d}", given["filename"], int(given["length"]))
        self.files[file.id] = file
        return {"upload_url": f"{self.url}/upload/v1/{file.id}", "file_id": file.id}

    def _upload(self, call: Call, file_id: str) -> Reply:
        if file_id not in self.files:
            return Reply(404, b"no such upload", {"content-type": "text/plain"})
        self.files[file_id].content = call.raw
        return Reply(200, f"OK - {len(call.raw)}".encode(), {"content-type": "text/plain"})

    def _complete_upload(self, given: JSON) -> JSON:
        done: list[JSON] = []
        for each in given["files"]:
            file = self.files.get(each["id"])
            if file is None or file.content is None:
                raise Refusal(200, "file_not_found")
            file.title = each.get("title", file.name)
            if given.get("channel_id"):
                file.channel, file.thread_ts = self._known({"channel": given["channel_id"]}).id, given.get("thread_ts")
                self.channels[file.channel].files.append(file.id)
            done.append({"id": file.id, "title": file.title})
        return {"files": done}

    def _open(self, given: JSON) -> Channel:
        channel = self._known(given)
        if channel.is_archived:
            raise Refusal(200, "is_archived")
        return channel

    def _known(self, given: JSON) -> Channel:
        asked = given.get("channel", "").removeprefix("#")
        channel = self.channels.get(asked) or self.named(asked)
        if channel is None:
            raise Refusal(200, "channel_not_found")
        return channel


def _arguments(call: Call) -> JSON:
    """Return what a method is given: in a query, in a form, or as JSON."""
    if "json" in call.headers.get("content-type", ""):
        return dict(call.body or {})
    given: JSON = dict(parse_qsl(call.query_string) + parse_qsl(call.raw.decode()))
    for name in ("blocks", "attachments", "files", "metadata"):
        if name in given:
            given[name] = json.loads(given[name])
    return given


def _is_true(given: object) -> bool:
    return given in (True, "true", "1")


def _message(message: Message) -> JSON:
    about = {"type": "message", "user": _USER, "bot_id": _BOT, "team": _TEAM, "ts": message.ts, "text": message.text}
    about |= {"blocks": message.blocks} if message.blocks else {}
    about |= {"metadata": message.metadata} if message.metadata else {}
    return about | ({"thread_ts": message.thread_ts} if message.thread_ts else {})


def _channel(channel: Channel) -> JSON:
    about = {"id": channel.id, "name": channel.name, "name_normalized": channel.name, "created": _START_S}
    about |= {"creator": _USER, "is_channel": True, "is_member": True, "num_members": len(channel.members)}
    about |= {"is_archived": channel.is_archived, "is_private": channel.is_private, "is_general": False}
    text = {"creator": _USER, "last_set": _START_S}
    return about | {"topic": {"value": channel.topic, **text}, "purpose": {"value": "", **text}}


@contextmanager
def slack_emulator(*, token: str, webhook_secret: str, port: int = 0) -> Generator[SlackEmulator]:
    """Serve an emulator on a free port of this machine, with `url` as the server's address."""
    emulator = SlackEmulator(token=token, webhook_secret=webhook_secret)
    with emulator.serving(port):
        yield emulator

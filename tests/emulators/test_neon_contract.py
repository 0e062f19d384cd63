"""What the client sends and the emulator answers, held against facts of Neon's contract.

The facts are of https://api-docs.neon.tech/reference, as far as the restore points use it. A request may hold nothing
that the contract does not know; an answer must hold what the contract promises, in the promised form.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, cast

import pytest
from pydantic import SecretStr

from runbook.clients.http_api import Patience
from runbook.clients.neon import NeonRestorePoints, NeonSettings
from runbook.errors import RunbookError
from tests.emulators.neon import COUNTERS, NeonEmulator, neon_emulator

TOKEN = "napi_contract"
NAME = "runbook-backup_20250104_120000"


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, as they are looked at here; None where there is no body."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    status: int
    answer: Any


def _seen(neon: NeonEmulator) -> list[Exchange]:
    return [
        Exchange(
            each.call.method, each.call.path, each.call.query, each.call.body, each.reply.status, each.reply.content
        )
        for each in neon.exchanges
    ]


@dataclass(frozen=True)
class Shape:
    """A JSON object: which keys it must have, which it may have, and what each holds."""

    required: Mapping[str, Rule] = field(default_factory=dict[str, "Rule"])
    optional: Mapping[str, Rule] = field(default_factory=dict[str, "Rule"])


@dataclass(frozen=True)
class ListOf:
    each: Rule


Rule = Shape | ListOf | Callable[[Any], bool]


def text(value: object) -> bool:
    return isinstance(value, str)


def filled(value: object) -> bool:
    return isinstance(value, str) and value != ""


def whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def truth(value: object) -> bool:
    return isinstance(value, bool)


def name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 256


def resource_id(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[a-z0-9-]{1,60}", value) is not None


def unique_id(value: object) -> bool:
    return isinstance(value, str) and str(uuid.UUID(value)) == value


def moment(value: object) -> bool:
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def moment_or_null(value: object) -> bool:
    return value is None or moment(value)


def count_to(largest: int) -> Callable[[Any], bool]:
    """A whole number from 1 on; in a query it arrives as text."""
    return lambda value: str(value).isdecimal() and 1 <= int(value) <= largest


def one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words


anything = Shape()
none_yet = ListOf(lambda _: False)

ACTIONS = one_of(
    *("create_compute", "create_timeline", "start_compute", "suspend_compute", "apply_config", "check_availability"),
    *("delete_timeline", "create_branch", "detach_parent_branch", "timeline_archive", "timeline_unarchive"),
)
STATUSES = one_of("scheduling", "running", "finished", "failed", "error", "cancelling", "cancelled", "skipped")

OPERATION = Shape(
    {
        "id": unique_id,
        "project_id": resource_id,
        "action": ACTIONS,
        "status": STATUSES,
        "failures_count": whole,
        "created_at": moment,
        "updated_at": moment,
        "total_duration_ms": whole,
    },
    {"branch_id": resource_id, "error": text},
)
BRANCH = Shape(
    {
        "id": resource_id,
        "project_id": resource_id,
        "name": text,
        "current_state": one_of("init", "resetting", "ready", "archived"),
        "state_changed_at": moment,
        "creation_source": text,
        "created_at": moment,
        "updated_at": moment,
        "default": truth,
        "protected": truth,
        **dict.fromkeys(COUNTERS, whole),
    },
    {
        "parent_id": resource_id,
        "parent_lsn": text,
        "init_source": text,
        "expires_at": moment,
        "last_reset_at": moment,
        "restored_from": text,
        "restored_as": text,
        "restore_status": one_of("restored", "finalized", "detaching"),
    },
)
SNAPSHOT = Shape(
    {"id": resource_id, "name": text, "created_at": text},
    {"lsn": text, "source_branch_id": resource_id, "expires_at": text, "manual": truth},
)
PROJECT = Shape(
    {
        **dict.fromkeys(("id", "name", "platform_id", "region_id", "proxy_host", "provisioner"), filled),
        **dict.fromkeys(("creation_source", "owner_id"), text),
        **dict.fromkeys((*COUNTERS, "data_storage_bytes_hour", "history_retention_seconds"), whole),
        **dict.fromkeys(("branch_logical_size_limit", "branch_logical_size_limit_bytes"), whole),
        **dict.fromkeys(("created_at", "updated_at", "consumption_period_start", "consumption_period_end"), moment),
        "pg_version": lambda value: value in range(14, 19),
        "store_passwords": truth,
    }
)
REFUSAL = Shape({"code": text, "message": text}, {"request_id": filled})
ANNOTATION = Shape({"object": Shape({"type": text, "id": text}), "value": anything})
ENDPOINT = Shape(
    {
        **dict.fromkeys(("host", "proxy_host", "region_id", "creation_source", "provisioner"), text),
        **dict.fromkeys(("id", "project_id", "branch_id"), resource_id),
        **dict.fromkeys(("autoscaling_limit_min_cu", "autoscaling_limit_max_cu"), number),
        **dict.fromkeys(("pooler_enabled", "disabled", "passwordless_access"), truth),
        **dict.fromkeys(("created_at", "updated_at"), moment),
        "type": one_of("read_only", "read_write"),
        "current_state": one_of("init", "active", "idle"),
        "pooler_mode": one_of("transaction"),
        "settings": anything,
        "suspend_timeout_seconds": whole,
    }
)
OPERATIONS = Shape({"operations": ListOf(OPERATION)})
CHANGED = Shape({"branch": BRANCH, "operations": ListOf(OPERATION)})


@dataclass(frozen=True)
class Call:
    """What may be sent, and what comes back by status; None is an empty answer."""

    answers: Mapping[int, Shape | None]
    query: Mapping[str, Rule] = field(default_factory=dict[str, Rule])
    body: Shape | None = None


CONTRACT: dict[tuple[str, str], Call] = {
    ("GET", ""): Call({200: Shape({"project": PROJECT})}),
    ("GET", "/operations"): Call(
        {200: Shape({"operations": ListOf(OPERATION)}, {"pagination": Shape({"cursor": filled})})},
        query={"cursor": text, "limit": count_to(1000)},
    ),
    ("GET", "/operations/{id}"): Call({200: Shape({"operation": OPERATION})}),
    ("GET", "/branches"): Call(
        {
            200: Shape(
                {"branches": ListOf(BRANCH), "annotations": anything},
                {"pagination": Shape({}, {"next": text, "sort_by": text, "sort_order": text})},
            )
        },
        query={"cursor": text, "limit": count_to(10000), "search": text},
    ),
    ("POST", "/branches"): Call(
        {
            201: Shape(
                {
                    "branch": BRANCH,
                    "operations": ListOf(OPERATION),
                    "endpoints": ListOf(ENDPOINT),
                    **dict.fromkeys(("roles", "databases"), none_yet),
                }
            )
        },
        body=Shape(
            {},
            {
                "endpoints": ListOf(Shape({"type": one_of("read_only", "read_write")})),
                "branch": Shape(
                    {},
                    {
                        "name": name,
                        "parent_id": resource_id,
                        "parent_lsn": text,
                        "parent_timestamp": moment,
                        "expires_at": moment,
                    },
                ),
            },
        ),
    ),
    ("GET", "/branches/{id}"): Call({200: Shape({"branch": BRANCH, "annotation": ANNOTATION})}),
    ("PATCH", "/branches/{id}"): Call(
        {200: CHANGED},
        body=Shape({"branch": Shape({}, {"name": name, "protected": truth, "expires_at": moment_or_null})}),
    ),
    ("DELETE", "/branches/{id}"): Call({200: CHANGED, 204: None}, query={"hard_delete": one_of("true", "false")}),
    ("POST", "/branches/{id}/restore"): Call(
        {200: CHANGED},
        body=Shape(
            {"source_branch_id": resource_id},
            {"source_lsn": text, "source_timestamp": moment, "preserve_under_name": text},
        ),
    ),
    ("POST", "/branches/{id}/finalize_restore"): Call({200: OPERATIONS}, body=Shape({}, {"name": text})),
    ("POST", "/branches/{id}/snapshot"): Call(
        {200: Shape({"snapshot": SNAPSHOT, "operations": ListOf(OPERATION)})},
        query={"lsn": text, "timestamp": text, "name": text, "expires_at": moment},
    ),
    ("GET", "/branches/{id}/endpoints"): Call({200: Shape({"endpoints": ListOf(ENDPOINT)})}),
    ("POST", "/endpoints"): Call(
        {201: Shape({"endpoint": ENDPOINT, "operations": ListOf(OPERATION)})},
        body=Shape(
            {"endpoint": Shape({"branch_id": resource_id, "type": one_of("read_only", "read_write")})},
        ),
    ),
    ("DELETE", "/endpoints/{id}"): Call(
        {200: Shape({"endpoint": ENDPOINT, "operations": ListOf(OPERATION)}), 204: None}
    ),
    ("GET", "/connection_uri"): Call(
        {200: Shape({"uri": text})},
        query={"branch_id": resource_id, "database_name": text, "role_name": text, "pooled": one_of("true", "false")},
    ),
    ("GET", "/snapshots"): Call({200: Shape({"snapshots": ListOf(SNAPSHOT)})}),
    ("DELETE", "/snapshots/{id}"): Call({202: OPERATIONS}),
    ("POST", "/snapshots/{id}/restore"): Call(
        {200: CHANGED},
        body=Shape({}, {"name": text, "target_branch_id": resource_id, "finalize_restore": truth}),
    ),
}


def called(exchange: Exchange) -> tuple[str, str]:
    """Which call of the contract an exchange is."""
    match = re.fullmatch(r"/projects/[a-z0-9-]{1,60}(.*)", exchange.path)
    assert match is not None, exchange.path
    return exchange.method, re.sub(
        r"^(/(?:branches|operations|snapshots|endpoints)/)[a-z0-9-]{1,60}", r"\1{id}", match[1]
    )


def violations(exchange: Exchange) -> list[str]:
    """Say what in an exchange is not as the contract says."""
    call = CONTRACT[called(exchange)]
    found = _check(exchange.query, Shape({}, call.query), "query", strict=True)
    if exchange.body is not None:
        found += ["a body"] if call.body is None else _check(exchange.body, call.body, "body", strict=True)
    if exchange.status >= 400:
        return found + _check(exchange.answer, REFUSAL, "answer", strict=False)
    if exchange.status not in call.answers:
        return [*found, f"status {exchange.status}"]
    shape = call.answers[exchange.status]
    if shape is None:
        return found + ([] if exchange.answer is None else ["an answer"])
    return found + _check(exchange.answer, shape, "answer", strict=False)


def _check(value: object, rule: Rule, where: str, *, strict: bool) -> list[str]:
    if isinstance(rule, Shape):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        members, rules = cast("dict[str, object]", value), {**rule.required, **rule.optional}
        found = [f"{where} has no {key}" for key in rule.required if key not in members]
        for key, member in members.items():
            if key in rules:
                found += _check(member, rules[key], f"{where}.{key}", strict=strict)
            elif strict:
                found.append(f"{where} has {key}")
        return found
    if isinstance(rule, ListOf):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        members = cast("list[object]", value)
        return [line for member in members for line in _check(member, rule.each, f"{where}[]", strict=strict)]
    try:
        fits = rule(value)
    except ValueError:
        fits = False
    return [] if fits else [f"{where} is {value!r}"]


def _life_of_points(neon: NeonEmulator, kind: Literal["branch", "snapshot"]) -> None:
    points = NeonRestorePoints(
        NeonSettings(neon.project_id, "main", kind, neon.url), SecretStr(TOKEN), Patience(pause_s=0.005, poll_s=0.002)
    )
    points.check()
    kept = points.create(NAME, keep_for=timedelta(days=1))
    short = points.create("runbook-backup_20250105_120000", keep_for=None)
    points.remove(short)
    points.open(kept, f"opened-{kind}")
    points.address(f"opened-{kind}", database="shop", role="owner")
    points.take_place(f"opened-{kind}", preserve_as=f"replaced-{kind}")
    points.close(f"opened-{kind}")


@pytest.fixture(scope="module")
def exchanges() -> list[Exchange]:
    """All exchanges of the life of points of both kinds: undisturbed, disturbed, and refused."""
    found: list[Exchange] = []
    kinds: list[Literal["branch", "snapshot"]] = ["branch", "snapshot"]
    for kind in kinds:
        for disturb in (False, True):
            with neon_emulator(token=TOKEN, page_size=2) as neon:
                if disturb:
                    _disturb(neon)
                _life_of_points(neon, kind)
                found += _seen(neon)
    for refuse in (_revoke, _fail):
        with neon_emulator(token=TOKEN) as neon:
            refuse(neon)
            with pytest.raises(RunbookError):
                _life_of_points(neon, "branch")
            found += _seen(neon)
    return found


def _disturb(neon: NeonEmulator) -> None:
    neon.hide_new_branches(reads=1)
    for status in (423, 429, 503):
        neon.refuse("POST", "", status)
    for path in ("/branches$", "/snapshot$", "/branches/.*/restore$", "/snapshots/.*/restore$", "/finalize_restore$"):
        neon.lose("POST", path)
    neon.lose("DELETE", "")


def _revoke(neon: NeonEmulator) -> None:
    neon.expire_token(after=3)


def _fail(neon: NeonEmulator) -> None:
    neon.fail_operation("create_branch", "no room")


def test_every_exchange_is_as_the_contract_says(exchanges: list[Exchange]) -> None:
    assert len(exchanges) > 100
    assert [(each.method, each.path, line) for each in exchanges for line in violations(each)] == []


def test_every_call_of_the_contract_was_made(exchanges: list[Exchange]) -> None:
    assert {called(each) for each in exchanges} == set(CONTRACT)
    assert {each.status for each in exchanges} >= {200, 201, 202, 401, 423, 429, 503}


def _first(exchanges: list[Exchange], method: str, path: str) -> Exchange:
    return copy.deepcopy(next(each for each in exchanges if called(each) == (method, path) and each.status < 300))


SPOILED: list[tuple[Callable[[Exchange], object], str]] = [
    (lambda each: each.body["branch"].update(name=""), "body.branch.name is ''"),
    (lambda each: each.body["branch"].update(expires="2025-01-04"), "body.branch has expires"),
    (lambda each: each.body["branch"].update(expires_at="2025-01-04T12:00:00"), "body.branch.expires_at is"),
    (lambda each: each.body.update(endpoints=[{"type": "fast"}]), r"body.endpoints\[\].type is"),
    (lambda each: each.query.update(name="x"), "query has name"),
    (lambda each: each.answer.pop("operations"), "answer has no operations"),
    (lambda each: each.answer["operations"][0].update(status="done"), r"answer.operations\[\].status is 'done'"),
    (lambda each: each.answer["operations"][0].update(id="1"), r"answer.operations\[\].id is '1'"),
    (lambda each: each.answer["branch"].update(default="yes"), "answer.branch.default is 'yes'"),
    (lambda each: each.answer["branch"].pop("protected"), "answer.branch has no protected"),
    (lambda each: each.answer.update(branch=[]), "answer.branch is no object"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILED, ids=[said for _, said in SPOILED])
def test_an_exchange_that_breaks_the_contract_is_found(
    exchanges: list[Exchange], spoil: Callable[[Exchange], object], said: str
) -> None:
    exchange = _first(exchanges, "POST", "/branches")
    spoil(exchange)
    assert [line for line in violations(exchange) if re.match(said, line)] == violations(exchange) != []


def test_a_status_a_body_and_an_answer_that_do_not_belong_are_found(exchanges: list[Exchange]) -> None:
    removed = _first(exchanges, "DELETE", "/snapshots/{id}")
    assert violations(replace(removed, status=200)) == ["status 200"]
    assert violations(replace(removed, body={})) == ["a body"]
    assert violations(replace(removed, status=401, answer={"error": "no"})) == [
        "answer has no code",
        "answer has no message",
    ]


def test_no_exchange_shows_the_key(exchanges: list[Exchange]) -> None:
    assert TOKEN not in repr(exchanges)

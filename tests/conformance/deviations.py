"""Where what is exchanged is known not to be as the official document says, and why that is right.

A test holds that each of them still is one: once a document has caught up, its line has to go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.conformance.services import contract_of
from tests.emulators.recording import Record


@dataclass(frozen=True)
class Deviation:
    """A violation that is expected: of `operation` (pattern), worded as `said` (pattern)."""

    service: str
    operation: str
    said: str
    why: str

    def covers(self, record: Record, violation: str) -> bool:
        if record.service != self.service or re.search(self.said, violation) is None:
            return False
        name = contract_of(record.service).operation_of(record) or f"{record.method} {record.path}"
        return re.fullmatch(self.operation, name) is not None


DEVIATIONS = [
    Deviation(
        "github",
        ".*",
        "answer: status (301|400|401|403|404|422)$",
        "the document lists few of the refusals that any call may meet (docs.github.com, Troubleshooting the REST API);"
        " how they are worded is validated all the same",
    ),
    Deviation(
        "github",
        ".*",
        r"answer: Additional properties are not allowed \('status' was unexpected\)$",
        "GitHub says the status in all its refusals, the document only in those that are not about validation",
    ),
    Deviation(
        "sentry",
        "GET /.*/events-timeseries/",
        "request: 'errors' is not one of",
        "the document leaves out the dataset of error events, which Sentry's own pages ask for at this address",
    ),
    Deviation(
        "sentry",
        ".*",
        "answer: status (208|4..)$",
        "the types of the client have the first success alone; docs.sentry.io has 208 for a release that is there",
    ),
    Deviation(
        "slack",
        "POST /api/(auth.test|conversations.list)",
        "request: no such operation",
        "the document has these as GET; Slack takes every method as POST, which is how its library sends all of them",
    ),
    Deviation(
        "slack",
        "(GET|POST) /(api/files.(getUploadURL|completeUpload)External|upload/.*|services/.*)",
        "request: no such operation",
        "the document is older than this way to upload, and has no webhooks",
    ),
    Deviation(
        "slack",
        "POST /chat.postMessage",
        r"request: Additional properties are not allowed \('metadata' was unexpected\)$",
        "the document is older than metadata of messages (docs.slack.dev/messaging/message-metadata)",
    ),
    Deviation(
        "slack",
        "(POST /chat.postMessage|GET /conversations.(history|replies))",
        r"answer.*: Additional properties are not allowed \('metadata' was unexpected\)$",
        "as above",
    ),
    Deviation(
        "slack",
        ".*",
        r"answer: Additional properties are not allowed \('(provided|needed)', '(provided|needed)' were unexpected\)$",
        "how Slack says which scope a token lacks (docs.slack.dev/reference/methods, common errors)",
    ),
    Deviation(
        "slack",
        ".*",
        "answer.error: 'missing_scope' is not one of",
        "as above: the document leaves this refusal out of most methods",
    ),
    Deviation(
        "slack",
        "GET /conversations.history",
        r"answer.messages: \[\] should be non-empty$",
        "a channel in which nobody has written has no messages",
    ),
    Deviation(
        "slack",
        "GET /conversations.(history|replies)",
        "request.query: include_all_metadata is not a parameter",
        "as above",
    ),
    Deviation(
        "vercel",
        "POST /v13/deployments",
        r"request: Additional properties are not allowed \('autoAssignCustomDomains' was unexpected\)$",
        "the only way to stage one deployment without changing the project; `vercel deploy --skip-domain` sends it",
    ),
    Deviation(
        "vercel",
        "GET /v9/projects/.*",
        "request.query: rollbackInfo is not a parameter",
        "how `vercel promote` and `vercel rollback` ask how far they are; the answer is documented",
    ),
    Deviation(
        "vercel",
        "POST /v.*/(promote|rollback)/.*",
        "request: a body",
        "`vercel promote` and `vercel rollback` send an empty object, the document knows no body",
    ),
    Deviation(
        "vercel",
        "GET /v9/projects/.*/(promote|rollback)/aliases",
        "request: no such operation",
        "where the command line asks which domains were not moved; the document has it for a promote only, as /v1/",
    ),
    Deviation(
        "vercel",
        "(GET|POST) /metrics/v1",
        "request: no such operation",
        "what `vercel metrics` asks; the document has another interface, for the same numbers, in another plan",
    ),
]


def unexpected(record: Record) -> list[str]:
    """Say what in an exchange is not as the document says, without what is known."""
    return [
        violation
        for violation in contract_of(record.service).violations(record)
        if not any(deviation.covers(record, violation) for deviation in DEVIATIONS)
    ]

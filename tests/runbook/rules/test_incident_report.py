"""The incident report that a rollback opens: the runbook's template and lists, filled in as far as a run knows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from runbook.journal import Effect, Entry, EntryKind
from runbook.reports import (
    DeployReport,
    FinalState,
    Replay,
    RollbackReport,
    RollbackScope,
    Step,
    StepStatus,
    TableLoss,
    TableReplay,
)
from runbook.rules.incident_report import (
    BLANK,
    Incident,
    deploy_taken_back,
    render_incident,
    render_update,
    severity_of,
)
from runbook.rules.thresholds import Severity
from runbook.settings import ReplayMethod

OLD, BAD = "a" * 40, "b" * 40
AT = datetime(2025, 1, 4, 12, 30, 15, tzinfo=UTC)
KEPT = "shop_before_rollback_20250104_123015_000000"
HEADINGS = [
    "Incident: rollback full of production, 2025-01-04 12:30:15 UTC",
    "What went wrong",
    "When it was detected",
    "Actions taken",
    "Current status",
    "Timeline for fix",
    "Timeline",
    "Root Cause Analysis",
    "Identify cause",
    "Determine how to prevent",
    "Update deployment process",
    "Add tests if needed",
    "Follow-up Tasks",
    "Left by the rollback",
    "Notify Stakeholders",
    "Plan Forward Fix",
]
# From the effects to the end, as a rollback that works writes it down: kind, effect, the intent it is about.
WHOLE: list[tuple[EntryKind, Effect | None, int | None, dict[str, Any]]] = [
    (EntryKind.BEGUN, None, None, {}),
    (EntryKind.INTENT, Effect.COPY, None, {"backupId": "backup_20250104_120000"}),
    (EntryKind.DONE, Effect.COPY, 2, {}),
    (EntryKind.INTENT, Effect.SWAP, None, {"restored": "shop_restored"}),
    (EntryKind.DONE, Effect.SWAP, 4, {}),
    (EntryKind.INTENT, Effect.ROLL_BACK_APPLICATION, None, {"releaseId": "r-old", "previous": "r-bad"}),
    (EntryKind.DONE, Effect.ROLL_BACK_APPLICATION, 6, {}),
    (EntryKind.PASSED, None, None, {}),
    (EntryKind.INTENT, Effect.HOLD, None, {}),
    (EntryKind.DONE, Effect.HOLD, 9, {}),
]


def journal(*kinds: tuple[EntryKind, Effect | None, int | None, dict[str, Any]]) -> list[Entry]:
    """Return entries, one a second."""
    return [
        Entry(
            run="rollback_20250104_123015_000000",
            number=number,
            at=AT + timedelta(seconds=number),
            token=1,
            kind=kind,
            effect=effect,
            intent=intent,
            detail=detail,
        )
        for number, (kind, effect, intent, detail) in enumerate(kinds, 1)
    ]


def report_of(**changed: object) -> RollbackReport:
    report = RollbackReport(
        environment="production",
        timestamp=AT,
        scope=RollbackScope.FULL,
        backup_id="backup_20250104_120000",
        reason="SEV1: Complete outage",
        triggered_by="mira",
        approved_by="mira (--yes)",
        from_git_sha=BAD,
        to_git_sha=OLD,
        to_version="v1",
        kept_database=KEPT,
        replay=Replay(method=ReplayMethod.SLOT, tables=(TableReplay(table="public.orders", inserted=7),)),
        duration=20,
        success=True,
        state=FinalState.VERIFIED,
        steps=(
            Step(step="Database: Swap", status=StepStatus.COMPLETED, duration=0.25),
            Step(step="Final State", status=StepStatus.FAILED, duration=1, error="no | answer"),
        ),
    )
    return report.model_copy(update=changed)


def failed(**changed: object) -> RollbackReport:
    given: dict[str, object] = {"success": False, "kept_database": None, "replay": None, "error": "does not start"}
    return report_of(**(given | changed))


def deploy_of(sha: str, at: datetime, *, success: bool = True, environment: str = "production") -> DeployReport:
    return DeployReport(
        environment=environment,
        timestamp=at,
        git_ref="main",
        git_sha=sha,
        version=f"v-{sha[0]}",
        reason="scheduled release",
        triggered_by="ci",
        duration=60,
        success=success,
        state=FinalState.VERIFIED,
        steps=(),
    )


def incident_of(
    report: RollbackReport | None = None, entries: Sequence[Entry] | None = None, deploy: DeployReport | None = None
) -> Incident:
    return Incident(
        report or report_of(), journal(*WHOLE) if entries is None else entries, deploy, AT + timedelta(minutes=1)
    )


def headings(markdown: str) -> list[str]:
    """Return what a renderer takes for headings."""
    tokens = MarkdownIt().parse(markdown)
    return [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]


def section(markdown: str, heading: str) -> list[str]:
    """Return the lines below a heading, up to the next one."""
    lines = iter(markdown.splitlines())
    for line in lines:
        if line.lstrip("#").strip() == heading and line.startswith("#"):
            break
    found: list[str] = []
    for line in lines:
        if line.startswith("#"):
            break
        found.append(line)
    return [line for line in found if line]


def message(markdown: str) -> str:
    """Return the block that is copied to stakeholders."""
    [block] = [token.content for token in MarkdownIt().parse(markdown) if token.type == "fence"]
    return block


def test_the_message_is_the_runbooks_template_filled_in() -> None:
    assert (
        message(render_incident(incident_of()))
        == f"""\
🚨 INCIDENT REPORT

Severity: SEV1
Status: Mitigating
Started: [to be filled in] before 2025-01-04 12:30:15 UTC, when the rollback began
Impact: [to be filled in]

Current Status:
The rollback (full) succeeded: VERIFIED, probes found what had to be there.
Application: v1 has the traffic.
Database: restored from backup_20250104_120000; the replaced one is {KEPT}, closed.
Deploys are held until somebody releases the environment.

Actions Taken:
- Restore backup_20250104_120000 beside the live database: done
- Swap in the restored database shop_restored: done
- Switch the traffic from r-bad back to r-old: done
- Hold the environment against deploys: done

Next Steps:
- Drop {KEPT} on purpose, once nobody needs what is in it
- Release the hold, once it is mended: runbook deploy:release --environment=production --reason="..."
- Create fix branch
- Add regression tests
- Review thoroughly
- Deploy during maintenance window

ETA: [to be filled in]

Updated: 2025-01-04 12:31:15 UTC
"""
    )


def test_all_that_the_runbook_asks_for_after_a_rollback_has_its_place() -> None:
    markdown = render_incident(incident_of(deploy=deploy_of(BAD, AT - timedelta(hours=1))))
    assert headings(markdown) == HEADINGS
    assert section(markdown, "What went wrong") == [
        "- Reason given by mira: SEV1: Complete outage",
        f"- Release to be taken back: v-b ({BAD[:12]}), scheduled release",
        f"- {BLANK}",
    ]
    for left_to_people in ("When it was detected", "Timeline for fix", "Identify cause", "Add tests if needed"):
        assert any(BLANK in line for line in section(markdown, left_to_people))
    assert section(markdown, "Notify Stakeholders") == [
        "- [ ] Deployment team",
        "- [ ] Product team",
        "- [ ] Customer support",
        "- [ ] End users (if appropriate)",
    ]
    assert section(markdown, "Plan Forward Fix")[0] == "- [ ] Create fix branch"


def test_the_steps_are_a_table_whatever_their_errors_say() -> None:
    rows = section(render_incident(incident_of()), "Actions taken")[-2:]
    assert rows == [
        "| Database: Swap | completed | 0.2 |  |",
        r"| Final State | failed | 1.0 | no \| answer |",
    ]


def test_the_timeline_goes_from_the_deploy_of_the_bad_release_to_the_end() -> None:
    markdown = render_incident(incident_of(deploy=deploy_of(BAD, AT - timedelta(hours=1))))
    assert section(markdown, "Timeline") == [
        "- 2025-01-04 11:30:15 UTC: Deploy of v-b begun by ci",
        "- 2025-01-04 11:31:15 UTC: Deploy of v-b ended VERIFIED",
        "- 2025-01-04 12:30:16 UTC: Rollback begun, asked for by mira, approved by mira (--yes)",
        "- 2025-01-04 12:30:17 UTC: Restore backup_20250104_120000 beside the live database: begun",
        "- 2025-01-04 12:30:18 UTC: Restore backup_20250104_120000 beside the live database: done",
        "- 2025-01-04 12:30:19 UTC: Swap in the restored database shop_restored: begun",
        "- 2025-01-04 12:30:20 UTC: Swap in the restored database shop_restored: done",
        "- 2025-01-04 12:30:21 UTC: Switch the traffic from r-bad back to r-old: begun",
        "- 2025-01-04 12:30:22 UTC: Switch the traffic from r-bad back to r-old: done",
        "- 2025-01-04 12:30:23 UTC: Passed: from here on it is finished, not undone",
        "- 2025-01-04 12:30:24 UTC: Hold the environment against deploys: begun",
        "- 2025-01-04 12:30:25 UTC: Hold the environment against deploys: done",
        "- 2025-01-04 12:31:15 UTC: Rollback ended VERIFIED",
        f"- {BLANK}: when it began, when it was detected",
    ]


def test_an_effect_that_failed_and_was_taken_back_is_told_as_that() -> None:
    entries = journal(
        *WHOLE[:4],
        (EntryKind.FAILED, Effect.SWAP, 4, {"error": "in use"}),
        (EntryKind.UNDONE, Effect.SWAP, 4, {}),
        (EntryKind.UNDONE, Effect.COPY, 2, {}),
    )
    markdown = render_incident(incident_of(failed(), entries))
    assert section(markdown, "Actions taken")[:2] == [
        "- Restore backup_20250104_120000 beside the live database: taken back",
        "- Swap in the restored database shop_restored: taken back",
    ]
    assert "- 2025-01-04 12:30:20 UTC: Swap in the restored database shop_restored: failed, in use" in markdown
    assert section(markdown, "Current status") == [
        "- The rollback (full) failed: VERIFIED, probes found what had to be there.",
        "- What it had begun was taken back; what was to be rolled back still runs.",
        "- Error: does not start",
    ]
    assert section(markdown, "Left by the rollback") == [
        "- [ ] Decide what else to do: the rollback failed, and what it was to take back still runs"
    ]


def test_a_rollback_that_ended_before_its_first_effect_says_so() -> None:
    markdown = render_incident(incident_of(failed(), journal(*WHOLE[:1])))
    assert section(markdown, "Actions taken")[0] == "- The rollback ended before its first effect; nothing was changed."


def test_what_a_dead_run_did_not_write_down_is_not_guessed() -> None:
    entries = journal(*WHOLE[:4], (EntryKind.TAKEN_OVER, None, None, {"by": "recover_1"}))
    markdown = render_incident(incident_of(report_of(replay=None), entries))
    assert "- Swap in the restored database shop_restored: begun; how it ended was not written down" in section(
        markdown, "Actions taken"
    )
    assert "- 2025-01-04 12:30:20 UTC: The run had died; recover_1 went on" in section(markdown, "Timeline")
    assert section(markdown, "Left by the rollback")[0] == (
        "- [ ] See whether the writes since backup_20250104_120000 were replayed, which the dead run knew: compare "
        f"with {KEPT}, and look for logs/quarantine_20250104_123015_000000.jsonl"
    )


LOSS = TableLoss(table="public.orders", rows_now=107, rows_restored=100, inserted=7, is_exact=True)
RELEASE_HOLD = 'Release the hold, once it is mended: runbook deploy:release --environment=production --reason="..."'
DROP = f"Drop {KEPT} on purpose, once nobody needs what is in it"
REPLAY = Replay(
    method=ReplayMethod.SLOT,
    tables=(),
    quarantined=3,
    quarantine_file="logs/quarantine_1.jsonl",
    left_behind=("public.audit",),
)


@pytest.mark.parametrize(
    ("report", "left"),
    [
        pytest.param(report_of(), [DROP, RELEASE_HOLD], id="all went well"),
        pytest.param(
            report_of(replay=REPLAY, data_loss=(LOSS.model_copy(update={"cannot_replay": "it has no key"}),)),
            [
                "Look at the 3 rows that did not fit: logs/quarantine_1.jsonl",
                f"Bring back what was written to public.audit: it is as in the backup, the rows are in {KEPT}",
                f"Bring back what was written to public.orders: it is as in the backup, the rows are in {KEPT}",
                DROP,
                RELEASE_HOLD,
            ],
            id="rows that were not replayed",
        ),
        pytest.param(
            report_of(replay=None, data_loss=(LOSS,)),
            [f"Bring back what is needed of what was lost, from {KEPT}: {LOSS.render()}", DROP, RELEASE_HOLD],
            id="writes discarded",
        ),
        pytest.param(
            failed(state=FinalState.DIVERGED, findings=("undo failed: stuck",)),
            [
                "Look at what runs, by hand: the state found is not what was planned",
                "Look at this finding: undo failed: stuck",
                RELEASE_HOLD,
            ],
            id="DIVERGED",
        ),
    ],
)
def test_the_follow_up_tasks_are_those_that_this_rollback_leaves(report: RollbackReport, left: list[str]) -> None:
    entries = journal(*(WHOLE if report.success else WHOLE[:1]))
    markdown = render_incident(incident_of(report, entries))
    assert section(markdown, "Left by the rollback") == [f"- [ ] {task}" for task in left]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("SEV1: Complete outage", Severity.SEV1),
        ("High error rate (sev2)", Severity.SEV2),
        ("was SEV3, now SEV2", Severity.SEV2),
        ("SEV4", Severity.SEV4),
        ("SEV5", None),
        ("SEV10", None),
        ("several errors", None),
        ("", None),
    ],
)
def test_the_severity_is_the_one_that_the_reason_names(reason: str, expected: Severity | None) -> None:
    assert severity_of(reason) is expected
    shown = expected or f"{BLANK} SEV1/SEV2/SEV3/SEV4"
    assert f"\nSeverity: {shown}\n" in render_incident(incident_of(report_of(reason=reason)))


def test_the_deploy_taken_back_is_the_last_one_of_that_release_before_the_rollback() -> None:
    wanted = deploy_of(BAD, AT - timedelta(minutes=5))
    history = [
        deploy_of(BAD, AT - timedelta(minutes=9)),
        wanted,
        deploy_of(BAD, AT - timedelta(minutes=4), success=False),
        deploy_of(BAD, AT - timedelta(minutes=3), environment="staging"),
        deploy_of(OLD, AT - timedelta(minutes=2)),
        report_of(timestamp=AT - timedelta(minutes=1)),
        deploy_of(BAD, AT + timedelta(minutes=1)),
    ]
    assert deploy_taken_back(history, report_of()) is wanted
    assert deploy_taken_back(history, report_of(from_git_sha=None)) is None


def test_another_run_that_went_on_adds_what_it_found_and_keeps_what_people_wrote() -> None:
    opened = render_incident(incident_of()) + "\nWe saw it at noon."
    changed = failed(state=FinalState.DIVERGED, findings=("served version: c",))
    markdown = opened + render_update(incident_of(changed))
    update = "Update of 2025-01-04 12:31:15 UTC: another run went on with this rollback"
    assert headings(markdown) == [*HEADINGS, update, "Left since"]
    assert "We saw it at noon." in markdown
    assert section(markdown, update)[0].startswith("- The rollback (full) failed: DIVERGED")


MARKUP = [
    "\n",
    "\r\n",
    "\u2028",
    "```",
    "~~~",
    "# x",
    "- ",
    "> ",
    "1. ",
    "---",
    "===",
    "|",
    "<!--",
    "<h1>",
    "[a]: b",
    "\\",
]
TEXT = st.text() | st.lists(st.sampled_from([*MARKUP, "&#35;", "*a*", "_a_", "![a](b)", "\x1b[2J", "\u202e", "a"])).map(
    "".join
)
LABELS = ["Severity", "Status", "Started", "Impact", "Current Status", "Actions Taken", "Next Steps", "ETA", "Updated"]


@given(reason=TEXT, finding=TEXT, error=TEXT, who=TEXT, detail=TEXT)
@example("```\n# mine", "\n\n# mine\n", "<!-- ", "- [ ] \n===", "|\n---")
@example("\nSeverity: SEV4\n", "\nUpdated: never", "```", "\nETA: soon", "Status: Resolved")
def test_whatever_people_write_the_headings_and_the_message_stay_whole(
    reason: str, finding: str, error: str, who: str, detail: str
) -> None:
    def written(reason: str, finding: str, error: str, who: str, detail: str) -> str:
        report = report_of(reason=reason, findings=(finding,), error=error, triggered_by=who, approved_by=who)
        entries = journal(*WHOLE[:1], (EntryKind.INTENT, Effect.SWAP, None, {"restored": detail}))
        deploy = deploy_of(BAD, AT).model_copy(update={"version": detail, "reason": reason, "triggered_by": who})
        incident = incident_of(report, entries, deploy)
        return render_incident(incident) + render_update(incident)

    markdown, plain = written(reason, finding, error, who, detail), written("a", "b", "c", "d", "e")
    assert headings(markdown)[:-2] == HEADINGS
    assert shape(markdown) == shape(plain)
    labels = [line.split(":")[0] for line in message(markdown).splitlines()]
    assert [label for label in labels if label in LABELS] == LABELS


def shape(markdown: str) -> list[str]:
    """Return the blocks that a renderer finds; all that is in them has to be text."""
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    assert {child.type for token in tokens for child in token.children or ()} <= {"text", "softbreak"}
    return [token.type for token in tokens]

from __future__ import annotations

import json
import subprocess

from deployments.demo.facts import served_version
from tests.flows.conftest import Platform
from tests.flows.test_backups import artifact


def test_without_anything_wrong_there_is_no_incident(released: Platform) -> None:
    before = released.runbook("incident:show").stdout
    run = released.run("emergency/local")
    assert (run.exit_code, run.state) == (0, "COMPLETED"), run.output
    assert released.runbook("incident:show").stdout == before


def test_an_incident_is_opened_answered_and_resolved_in_the_ui(released: Platform) -> None:
    opened = released.run(
        "incident-open/local", title="orders fail", severity="SEV2", by="Ada", impact="nobody can pay"
    )
    assert opened.exit_code == 0, opened.output
    assert "Impact: nobody can pay" in artifact(released, "incident-message-local")["data"]
    called = released.run("incidents/local")
    assert "level 1 was called" in called.state_message
    assert released.runbook("incident:ack").returncode == 0
    assert released.run("incident-resolve/local", by="Grace", note="a lock; it is gone").exit_code == 0
    draft = artifact(released, "post-mortem-local")["data"]
    assert "# Post-mortem: orders fail" in draft
    assert "a lock; it is gone" in draft
    newest = max((released.local.root / "logs").glob("postmortem_*.md"))
    assert newest.read_text().startswith("# Post-mortem: orders fail")


def same_again(released: Platform) -> str:
    """Commit what runs once more, so that there is a newer release that is as good."""
    active = released.host.active()
    assert active is not None
    repository = str(released.local.repository)
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.test"]
    commit = ["commit-tree", f"{active.git_sha}^{{tree}}", "-p", active.git_sha, "-m", "feat: the same again"]
    argv = ["git", "-C", repository, *who, *commit]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()


def test_an_emergency_takes_a_recent_release_back_and_documents_it(released: Platform) -> None:
    """A person says SEV1 and consents; the rollback is a run of its own."""
    before = served_version(released.host.public_url)
    newer = same_again(released)
    deployed = released.run("deploy/local", git_ref=newer, reason="to be taken back")
    assert deployed.exit_code == 0, deployed.output
    assert served_version(released.host.public_url) == newer[:12]
    done = released.runbook("emergency", "--severity=SEV1", "--reason=nobody can order", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "The runbook says: roll back at once." in done.stdout
    assert f"Done: rolled back app-only to {before}: VERIFIED" in done.stdout
    assert served_version(released.host.public_url) == before
    shown = json.loads(released.runbook("incident:show", "--format=json").stdout)
    kinds = [event["kind"] for event in shown["events"]]
    assert kinds.index("assessed") < kinds.index("action")
    assert "Switch the traffic from" in released.runbook("incident:show", "--format=timeline").stdout
    again = released.run("emergency/local", severity="SEV1", alert="error-rate-critical")
    assert again.exit_code == 0, again.output
    assert served_version(released.host.public_url) == before, "what it went back to is not taken back as well"
    assert released.runbook("incident:resolve", "--note=it is gone").returncode == 0
    assert released.runbook("deploy:release", "--reason=mended").returncode == 0

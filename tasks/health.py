"""Stage 6 as tasks. Observations: never taken from a cache, or a rollback would verify itself against the outage."""

from __future__ import annotations

from runbook.stages import health
from tasks.retries import stage_task

validate_release = stage_task("Stage 6: Validation")(health.validate_release)
watch_release = stage_task("Stage 6: Watch", retries=2)(health.watch_release)
probe_state = stage_task("Final State")(health.probe_state)
verify_rollback = stage_task("Rollback Verification")(health.verify_rollback)

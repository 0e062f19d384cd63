"""Stage 5 as tasks. The host makes each of them safe to repeat: staging finds the release that is there already."""

from __future__ import annotations

from runbook.stages import application
from tasks.retries import stage_task

stage_release = stage_task("Stage 5: Staging", retries=2)(application.stage_release)

smoke_release = stage_task("Stage 5: Smoke Tests in Private")(application.smoke_release)

promote_release = stage_task("Stage 5: Promotion", retries=3)(application.promote_release)

start_rolling = stage_task("Stage 5: Rolling Release, Start", retries=3)(application.start_rolling)

# Not repeated: a stage that was reached although its answer was lost would be followed by the next one, unwatched.
advance_rolling = stage_task("Stage 5: Rolling Release, Next Stage")(application.advance_rolling)

warm_release = stage_task("Application: Warm", retries=2)(application.warm_release)

roll_back_release = stage_task("Application: Roll Back", retries=3)(application.roll_back_release)

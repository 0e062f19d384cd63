"""Stage 7 as a task. Not repeated: a channel that does not work is reported, and never stops an action."""

from __future__ import annotations

from runbook.stages import notification
from tasks.retries import stage_task

notify = stage_task("Stage 7: Notifications")(notification.notify)

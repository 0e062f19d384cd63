"""Stage 4 as tasks.

Both are safe to repeat: what the history lists is left out, and a transaction that failed left nothing.
"""

from __future__ import annotations

from runbook.stages import migration
from tasks.retries import stage_task

apply_migrations = stage_task("Stage 4: Database Migration", retries=3)(migration.apply_migrations)

undo_migrations = stage_task("Undo: Migrations", retries=3)(migration.undo_migrations)

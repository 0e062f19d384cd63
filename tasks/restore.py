"""Restoring as tasks. A restore fills a database of its own, so it is safe to repeat; a swap is not repeated."""

from __future__ import annotations

from runbook.stages import kept, quote, replay, restore
from tasks.retries import stage_task

restore_replacement = stage_task("Database: Restore Beside", retries=2)(restore.restore_replacement)
quote_loss = stage_task("Quote Loss", retries=2)(quote.quote_loss)
replay_writes = stage_task("Database: Replay Writes", retries=2)(replay.replay_writes)
swap_in = stage_task("Database: Swap")(restore.swap_in)
undo_swap = stage_task("Undo: Swap")(restore.undo_swap)
drop_restored = stage_task("Undo: Drop Restored")(restore.drop_restored)
swap_back = stage_task("Database: Swap Back")(kept.swap_back)
undo_swap_back = stage_task("Undo: Swap")(kept.undo_swap_back)
close_kept = stage_task("Undo: Close Kept", retries=2)(kept.close_kept)

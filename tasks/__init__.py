"""Stages as Prefect tasks."""

from __future__ import annotations

import logging

# What the stages say belongs into the log of the run; Prefect attaches its handlers to the loggers that
# PREFECT_LOGGING_EXTRA_LOGGERS names, but leaves their level at WARNING.
logging.getLogger("runbook").setLevel(logging.INFO)

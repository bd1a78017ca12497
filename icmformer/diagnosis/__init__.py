"""Checks of an installation and of what it works with: each says what is, and where that is wrong, what to do."""

from icmformer.diagnosis.checks import (
    Check,
    Fact,
    Options,
    Outcome,
    State,
    examine,
    failed,
    ok,
    one_line,
    skipped,
    warning,
)
from icmformer.diagnosis.web import Answer, NoAnswerError, ask, clock_offset

__all__ = [
    "Answer",
    "Check",
    "Fact",
    "NoAnswerError",
    "Options",
    "Outcome",
    "State",
    "ask",
    "clock_offset",
    "examine",
    "failed",
    "ok",
    "one_line",
    "skipped",
    "warning",
]

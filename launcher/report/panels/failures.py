"""Trials that failed or diverged: why, and the ends of their logs."""

from __future__ import annotations

from launcher.report.data import Report
from launcher.report.parts import Panel, Words

EXCERPTS = 30
"""Excerpts of logs at most."""
LAST_WORDS = 40
"""Lines of each."""


def panel(report: Report) -> Panel | None:
    """Failures of each launch."""
    lost = sum(c.lost for c in report.configurations)
    told = [(launch, launch.standing.failures(EXCERPTS, LAST_WORDS)) for launch in report.launches]
    several = len(report.launches) > 1
    parts = [Words("failures", found, launch.name if several else "") for launch, found in told if found]
    return Panel("failures", "Failures", parts, lost) if lost else None

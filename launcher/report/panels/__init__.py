"""The tabs of the page, one module for each: its figures, tables and words."""

from __future__ import annotations

from launcher.report.data import Report
from launcher.report.panels import (
    comparison,
    configurations,
    curves,
    evaluations,
    failures,
    summary,
    sweep,
    throughput,
    trials,
)
from launcher.report.parts import Panel

TABS = (summary, curves, comparison, sweep, evaluations, throughput, failures, trials, configurations)


def panels(report: Report) -> list[Panel]:
    """The tabs that there is something for."""
    found = (tab.panel(report) for tab in TABS)
    return [panel for panel in found if panel is not None]

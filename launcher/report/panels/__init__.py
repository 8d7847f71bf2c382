"""The tabs of the page, one module for each: its figures, tables and words."""

from __future__ import annotations

from launcher.report.data import Report
from launcher.report.panels import (
    comparison,
    configurations,
    curves,
    evaluations,
    failures,
    search,
    summary,
    sweep,
    throughput,
    trials,
)
from launcher.report.parts import Panel

TABS = {
    curves: "learning curves (no trial has reported yet)",
    comparison: "comparison (there is one configuration)",
    search: "search (none was asked for: launch --search does)",
    sweep: "sweep (no setting varies between configurations with finished trials)",
    evaluations: "evaluation (no checkpoint has been evaluated: launch eval does)",
    throughput: "throughput (no training has begun)",
    failures: "failures (no trial failed or diverged)",
    trials: "",
    configurations: "configurations (there are none)",
}
"""Tab → why there is none, where there is nothing for it."""


def panels(report: Report) -> list[Panel]:
    """The tabs that there is something for; the first says which are missing, and why."""
    found = {tab: tab.panel(report) for tab in TABS}
    missing = [why for tab, why in TABS.items() if found[tab] is None]
    return [summary.panel(report, missing), *(panel for panel in found.values() if panel is not None)]

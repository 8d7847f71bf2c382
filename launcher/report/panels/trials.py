"""Every trial."""

from __future__ import annotations

from launcher.report.data import Report
from launcher.report.parts import Cell, Panel, Table, named, num

HEADINGS = "configuration", "seed:", "state", "return:", "env steps:", "done, %:", "steps/s:", "attempts:", "error"


def panel(report: Report) -> Panel:
    """A table."""
    rows = []
    for c in report.configurations:
        for seed in c.seeds:
            row, trial = seed.row, seed.trial
            attempts = len(report.launches[seed.launch].standing.attempts_of(row))
            numbers = [num(seed.score), num(row.env_steps, ",d")]
            numbers += [
                num(100 * row.env_steps / max(row.env_steps_total, 1), ".0f"),
                num(row.steps_per_second, ",.0f"),
            ]
            state, error = Cell(trial.state, None, f"state {trial.state}"), Cell(trial.error or "", None, "wrap")
            rows.append([named(c), num(trial.seed, "d"), state, *numbers, num(attempts, "d"), error])
    note = "Return: mean of the last 100 episodes so far; in the statistics only where the trial finished."
    return Panel("trials", "Trials", [Table("", HEADINGS, rows, note)])

"""Every trial."""

from __future__ import annotations

from launcher.report.data import Report
from launcher.report.parts import Cell, Panel, Table, num, of

HEADINGS = "configuration", "seed:", "state", "return:", "env steps:", "done, %:", "steps/s:", "attempts:", "error"


def panel(report: Report) -> Panel:
    """A table."""
    rows = []
    for c in report.configurations:
        for seed in c.seeds:
            row, trial = seed.row, seed.row.trial
            rows.append(
                [
                    of(c),
                    num(trial.seed, "d"),
                    Cell(trial.state, None, f"state {trial.state}"),
                    num(seed.score),
                    num(row.env_steps, ",d"),
                    num(100 * row.env_steps / max(trial.timesteps * trial.num_envs, 1), ".0f"),
                    num(row.steps_per_second, ",.0f"),
                    num(len(report.launches[seed.launch].standing.attempts_of(row)), "d"),
                    Cell(trial.error or "", None, "wrap"),
                ]
            )
    note = "Return: mean of the last 100 episodes so far; in the statistics only where the trial finished."
    return Panel("trials", "Trials", [Table(HEADINGS, rows, note)])

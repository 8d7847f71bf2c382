"""Evaluations of checkpoints on the page: a table, and how the returns of episodes are distributed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launcher import stats
from launcher.ledger.evaluations import Evaluation
from launcher.report_data import Configuration, Report
from launcher.report_figures import OTHERS, Figure, histograms, styles
from launcher.report_html import INTERVAL, Cell, configuration, escape, figure, num, span, table


@dataclass(frozen=True)
class Last:
    """The last evaluated checkpoint of every seed of a configuration, with one kind of settings."""

    configuration: Configuration
    look: tuple[str, str]
    settings: str
    evaluations: Sequence[Evaluation]

    @property
    def means(self) -> NDArray[np.float64]:
        """[R] mean return of each seed."""
        return np.array([np.mean(one.returns) for one in self.evaluations])

    @property
    def returns(self) -> NDArray[np.float64]:
        """Of all episodes of all seeds."""
        return np.concatenate([np.asarray(one.returns) for one in self.evaluations])


def terms(settings: str) -> str:
    """Settings of an evaluation in a few words; as they are if they are not understood."""
    try:
        parts = json.loads(settings)
        actions = "most probable actions" if parts["deterministic"] else "sampled actions"
        return f"{parts['env']['id']}, {parts['episodes']} episodes, {actions}, seed {parts['seed']}"
    except (ValueError, KeyError, TypeError):
        return settings


def _told(settings: str) -> Cell:
    return Cell(f'<span title="{escape(settings)}">{escape(terms(settings))}</span>', None, "wrap")


def last(report: Report) -> list[Last]:
    """The last evaluations of each configuration, once for each kind of settings."""
    found = []
    for c, look in zip(report.configurations, styles(len(report.configurations)), strict=True):
        names = {seed.row.trial.trial for seed in c.seeds}
        kinds: dict[str, dict[str, Evaluation]] = {}
        for one in report.launches[c.launch].evaluations:  # by trial and timestep: the last one stays
            if one.trial in names and one.returns:
                kinds.setdefault(one.settings, {})[one.trial] = one
        found += [Last(c, look, settings, list(ones.values())) for settings, ones in kinds.items()]
    return found


def figures(report: Report) -> dict[str, Figure]:
    """A histogram for each task and kind of settings, of the configurations that stand out."""
    return {
        f"episodes-{number}": histograms([(one.configuration.label, one.returns, one.look[0]) for one in group])
        for number, group in enumerate(_groups(report).values())
    }


def _groups(report: Report) -> Mapping[tuple[str, str], list[Last]]:
    groups: dict[tuple[str, str], list[Last]] = {}
    for one in last(report):
        if one.look[0] != OTHERS:
            groups.setdefault((one.configuration.task, one.settings), []).append(one)
    return groups


def section(report: Report) -> str:
    """All evaluations."""
    parts = ["<h2>Last evaluated checkpoints</h2>", _summary(report)]
    for number, ((task, settings), group) in enumerate(_groups(report).items()):
        episodes = sum(len(one.returns) for one in group)
        caption = (
            f"{escape(task)}: returns of {episodes:,} episodes of the last evaluated checkpoints, seeds of a "
            f"configuration together. Settings: {escape(settings)}."
        )
        parts.append(figure(f"episodes-{number}", caption, 70 + 78 * len(group)))
    return "\n".join([*parts, "<h2>All evaluations</h2>", _all(report)])


def _summary(report: Report) -> str:
    rows = []
    for one in last(report):
        ends = stats.bootstrap_interval(one.means, stats.interquartile_mean, np.random.default_rng(0))
        few = f"{len(one.means)} seed{'s' * (len(one.means) > 1)}: none"
        rows.append(
            [
                configuration(one.configuration, one.look),
                num(float(stats.interquartile_mean(one.means))),
                Cell(span(ends) if ends else few, None, "n"),
                num(float(one.means.mean())),
                num(len(one.means), "d"),
                num(len(one.returns), ",d"),
                _told(one.settings),
            ]
        )
    note = f"Over seeds, of the mean return of each seed's episodes. Interval: {INTERVAL}."
    headings = ["configuration", "IQM:", "95% interval:", "mean:", "seeds:", "episodes:", "settings"]
    return f'{table(headings, rows)}<p class="note">{note}</p>'


def _all(report: Report) -> str:
    rows = []
    for c, look in zip(report.configurations, styles(len(report.configurations)), strict=True):
        seeds = {seed.row.trial.trial: seed.row.trial for seed in c.seeds}
        for one in report.launches[c.launch].evaluations:
            if one.trial not in seeds:
                continue
            returns, trial = np.asarray(one.returns or [np.nan]), seeds[one.trial]
            rows.append(
                [
                    configuration(c, look),
                    num(trial.seed, "d"),
                    num(one.timestep * trial.num_envs, ",d"),
                    num(len(one.returns), ",d"),
                    num(float(returns.mean())),
                    num(float(returns.std())),
                    num(float(np.median(returns))),
                    num(float(returns.min())),
                    num(float(returns.max())),
                    num(float(np.mean(one.lengths or [np.nan])), ",.1f"),
                    _told(one.settings),
                ]
            )
    headings = ["configuration", "seed:", "env steps:", "episodes:", "mean:", "sd:", "median:", "min:", "max:"]
    return table([*headings, "length:", "settings"], rows)

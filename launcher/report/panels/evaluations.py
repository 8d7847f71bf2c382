"""Evaluations of checkpoints: scores of the last ones, curves over all, episodes, films."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from launcher import stats
from launcher.ledger.evaluations import Evaluation
from launcher.report.data import Configuration, Report
from launcher.report.figures import Axis, Figure, Series
from launcher.report.panels.comparison import above
from launcher.report.parts import Cell, Panel, Part, Plot, Table, Words, distinct, interval, num, of, short, slug, span

FILMS = (".mp4", ".gif")
SCORES = "configuration", "IQM:", "95% interval:", "mean:", "seeds:", "episodes:", "settings"
CHECKPOINTS = (
    "configuration",
    "seed:",
    "env steps:",
    "episodes:",
    "mean:",
    "sd:",
    "median:",
    "min:",
    "max:",
    "length:",
    "settings",
)


@dataclass(frozen=True)
class Evaluated:
    """A configuration's evaluations of one kind of settings: of each checkpoint, the seed's number and its episodes."""

    configuration: Configuration
    settings: str
    checkpoints: Sequence[tuple[int, int, Evaluation]]

    @cached_property
    def last(self) -> list[Evaluation]:
        """The last checkpoint of every seed."""
        return list({seed: one for seed, _, one in self.checkpoints}.values())

    @property
    def means(self) -> NDArray[np.float64]:
        """[R] mean return of the last checkpoint of each seed."""
        return np.array([np.mean(one.returns) for one in self.last])

    @property
    def returns(self) -> NDArray[np.float64]:
        """Of all episodes of these."""
        return np.concatenate([np.asarray(one.returns) for one in self.last])

    @cached_property
    def curve(self) -> stats.Curve:
        """Mean return of seeds' checkpoints over env steps."""
        seeds: dict[int, list[tuple[int, float]]] = {}
        for seed, steps, one in self.checkpoints:
            seeds.setdefault(seed, []).append((steps, float(np.mean(one.returns))))
        curves = [tuple(zip(*points, strict=True)) for points in seeds.values()]
        grid = sorted({steps for _, steps, _ in self.checkpoints})
        return stats.sample_efficiency(curves, grid, np.random.default_rng(0))  # type: ignore[arg-type]


def panel(report: Report) -> Panel | None:
    """Scores, curves where several checkpoints of a trial were evaluated, episodes, films, every evaluation."""
    found, films = list(evaluated(report)), list(_films(report))
    if not found and not films:
        return None
    groups: dict[tuple[str, str], list[Evaluated]] = {}
    for one in found:
        groups.setdefault((one.configuration.task, one.settings), []).append(one)
    parts: list[Part] = [Words("heading", "Last evaluated checkpoints"), _scores(found)] if found else []
    names = distinct((slug(task) for task, _ in groups), "{}_{}")
    for name, ((task, settings), group) in zip(names, groups.items(), strict=True):
        only = name if len(groups) > 1 else ""
        if any(len(one.curve.env_steps) > 1 for one in group):
            parts.append(Words("heading", f"Score while training: {task}"))
            standing = {int(number) for one in group for number in one.curve.seeds}
            words = (
                f"IQM over seeds of the mean return of each checkpoint's episodes. {terms(settings)}. Bands: "
                f"{interval(standing)}"
            )
            parts.append(Plot(slug("evaluated_checkpoints", only), curves(report, group), words))
        episodes = sum(len(one.returns) for one in group)
        words = (
            f"Fraction of episodes whose return is higher than τ: {episodes:,} episodes of the last evaluated "
            f"checkpoints, seeds of a configuration together. {terms(settings)}."
        )
        parts += [Words("heading", f"Episodes: {task}"), Plot(slug("evaluated_episodes", only), spread(group), words)]
    if films:
        parts += [Words("heading", "Films"), Words("films", films)]
    return Panel("evaluation", "Evaluation", [*parts, *_all(found)])


def evaluated(report: Report) -> Iterator[Evaluated]:
    """The evaluations of each configuration, once for each kind of settings."""
    for c in report.configurations:
        trials = {seed.row.trial.id: seed.row.trial for seed in c.seeds}
        kinds: dict[str, list[tuple[int, int, Evaluation]]] = {}
        for one in report.launches[c.launch].evaluations:  # by trial and timestep: the last one of a seed is its last
            if one.trial in trials and one.returns:
                trial = trials[one.trial]
                kinds.setdefault(one.settings, []).append((trial.seed, one.timestep * trial.num_envs, one))
        for settings, checkpoints in kinds.items():
            yield Evaluated(c, settings, checkpoints)


def terms(settings: str) -> str:
    """Settings of an evaluation in a few words; as they are if they are not understood."""
    try:
        parts = dict(json.loads(settings))
        env = dict(parts.pop("env"))
        actions = "most probable actions" if parts.pop("deterministic") else "sampled actions"
        words = f"{env.pop('id')}, {parts.pop('episodes')} episodes, {actions}, seed {parts.pop('seed')}"
    except (ValueError, KeyError, TypeError):
        return settings
    return ", ".join([words, *(short({key: value}) for key, value in {**env, **parts}.items())])


def curves(report: Report, group: Sequence[Evaluated]) -> Figure:
    """Score over env steps of each configuration."""
    series = []
    for one in group:
        curve, c = one.curve, one.configuration
        notes = [f"{seeds} of {len(c.seeds)} seeds" for seeds in curve.seeds]
        place = report.configurations.index(c)
        series.append(
            Series(c.label, curve.env_steps, curve.iqm, c.style, "line", curve.low, curve.high, notes, place=place)
        )
    return Figure(series, Axis("env steps"), Axis("return of an evaluation (IQM)"), legend=len(series) > 1)


def spread(group: Sequence[Evaluated]) -> Figure:
    """How returns of episodes are distributed, of the configurations that stand out."""
    shown = [one for one in group if one.configuration.style.front] or group
    finite = [(one.configuration, one.returns[np.isfinite(one.returns)]) for one in shown]
    series = above([(c, returns) for c, returns in finite if len(returns)], bands=False)
    axis = Axis("episodes above τ", percent=True, limits=(-0.02, 1.02))
    return Figure(series, Axis("return of an episode τ"), axis, legend=len(series) > 1)


def _scores(found: Sequence[Evaluated]) -> Table:
    rows = []
    for one in found:
        means = one.means
        ends = stats.bootstrap_interval(means, stats.interquartile_mean, np.random.default_rng(0))
        numbers = [num(float(stats.interquartile_mean(means))), span(ends, len(means)), num(float(means.mean()))]
        counts = [num(len(means), "d"), num(len(one.returns), ",d")]
        rows.append([of(one.configuration), *numbers, *counts, Cell(terms(one.settings), None, "wrap")])
    seeds = interval(len(one.means) for one in found)
    return Table(SCORES, rows, f"Over seeds, of the mean return of each seed's episodes. Interval: {seeds}")


def _all(found: Sequence[Evaluated]) -> list[Part]:
    rows = []
    for kind in found:
        for seed, steps, one in kind.checkpoints:
            returns = np.asarray(one.returns)
            of_all = (returns.mean(), returns.std(), np.median(returns), returns.min(), returns.max())
            who = [of(kind.configuration), num(seed, "d"), num(steps, ",d"), num(len(returns), ",d")]
            length = num(float(np.mean(one.lengths)), ",.1f")
            rows.append([*who, *map(num, of_all), length, Cell(terms(kind.settings), None, "wrap")])
    return [Words("heading", "All evaluations"), Table(CHECKPOINTS, rows)] if rows else []


def _films(report: Report) -> Iterator[tuple[Path, str]]:
    """The files that `launch eval --video` left in launches, and what they show."""
    for index, launch in enumerate(report.launches):
        known = {c.seeds[0].row.trial.config: c for c in report.configurations if c.launch == index}
        for path in sorted((launch.standing.directory / "videos").glob("*")):
            if path.suffix in FILMS:
                name, _, timestep = path.stem.rpartition("_")
                label = known[name].label if name in known else path.stem
                yield path, f"{label}, checkpoint of timestep {timestep}" if name in known else label

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
from launcher.evaluate.remarks import remark
from launcher.ledger.evaluations import Evaluation, agents_of
from launcher.parts import grouped
from launcher.report.data import Configuration, Report
from launcher.report.figures import Axis, Figure, Series
from launcher.report.parts import (
    Cell,
    Panel,
    Part,
    Plot,
    Table,
    Words,
    distinct,
    interval,
    named,
    num,
    short,
    slug,
    span,
)

FILMS = (".mp4", ".gif")
SCORES = ("configuration", "IQM:", "95% interval:", "mean:", "sd:", "min:", "max:", "length:", "seeds:", "episodes:")


@dataclass(frozen=True)
class Evaluated:
    """A configuration's evaluations of one kind of settings: of each checkpoint, the seed's number and its episodes."""

    configuration: Configuration
    place: int
    settings: str
    checkpoints: Sequence[tuple[int, int, Evaluation]]

    @cached_property
    def last(self) -> list[Evaluation]:
        """The last checkpoint of every seed."""
        return list({seed: one for seed, _, one in self.checkpoints}.values())

    @property
    def remark(self) -> str:
        """Words on seeds that are not finished or not evaluated, and on checkpoints of different timesteps."""
        states = {seed.trial.id: seed.trial.state for seed in self.configuration.seeds}
        return remark(states, {one.trial: one.timestep for one in self.last})

    @property
    def returns(self) -> NDArray[np.float64]:
        """Returns of all episodes of these."""
        return np.concatenate([np.asarray(one.returns) for one in self.last])

    @cached_property
    def curve(self) -> stats.Curve:
        """Mean return of seeds' checkpoints over env steps."""
        seeds: dict[int, dict[int, float]] = {}
        for seed, steps, one in self.checkpoints:
            seeds.setdefault(seed, {})[steps] = float(np.mean(one.returns))
        grid = sorted({steps for _, steps, _ in self.checkpoints})
        return stats.sample_efficiency([stats.held([*s], [*s.values()], grid) for s in seeds.values()], grid)


def panel(report: Report) -> Panel | None:
    """Scores, curves where several checkpoints of a trial were evaluated, episodes, films."""
    found, films = list(evaluated(report)), list(_films(report))
    if not found and not films:
        return None
    groups = grouped(found, lambda one: (one.configuration.task, one.settings))
    parts: list[Part] = [_scores(found)] if found else []
    parts += [Words("note", f"{one.configuration.label}: {one.remark}.") for one in found if one.remark]
    names = distinct((slug(task) for task, _ in groups), "{}_{}")
    for name, ((task, settings), group) in zip(names, groups.items(), strict=True):
        only = name if len(groups) > 1 else ""
        if any(len(one.curve.env_steps) > 1 for one in group):
            standing = {int(number) for one in group for number in one.curve.seeds}
            words = (
                f"IQM over seeds of the mean return of each checkpoint's episodes. {terms(settings)}. Bands: "
                f"{interval(standing)}"
            )
            parts.append(
                Plot(slug("evaluated_checkpoints", only), f"Score while training: {task}", curves(group), words)
            )
        episodes = sum(len(one.returns) for one in group)
        words = (
            f"Fraction of episodes whose return is higher than τ: {episodes:,} episodes of the last evaluated "
            f"checkpoints, seeds of a configuration together. {terms(settings)}."
        )
        parts.append(Plot(slug("evaluated_episodes", only), f"Episodes: {task}", spread(group), words))
    if films:
        parts.append(Words("films", films, "Films"))
    return Panel("evaluation", "Evaluation", parts)


def evaluated(report: Report) -> Iterator[Evaluated]:
    """The evaluations of each configuration, once for each kind of settings."""
    for place, c in enumerate(report.configurations):
        trials = {seed.trial.id: seed.trial for seed in c.seeds}
        # By trial and timestep: the last one of a seed is its last.
        own = (one for one in report.launches[c.launch].evaluations if one.trial in trials and one.returns)
        for settings, played in grouped(own, lambda one: one.settings).items():
            with_trials = [(trials[one.trial], one) for one in played]
            checkpoints = [(trial.seed, one.timestep * trial.num_envs, one) for trial, one in with_trials]
            yield Evaluated(c, place, settings, checkpoints)


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


def curves(group: Sequence[Evaluated]) -> Figure:
    """Score over env steps of each configuration."""
    series = []
    for one in group:
        curve, c = one.curve, one.configuration
        notes = [f"{seeds} of {len(c.seeds)} seeds" for seeds in curve.seeds]
        ends = curve.low, curve.high
        series.append(Series(c.label, curve.env_steps, curve.iqm, c.style, "line", ends, notes, one.place))
    return Figure(series, Axis("env steps"), Axis("return of an evaluation (IQM)"), legend=len(series) > 1)


def spread(group: Sequence[Evaluated]) -> Figure:
    """The distribution of episodes' returns, of the configurations that stand out."""
    shown = [one for one in group if one.configuration.style.front] or group
    finite = [(one.configuration, one.returns[np.isfinite(one.returns)]) for one in shown]
    finite = [(c, returns) for c, returns in finite if len(returns)]
    everything = np.concatenate([returns for _, returns in finite] or [np.zeros(1)])
    room = 0.03 * float(np.ptp(everything)) or 1.0
    thresholds = np.linspace(everything.min() - room, everything.max() + room, 121)
    series = [Series(c.label, thresholds, stats.fraction_above(returns, thresholds), c.style) for c, returns in finite]
    axis = Axis("episodes above τ", percent=True)
    return Figure(series, Axis("return of an episode τ"), axis, legend=len(series) > 1, nothing="no finite return")


def _scores(found: Sequence[Evaluated]) -> Table:
    rows: list[list[Cell]] = []
    for one in found:
        length = num(float(np.mean(np.concatenate([each.lengths for each in one.last]))), ",.1f")
        counts = num(len(one.last), "d"), num(len(one.returns), ",d")
        settings = Cell(terms(one.settings), None, "wrap")
        numbers = _numbers([each.returns for each in one.last])
        rows.append([named(one.configuration), *numbers, length, *counts, settings])
        for agent in agents_of(one.last):
            numbers = _numbers([each.each[agent] for each in one.last])
            rows.append([Cell(f"{one.configuration.label}, {agent}"), *numbers, *[Cell("")] * 4])
    seeds = interval(len(one.last) for one in found)
    note = (
        f"IQM and interval: over seeds, of the mean return of each seed's episodes; interval: {seeds} The others: of "
        "all episodes together. Every episode of every evaluated checkpoint is in evaluations.csv."
    )
    return Table("Last evaluated checkpoints", [*SCORES, "settings"], rows, note)


def _numbers(seeds: Sequence[Sequence[float]]) -> list[Cell]:
    """The cells of returns of each seed's episodes, from the interquartile mean to the maximum."""
    over, returns = stats.of_seeds(seeds), np.concatenate([np.asarray(each) for each in seeds])
    of_all = map(num, (returns.mean(), returns.std(), returns.min(), returns.max()))
    return [num(over.iqm), span(over.interval, len(seeds)), *of_all]


def _films(report: Report) -> Iterator[tuple[Path, str]]:
    """The files that `launch eval --video` left in launches, and what they show."""
    for index, launch in enumerate(report.launches):
        labels = {c.seeds[0].trial.config: c.label for c in report.configurations if c.launch == index}
        for path in sorted((launch.standing.directory / "videos").glob("*")):
            if path.suffix in FILMS:
                name, _, timestep = path.stem.rpartition("_")
                yield path, f"{labels[name]}, checkpoint of timestep {timestep}" if name in labels else path.stem

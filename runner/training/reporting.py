"""The reports of a pack in training: when they are due, and the record of an interval.

Axes: P member · T rollout step · N environment · C number of an update.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np

from runner.config import Config
from runner.training import tracking
from runner.training.episodes import Episodes, Teams
from runner.training.evaluate import Episode
from runner.training.members import Members
from runner.training.tracking import Record

log = logging.getLogger(__name__)

COLUMNS = (
    tracking.POLICY_LOSS,
    tracking.VALUE_LOSS,
    tracking.ENTROPY_LOSS,
    tracking.APPROXIMATE_KL,
    tracking.CLIP_FRACTION,
    tracking.GRADIENT_NORM,
    tracking.EXPLAINED_VARIANCE,
    tracking.LEARNING_RATE,
    tracking.STANDARD_DEVIATION,
)
"""Tags of the numbers that every update leaves behind, in order."""
LARGE = 1e15
"""Sums of squares of float32 numbers that are larger than this may overflow."""


def due(config: Config, before: int, now: int, evaluates: bool, paused: bool = False) -> tuple[bool, bool, bool]:
    """An evaluation, a checkpoint and a record: which are due after the update between two timesteps.

    Where training pauses, it is evaluated in any case.
    """
    others = config.interval("checkpoint_interval"), config.interval("write_interval")
    lengths = config.evaluation.interval if evaluates else 0, *others
    evaluation, checkpoint, record = (length > 0 and now // length > before // length for length in lengths)
    return evaluation or (paused and evaluates), checkpoint, record


def diverged_in(members: Members, rollout: Any, finite: np.ndarray) -> list[int]:
    """Trials with a member whose numbers have just stopped being finite, of which it takes note and says why."""
    diverged = np.flatnonzero(members.alive & ~finite).tolist()
    for member in diverged:
        why = suspicion(*members.backend.experience_of(rollout, member))
        trial, name = divmod(member, members.pack.groups)
        seed, of = members.pack.trial_seeds[trial], members.pack.names[name]
        log.error("seed %s%s diverged at timestep %s: %s", seed, of and f", {of},", members.timestep, why)
    return members.diverge(diverged)


def suspicion(rewards: np.ndarray, valid: np.ndarray, observations: np.ndarray) -> str:
    """The numbers that may have made an update infinite or NaN: rewards of experience `[T, N]`, or observations."""
    for what, numbers in (("a reward", rewards[valid.astype(bool)]), ("an observation", observations)):
        largest = float(np.abs(numbers).max(initial=0.0))
        if not np.isfinite(largest):
            return f"the environment gave {what} that is not finite"
        if largest > LARGE:
            return f"the environment gave {what} of size {largest:.0e}, with which float32 numbers overflow"
    return "a number of its update is not finite"


def measured(played: Sequence[Episode], members: int) -> list[dict[str, float]]:
    """The scores of each trial in the episodes of an evaluation; of several agents, the team's and each one's."""
    found = []
    for member in range(members):
        own = [episode for episode in played if episode.member == member]
        returns = {"": [episode.ret for episode in own]}
        returns |= {name: [episode.each[name] for episode in own] for name in own[0].each}
        numbers = (tracking.EVALUATION_MEAN, np.mean), (tracking.EVALUATION_MAX, max), (tracking.EVALUATION_MIN, min)
        scores = {tracking.of(tag, name): float(of(some)) for name, some in returns.items() for tag, of in numbers}
        found.append(scores | {tracking.EVALUATION_LENGTH: float(np.mean([episode.length for episode in own]))})
    return found


class Interval:
    """The time between two reports, and the numbers of its updates."""

    def __init__(self, timestep: int, reporting: float = 0.0) -> None:
        """Begin now, at `timestep`; the report before took `reporting` seconds."""
        self._timestep, self._reporting = timestep, reporting
        self._numbers: list[tuple[np.ndarray, np.ndarray]] = []
        self._began = self._ended = self._reported = time.perf_counter()
        self._times: dict[str, float] = {}

    def note(self, numbers: np.ndarray, finite: np.ndarray) -> None:
        """Keep an update's numbers `[P, C]`, and which members' are finite `[P]`."""
        self._numbers.append((numbers, finite))

    def end(self, collector: Any) -> None:
        """Training stops here for a report."""
        self._ended = time.perf_counter()
        rest = self._ended - self._began - sum(collector.spent.values())
        self._times = {**collector.spent, tracking.UPDATE_TIME: rest, tracking.REPORT_TIME: self._reporting}
        collector.spent.clear()

    def records(
        self,
        members: Members,
        episodes: Episodes | Teams,
        diverged: Sequence[int],
        evaluated: Sequence[Mapping[str, float]] | None,
    ) -> list[Record | None]:
        """One record per trial that trained in this interval."""
        self._reported, elapsed = time.perf_counter(), self._ended - self._began
        if evaluated is not None:
            self._times[tracking.EVALUATION_TIME] = self._reported - self._ended
        pack, counted, counters = members.pack, episodes.drain(), members.counters
        envs = pack.static.env.num_envs or 0
        rate = (members.timestep - self._timestep) * envs / elapsed
        numbers = self._means(members)
        records: list[Record | None] = []
        for trial in range(pack.trials):
            its = pack.members(trial)
            first = its[0]
            if counters.diverged[first] and trial not in diverged:
                records.append(None)
                continue
            # Not a number is what nothing can be said of, such as the variance that values explain of a single row.
            said = {
                tracking.of(tag, name): x
                for member, name in zip(its, pack.names, strict=True)
                for tag, x in numbers[member].items()
                if trial in diverged or not isnan(x)
            }
            score = float(counters.score[first])
            values = counted[trial] | ({} if isnan(score) else {tracking.SCORE: score})
            values |= {} if evaluated is None else evaluated[trial]
            values |= {**said, tracking.STEPS_PER_SECOND: rate, **self._times}
            counters.seconds[its] += elapsed
            now = members.timestep, members.timestep * envs, float(counters.seconds[first])
            records.append(Record(int(counters.records[first]), *now, values))
            counters.records[its] += 1
        return records

    def after(self, timestep: int) -> Interval:
        """The next interval, which begins now."""
        return Interval(timestep, time.perf_counter() - self._reported)

    def _means(self, members: Members) -> list[dict[str, float]]:
        """Per member the means of its updates' numbers, those that mean something."""
        if not self._numbers:
            return [{} for _ in range(members.pack.size)]
        left_out = {tracking.ENTROPY_LOSS} if not members.rules.entropy else set()
        left_out |= {tracking.STANDARD_DEVIATION} if not members.network.distribution.gaussian else set()
        rows = means_of(self._numbers).tolist()
        return [{tag: x for tag, x in zip(COLUMNS, row, strict=True) if tag not in left_out} for row in rows]


def means_of(updates: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Means over updates, of each number over those updates in which it is defined.

    Args:
        updates: of each update its numbers `[P, C]`, and which members' are finite `[P]`; of a finite member, not a
            number means undefined.

    Returns:
        `[P, C]`; not a number where it is undefined in all updates, or a member is not finite.
    """
    numbers = np.stack([columns for columns, _ in updates])
    undefined = np.isnan(numbers) & np.stack([finite for _, finite in updates])[..., None]
    with np.errstate(all="ignore"):
        means: np.ndarray = np.where(undefined, 0, numbers).sum(0) / (~undefined).sum(0).astype(numbers.dtype)
    return means

"""What both backends share of a pack in training: the loop around an update, reports, and states as numpy arrays.

Axes: P member · n parameter · K feature.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any, Literal, Protocol

import numpy as np

from runner.checkpoints.checkpoint import Counters, MemberState
from runner.envs.base import VectorEnv
from runner.envs.spaces import ActionSpace, Layout
from runner.networks.parameters import Network
from runner.networks.policies import remark
from runner.training import draws, tracking
from runner.training.diagnosis import means_of, suspicion
from runner.training.episodes import Episodes
from runner.training.evaluate import Episode
from runner.training.pack import Pack
from runner.training.snapshots import Snapshot, fresh, moments_of, stacked
from runner.training.tracking import Record, Report

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


class Collects(Protocol):
    """What a backend steps environments with.

    Attributes:
        episodes: that it counts.
        spent: metric → seconds that its parts took since somebody took note of them.
    """

    episodes: Episodes
    spent: dict[str, float]


class Learning:
    """P members in training: their counters here, their numbers in the backend.

    Attributes:
        pack: configurations and Hyper numbers.
        actions: what the environment takes.
        network: the layout of the parameters.
        updates: updates done.
        alive: per member, whether its numbers are still finite.
        examine: plays the episodes of `evaluation` with all members; None where there are none to play.
    """

    examine: Callable[[], list[Episode]] | None = None

    def __init__(self, pack: Pack, observations: Layout, actions: ActionSpace) -> None:
        """Initialise every member of `pack` from its own seed, for an environment's observations and actions."""
        config = pack.static
        self.pack = pack
        self.actions = actions
        self.network = Network.of(config, observations, actions)
        if (said := remark(config.models.policy, actions)) is not None:
            log.warning(said)
        if self.network.bfloat16 and not self._multiplies_bfloat16():
            log.warning(
                "agent.mixed_precision: this device has no bfloat16 arithmetic; float32 is used, which is faster"
            )
            self.network = replace(self.network, bfloat16=False)
        self.updates = 0
        self.alive = [True] * pack.size
        self._records = [0] * pack.size
        self._seconds = [0.0] * pack.size
        self._scores = [float("nan")] * pack.size
        self._best = [-float("inf")] * pack.size
        parameters = np.stack([self.network.initial(seed) for seed in pack.seeds])
        self._put(
            Snapshot(
                parameters,
                np.zeros_like(parameters),
                np.zeros_like(parameters),
                np.zeros(pack.size, np.float32),
                pack.hyper.learning_rate.astype(np.float32),
                fresh(pack.size, observations.stop) if self.network.scalings else None,
                fresh(pack.size, 1) if config.agent.value_preprocessor else None,
            )
        )

    # What a backend implements.

    @property
    def compiles(self) -> bool:
        """Training begins with compiling its programs, which takes seconds."""
        raise NotImplementedError

    def choose(self, observations: np.ndarray, deterministic: bool, draw: int) -> np.ndarray:
        """Actions for the environment.

        Args:
            observations: raw, `[P·N, O]` float32.
            deterministic: the distribution's mode, else a sample.
            draw: number of the draw; the same number draws the same.

        Returns:
            `[P·N, …]` as the environment takes them, clipped to its bounds where the policy says so.
        """
        raise NotImplementedError

    def train(self, env: VectorEnv, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
        """Train from where it stands to the configured length; yields whenever something is due.

        The first report comes before any training, empty, when all that takes long to start is done: environments and
        compilation.

        Args:
            env: P·N environments, member-major.
            stop: asked after every update; True ends training there, with a last report and checkpoint.
        """
        raise NotImplementedError

    def _multiplies_bfloat16(self) -> bool:
        """The device multiplies bfloat16 matrices faster than float32 ones."""
        raise NotImplementedError

    def _of(self, member: int, experience: Any) -> np.ndarray:
        """A member's part `[T, N, …]` of an array of a rollout."""
        raise NotImplementedError

    def _put(self, snapshot: Snapshot) -> None:
        """Take over a learner's numbers."""
        raise NotImplementedError

    def _get(self) -> Snapshot:
        """The learner's numbers."""
        raise NotImplementedError

    # What is the same for all.

    @property
    def timestep(self) -> int:
        """Steps of every environment so far."""
        return self.updates * self.pack.static.agent.rollouts

    @property
    def over(self) -> bool:
        """There is nothing left to train: the configured length is reached, or every member has diverged."""
        return self.updates >= self.pack.static.updates or not any(self.alive)

    def states(self) -> list[MemberState]:
        """Every member as it is now."""
        now = self._get()
        envs = self.pack.static.env.num_envs or 0
        states = []
        for member in range(self.pack.size):
            counters = Counters(
                update=self.updates,
                timestep=self.timestep,
                env_steps=self.timestep * envs,
                records=self._records[member],
                seconds=self._seconds[member],
                optimizer_steps=float(now.steps[member]),
                learning_rate=float(now.learning_rate[member]),
                score=self._scores[member],
                best=self._best[member],
                diverged=not self.alive[member],
            )
            parameters, first, second = (rows[member].copy() for rows in now[:3])
            observation = moments_of(now.observation_statistics, member)
            value = moments_of(now.value_statistics, member)
            states.append(MemberState(parameters, first, second, observation, value, counters))
        return states

    def restore(self, states: Sequence[MemberState]) -> None:
        """Continue from states of equal progress, one per member."""
        counters = [state.counters for state in states]
        self.updates = counters[0].update
        self.alive = [not c.diverged for c in counters]
        self._records = [c.records for c in counters]
        self._seconds = [c.seconds for c in counters]
        self._scores = [c.score for c in counters]
        self._best = [c.best for c in counters]
        self._put(
            Snapshot(
                np.stack([s.parameters for s in states]).astype(np.float32),
                np.stack([s.first_moment for s in states]).astype(np.float32),
                np.stack([s.second_moment for s in states]).astype(np.float32),
                np.array([c.optimizer_steps for c in counters], np.float32),
                np.array([c.learning_rate for c in counters], np.float32),
                stacked([s.observation_statistics for s in states]),
                stacked([s.value_statistics for s in states]),
            )
        )

    def _ready(self) -> Report:
        """The report before any training."""
        return Report([None] * self.pack.size, checkpoint=False, best=[], diverged=[])

    def _follow(
        self,
        iteration: Callable[[], tuple[np.ndarray, np.ndarray, Any] | None],
        collector: Collects,
        stop: Callable[[], bool],
    ) -> Iterator[Report]:
        """Iterate to the end, reporting what is due.

        Args:
            iteration: one rollout and update → numbers `[P, len(COLUMNS)]`, which members' are finite `[P]`, and the
                rollout; None where nothing was learned from it.
            collector: what the iteration steps environments with.
            stop: see `train`.
        """
        config = self.pack.static
        write, save = config.interval("write_interval"), config.interval("checkpoint_interval")
        examined = config.evaluation.interval if self.examine is not None else 0
        numbers: list[tuple[np.ndarray, np.ndarray]] = []
        episodes, spent = collector.episodes, collector.spent
        reported, began, reporting = self.timestep, time.perf_counter(), 0.0
        done = self.over
        while not done:
            learned = iteration()
            diverged: list[int] = []
            if learned is not None:
                columns, finite, rollout = learned
                numbers.append((columns, finite))
                diverged = [member for member in range(self.pack.size) if self.alive[member] and not finite[member]]
                for member in diverged:
                    self.alive[member] = False
                    why = suspicion(
                        *(self._of(member, x) for x in (rollout.rewards, rollout.valid, rollout.observations))
                    )
                    log.error("seed %s diverged at timestep %s: %s", self.pack.seeds[member], self.timestep, why)
                # A rollout may be large, and the next one needs its place.
                del learned, rollout
            before, self.updates = self.timestep, self.updates + 1

            done = self.over or stop()
            # What is examined is saved: the best agent is the one that scored best, not a later one.
            examines = examined > 0 and self.timestep // examined > before // examined
            saves = done or examines or (save > 0 and self.timestep // save > before // save)
            writes = write > 0 and self.timestep // write > before // write
            # A checkpoint always comes with a record, so that no interval is open when a run goes on from it.
            if saves or writes or diverged:
                trained = time.perf_counter()
                self._scores = episodes.scores()
                exams = self._exams() if examines else None
                evaluated = time.perf_counter()
                elapsed = trained - began
                times = {**spent, tracking.UPDATE_TIME: elapsed - sum(spent.values()), tracking.REPORT_TIME: reporting}
                if examines:
                    times[tracking.EVALUATION_TIME] = evaluated - trained
                spent.clear()
                means = means_of(numbers) if numbers else None
                records = self._report(means, episodes, self.timestep - reported, elapsed, times, diverged, exams)
                better = self._improved(exams) if saves and (not examined or exams is not None) else []
                yield Report(records, saves, better, diverged)
                # What the caller does with a report is not training time.
                numbers, reported, began = [], self.timestep, time.perf_counter()
                reporting = began - evaluated

    def _report(
        self,
        means: np.ndarray | None,
        episodes: Episodes,
        timesteps: int,
        elapsed: float,
        times: Mapping[str, float],
        diverged: list[int],
        exams: list[dict[str, float]] | None,
    ) -> list[Record | None]:
        """One record per member that trained in this interval of `timesteps` and `elapsed` seconds."""
        counted = episodes.drain()
        rate = timesteps * episodes.envs / elapsed
        records: list[Record | None] = []
        for member in range(self.pack.size):
            if not self.alive[member] and member not in diverged:
                records.append(None)
                continue
            numbers: dict[str, float] = {}
            if means is not None:
                # Not a number is what nothing can be said of, such as the variance that values explain of a single row.
                numbers = {
                    tag: float(value)
                    for tag, value in zip(COLUMNS, means[member], strict=True)
                    if member in diverged or not isnan(value)
                }
                if not self._entropy:
                    numbers.pop(tracking.ENTROPY_LOSS, None)
                if not self.network.distribution.gaussian:
                    numbers.pop(tracking.STANDARD_DEVIATION, None)
            self._seconds[member] += elapsed
            score = {} if isnan(self._scores[member]) else {tracking.SCORE: self._scores[member]}
            exam = {} if exams is None else exams[member]
            values = {**counted[member], **score, **exam, **numbers, tracking.STEPS_PER_SECOND: rate, **times}
            steps = self.timestep * episodes.envs
            records.append(Record(self._records[member], self.timestep, steps, self._seconds[member], values))
            self._records[member] += 1
        return records

    def _exams(self) -> list[dict[str, float]]:
        """What each member scored in episodes played just now."""
        assert self.examine is not None
        played: list[list[Episode]] = [[] for _ in range(self.pack.size)]
        for episode in self.examine():
            played[episode.member].append(episode)
        found = []
        for episodes in played:
            returns = [episode.ret for episode in episodes]
            found.append(
                {
                    tracking.EVALUATION_MEAN: float(np.mean(returns)),
                    tracking.EVALUATION_MAX: max(returns),
                    tracking.EVALUATION_MIN: min(returns),
                    tracking.EVALUATION_LENGTH: float(np.mean([episode.length for episode in episodes])),
                }
            )
        return found

    def _improved(self, exams: list[dict[str, float]] | None) -> list[int]:
        """Members whose score, that of an exam if there was one, is better than ever; remembers it."""
        scores = self._scores if exams is None else [exam[tracking.EVALUATION_MEAN] for exam in exams]
        better = [p for p, (score, best) in enumerate(zip(scores, self._best, strict=True)) if score > best]
        for member in better:
            self._best[member] = scores[member]
        return better

    def _noise(
        self, purpose: Literal["update", "act"], draw: int, steps: int, envs: int
    ) -> tuple[np.ndarray, list[np.random.Generator]]:
        """Noise for a rollout `[T, P, N, W]`, and the generators that drew it."""
        generators = draws.generators(self.pack.seeds, purpose, draw)
        distribution = self.network.distribution
        return draws.noise(generators, steps, envs, distribution.width, distribution.gaussian), generators

    def _orders(self, rows: int, generators: list[np.random.Generator]) -> np.ndarray | None:
        """Per epoch a permutation of every member's rows, `[E, P, B]`; one minibatch needs none."""
        agent = self.pack.static.agent
        return draws.orders(generators, agent.learning_epochs, rows) if agent.mini_batches > 1 else None

    def _shifts(self, rows: int, generators: list[np.random.Generator]) -> np.ndarray | None:
        """What RPO adds to the means in each epoch, `[E, P, B, A]`: uniform within ± alpha, fresh for every row.

        Source: Rahman and Xue 2022, "Robust Policy Optimization in Deep Reinforcement Learning".
        """
        agent = self.pack.static.agent
        if agent.cls != "RPO":
            return None
        return draws.shifts(generators, agent.learning_epochs, rows, self.actions.units, self.pack.hyper.alpha)

    def _random(self, steps: int) -> np.ndarray | None:
        """Which steps of the next rollout take actions of no policy, `[T]`; None in a run without such."""
        random = self.pack.static.agent.random_timesteps
        return np.arange(self.timestep, self.timestep + steps) < random if random else None

    @property
    def _learns(self) -> bool:
        """The next rollout is learned from: it has no random action, and learning has started when it is over."""
        agent = self.pack.static.agent
        return self.timestep >= agent.random_timesteps and self.timestep + agent.rollouts > agent.learning_starts

    @property
    def _entropy(self) -> bool:
        """Any member has an entropy bonus."""
        return bool(self.pack.hyper.entropy_loss_scale.any())

    @property
    def _of_value(self) -> np.ndarray | None:
        """Which parameters have the value's learning rate `[n]`; None where all members have one rate for all."""
        hyper = self.pack.hyper
        return self.network.of_value() if (hyper.value_learning_rate != hyper.learning_rate).any() else None

    def _rates(self) -> np.ndarray | None:
        """Learning rates of the next update's epochs `[P, E]` float32; None where they are not counted."""
        config = self.pack.static
        if config.agent.learning_rate_scheduler in (None, "KLAdaptiveLR"):
            return None
        epochs, done = config.agent.learning_epochs, self.updates / config.updates
        schedule = config.agent.learning_rate_scheduler_kwargs
        counted = range(self.updates * epochs, (self.updates + 1) * epochs)
        initial = self.pack.hyper.learning_rate
        rates = [[schedule.rate(float(rate), epoch, done) for epoch in counted] for rate in initial]
        return np.array(rates, np.float32)

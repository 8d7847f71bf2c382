"""The training loop of one pack: collect → advantages → update → report → save.

Axes: P member · T rollout step · N environment.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from math import isnan

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from runner import tracking
from runner.checkpoint import Counters, MemberState, Moments
from runner.envs.base import VectorEnv
from runner.pack import Pack
from runner.parameters import LOG_STD, Network
from runner.spaces import ActionSpace
from runner.streams import stream_seed
from runner.torch import accelerate, distributions, models, preprocessors
from runner.torch.preprocessors import Statistics
from runner.torch.rollout import Act, Collector, Rollout, env_actions
from runner.torch.schedulers import DECAY
from runner.torch.update import Hyper, Learner, Metrics, Optimizer, Rules, update
from runner.tracking import Record, Report

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


class Learning:
    """P members in training: parameters, statistics and counters.

    Attributes:
        pack: configurations and Hyper numbers.
        network: the layout of the parameters.
        updates: updates done.
        alive: per member, whether its numbers are still finite.
    """

    def __init__(self, pack: Pack, observation_size: int, actions: ActionSpace) -> None:
        """Initialise every member from its own seed."""
        config = pack.static
        self.pack = pack
        self.device = accelerate.device()
        self.actions = actions
        self.network = Network.of(config.models, observation_size, actions.size)
        self.updates = 0
        self.alive = [True] * pack.size
        self._rules = Rules(self.network, config, bool(pack.hyper.entropy_loss_scale.any()))
        self._hyper = _hyper(pack, self.device)
        self._records = [0] * pack.size
        self._seconds = [0.0] * pack.size
        self._scores = [float("nan")] * pack.size
        self._best = [-float("inf")] * pack.size
        log_std = config.models.policy.initial_log_std
        rows = [self.network.initial(seed, log_std) for seed in pack.seeds]
        parameters = torch.from_numpy(np.stack(rows)).to(self.device)
        rate = self._hyper.learning_rate
        # No tensor twice: a compiled step would be compiled again once they are different ones.
        moments = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._learner = Learner(
            Optimizer(parameters, *moments, torch.zeros_like(rate), rate.clone()),
            self._statistics(config.agent.observation_preprocessor, observation_size),
            self._statistics(config.agent.value_preprocessor, 1),
        )

    @property
    def timestep(self) -> int:
        """Steps of every environment so far."""
        return self.updates * self.pack.static.agent.rollouts

    @torch.no_grad()
    def choose(self, observations: np.ndarray, deterministic: bool, draw: int) -> np.ndarray:
        """Actions for the environment.

        Args:
            observations: raw, `[P·N, O]` float32.
            deterministic: the distribution's mode, else a sample.
            draw: number of the draw; the same number draws the same.

        Returns:
            `[P·N, …]` as the environment takes them, clipped to its bounds where the policy says so.
        """
        rows = torch.from_numpy(observations).to(self.device).unflatten(0, (self.pack.size, -1))
        shape = (1, rows.shape[1], self.actions.size)
        noise = self._noise(shape, self._generators("act", draw)) if not deterministic else None
        _, chosen = self._act(deterministic)(rows, noise[0] if noise is not None else rows)
        return env_actions(chosen, self.actions, self.pack.static.models.policy.clip_actions)

    @torch.no_grad()
    def train(self, env: VectorEnv, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
        """Train from where it stands to the configured length; yields whenever something is due.

        The first report comes before any training, empty, when all that takes long to start is done: environments and
        compilation.

        Args:
            env: P·N environments, member-major.
            stop: asked after every update; True ends training there, with a last report and checkpoint.
        """
        config = self.pack.static
        steps = config.agent.rollouts
        envs = env.num_envs // self.pack.size
        with accelerate.few_threads(self._rules, self.pack.size * steps * envs):
            collector = Collector(env, self.pack.size, config.models.policy.clip_actions, self.device)
            shape = (steps, envs, self.actions.size)
            step = accelerate.minibatch_stepper(self._rules)
            if accelerate.compiles(config):
                accelerate.warm_up(step, self._learner, self._hyper, self.actions, shape, self._rules)
            yield Report([None] * self.pack.size, checkpoint=False, best=[], diverged=[])
            yield from self._iterate(collector, shape, step, stop)

    def _iterate(
        self,
        collector: Collector,
        shape: tuple[int, int, int],
        step: accelerate.MinibatchStep,
        stop: Callable[[], bool],
    ) -> Iterator[Report]:
        """The loop: collect, update, report."""
        config = self.pack.static
        write, save = config.interval("write_interval"), config.interval("checkpoint_interval")
        sums: list[Tensor] = []
        reported, began = self.timestep, time.perf_counter()
        done = self.updates == config.updates or not any(self.alive)
        while not done:
            generators = self._generators("update", self.updates)
            rollout = collector.collect(self._act(deterministic=False), self._noise(shape, generators))
            learner, numbers = self._update(rollout, generators, step)
            diverged = self._accept(learner, numbers)
            sums.append(numbers)
            before, self.updates = self.timestep, self.updates + 1

            done = self.updates == config.updates or not any(self.alive) or stop()
            saves = done or (save > 0 and self.timestep // save > before // save)
            writes = write > 0 and self.timestep // write > before // write
            # A checkpoint always comes with a record, so that no interval is open when a run goes on from it.
            if saves or writes or diverged:
                elapsed = time.perf_counter() - began
                self._scores = collector.episodes.scores()
                records = self._report(sums, collector, self.timestep - reported, elapsed, diverged)
                yield Report(records, saves, self._improved() if saves else [], diverged)
                # What the caller does with a report is not training time.
                sums, reported, began = [], self.timestep, time.perf_counter()

    def states(self) -> list[MemberState]:
        """Every member as it is now."""
        optimizer = self._learner.optimizer
        rows = [tensor.cpu().numpy() for tensor in optimizer]
        envs = self.pack.static.env.num_envs or 0
        states = []
        for member in range(self.pack.size):
            parameters, first, second, steps, rate = (row[member].copy() for row in rows)
            counters = Counters(
                update=self.updates,
                timestep=self.timestep,
                env_steps=self.timestep * envs,
                records=self._records[member],
                seconds=self._seconds[member],
                optimizer_steps=float(steps[0]),
                learning_rate=float(rate[0]),
                score=self._scores[member],
                best=self._best[member],
                diverged=not self.alive[member],
            )
            observation = _moments(self._learner.observation_statistics, member)
            value = _moments(self._learner.value_statistics, member)
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

        def stacked(rows: list[np.ndarray]) -> Tensor:
            return torch.from_numpy(np.stack(rows).astype(np.float32)).to(self.device)

        self._learner = Learner(
            Optimizer(
                stacked([s.parameters for s in states]),
                stacked([s.first_moment for s in states]),
                stacked([s.second_moment for s in states]),
                stacked([np.array([c.optimizer_steps]) for c in counters]),
                stacked([np.array([c.learning_rate]) for c in counters]),
            ),
            self._stacked([s.observation_statistics for s in states]),
            self._stacked([s.value_statistics for s in states]),
        )

    def _update(
        self, rollout: Rollout, generators: list[torch.Generator], step: accelerate.MinibatchStep
    ) -> tuple[Learner, Tensor]:
        """One update of every member; the new learner and its numbers `[P, len(COLUMNS)]`."""
        self._anneal()
        alive = torch.tensor(self.alive, device=self.device).unsqueeze(1)
        orders = self._orders(rollout.rewards[0].numel(), generators)
        learner, metrics, explained = update(self._learner, rollout, orders, self._hyper, self._rules, alive, step)
        spread = self._deviation(learner)
        return learner, torch.cat([*metrics, explained, learner.optimizer.learning_rate, spread], 1)

    def _accept(self, learner: Learner, numbers: Tensor) -> list[int]:
        """Take over the learner, but for members with a number that is not finite: they stay as they were.

        Returns:
            Members that diverged just now.
        """
        losses = numbers[:, : len(Metrics._fields)]
        finite = learner.optimizer.parameters.isfinite().all(1) & losses.isfinite().all(1)
        if bool(finite.all()):
            self._learner = learner
            return []

        def keep(new: Tensor, old: Tensor) -> Tensor:
            return torch.where(finite.unsqueeze(1), new, old)

        def keep_statistics(new: Statistics | None, old: Statistics | None) -> Statistics | None:
            return Statistics(*map(keep, new, old)) if new is not None and old is not None else None

        before = self._learner
        self._learner = Learner(
            Optimizer(*map(keep, learner.optimizer, before.optimizer)),
            keep_statistics(learner.observation_statistics, before.observation_statistics),
            keep_statistics(learner.value_statistics, before.value_statistics),
        )
        lost = [p for p, ok in enumerate(finite.tolist()) if not ok and self.alive[p]]
        for member in lost:
            self.alive[member] = False
        return lost

    def _report(
        self, sums: list[Tensor], collector: Collector, timesteps: int, elapsed: float, diverged: list[int]
    ) -> list[Record | None]:
        """One record per member that trained in this interval of `timesteps` and `elapsed` seconds."""
        means = torch.stack(sums).mean(0).cpu().numpy()
        episodes = collector.episodes.drain()
        rate = timesteps * collector.envs / elapsed
        records: list[Record | None] = []
        for member in range(self.pack.size):
            if not self.alive[member] and member not in diverged:
                records.append(None)
                continue
            numbers = {tag: float(value) for tag, value in zip(COLUMNS, means[member], strict=True)}
            if not self._rules.entropy:
                del numbers[tracking.ENTROPY_LOSS]
            if not self._rules.network.gaussian:
                del numbers[tracking.STANDARD_DEVIATION]
            self._seconds[member] += elapsed
            score = {} if isnan(self._scores[member]) else {tracking.SCORE: self._scores[member]}
            values = {**episodes[member], **score, **numbers, tracking.STEPS_PER_SECOND: rate}
            steps = self.timestep * collector.envs
            records.append(Record(self._records[member], self.timestep, steps, self._seconds[member], values))
            self._records[member] += 1
        return records

    def _improved(self) -> list[int]:
        """Members whose score is better than ever; remembers it."""
        better = [p for p, (score, best) in enumerate(zip(self._scores, self._best, strict=True)) if score > best]
        for member in better:
            self._best[member] = self._scores[member]
        return better

    def _act(self, deterministic: bool) -> Act:
        """The policies as they are now."""
        scaler = self._rules.observation_scaler(self._learner.observation_statistics)
        named = models.cut(self.network, self._learner.optimizer.parameters)
        log_std = self._rules.log_std(named)

        def act(observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
            rows = scaler.normalize(observations) if scaler else observations
            outputs = models.policy(self.network, named, rows)
            if deterministic:
                return outputs, distributions.mode(outputs, log_std)
            return outputs, distributions.sample(outputs, log_std, noise)

        return act

    def _generators(self, purpose: str, draw: int) -> list[torch.Generator]:
        """A fresh random stream per member: a function of its seed, the purpose and the number of the draw."""
        return [torch.Generator(self.device).manual_seed(stream_seed(seed, purpose, draw)) for seed in self.pack.seeds]

    def _noise(self, shape: tuple[int, ...], generators: list[torch.Generator]) -> Float[Tensor, "T P N A"]:
        # Drawn contiguously per member and then stacked: filling a strided view draws other numbers.
        gaussian = self.network.gaussian
        return torch.stack([distributions.noise(shape, gaussian, g, self.device) for g in generators], 1)

    def _orders(self, rows: int, generators: list[torch.Generator]) -> Iterator[Tensor | None]:
        """Per epoch a permutation of every member's rows; one minibatch needs none."""
        agent = self.pack.static.agent
        for _ in range(agent.learning_epochs):
            if agent.mini_batches == 1:
                yield None
            else:
                yield torch.stack([torch.randperm(rows, generator=g, device=self.device) for g in generators])

    def _anneal(self) -> None:
        """Set the learning rate of schedules that follow the share of training done."""
        decay = DECAY.get(self.pack.static.agent.learning_rate_scheduler or "")
        if decay is not None:
            rate = self._hyper.learning_rate * decay(self.updates / self.pack.static.updates)
            self._learner = Learner(
                self._learner.optimizer._replace(learning_rate=rate),
                self._learner.observation_statistics,
                self._learner.value_statistics,
            )

    def _deviation(self, learner: Learner) -> Float[Tensor, "P 1"]:
        """Mean standard deviation of the Gaussian; zero for a categorical policy, which reports none."""
        parameters = learner.optimizer.parameters
        if not self.network.gaussian:
            return torch.zeros_like(parameters[:, :1])
        log_std = self._rules.log_std({LOG_STD: models.cut(self.network, parameters)[LOG_STD]})
        assert log_std is not None
        return log_std.exp().mean(-1)

    def _statistics(self, name: str | None, features: int) -> Statistics | None:
        return preprocessors.initial(self.pack.size, features, self.device) if name else None

    def _stacked(self, moments: list[Moments | None]) -> Statistics | None:
        present = [m for m in moments if m is not None]
        if not present:
            return None
        rows = ([m.mean for m in present], [m.variance for m in present], [[m.count] for m in present])
        return Statistics(*(torch.tensor(np.array(r), dtype=torch.float64, device=self.device) for r in rows))


def _hyper(pack: Pack, device: torch.device) -> Hyper:
    """Hyper numbers as `[P, 1]` float32; clips and thresholds that are off become infinite."""
    off_at_zero = ("value_clip", "grad_norm_clip", "kl_threshold")
    columns = {}
    for name in Hyper._fields:
        column = np.array(getattr(pack.hyper, name), float)
        if name in off_at_zero:
            column[column <= 0] = np.inf
        columns[name] = torch.tensor(column, dtype=torch.float32, device=device).unsqueeze(1)
    return Hyper(**columns)


def _moments(statistics: Statistics | None, member: int) -> Moments | None:
    if statistics is None:
        return None
    mean, variance, count = (tensor[member].cpu().numpy().copy() for tensor in statistics)
    return Moments(mean, variance, float(count[0]))

"""The members of a pack as they are now: their numbers on a backend's device, and what is counted of them here.

Axes: P member · T rollout step · N environment · E epoch · C number of an update.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from runner import draws
from runner.config import Config
from runner.envs.base import VectorEnv
from runner.envs.spaces import ActionSpace, Layout
from runner.group import Group
from runner.networks.parameters import Network
from runner.networks.policies import Distribution, remark
from runner.training.pack import Hyper, Pack, Rules, changes_of
from runner.training.state import Counters, MemberState, exploited, initial, member_of, members, replace_member, stacked
from runner.training.tracking import EVALUATION_MEAN

log = logging.getLogger(__name__)


class Backend(Protocol):
    """The functions that training needs of a backend; `runner.torch.train` and `runner.jax.train` explain them.

    A learner, a policy, a rollout, a carry and a collector are whatever the backend makes of them.
    """

    compiles: Callable[[Config], bool]
    sees_gpu: Callable[[], bool]
    multiplies_bfloat16: Callable[[], bool]
    settings: Callable[[Rules, int], AbstractContextManager[None]]
    env_actions: Callable[[Distribution, ActionSpace, bool], Any]
    begin: Callable[[Rules, Any, VectorEnv, Any, draws.Draws], Any]
    policy: Callable[[Rules, Any], Any]
    choose: Callable[[Rules, Any, Any, Any, np.ndarray, np.ndarray | None], tuple[Any, np.ndarray]]
    learn: Callable[[Rules, Any, Any, draws.Draws, np.ndarray], tuple[Any, np.ndarray, np.ndarray]]
    put: Callable[[MemberState], Any]
    get: Callable[[Any, Counters, Hyper], MemberState]
    experience_of: Callable[[Any, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
    join: Callable[[Group], None]
    gather: Callable[[np.ndarray], np.ndarray]
    whole: Callable[[Any], Any]


class Members:
    """P members, those of a trial side by side.

    Attributes:
        backend: holds their numbers.
        pack: their configurations.
        network: the layout of their parameters.
        env_actions: what an environment gets of their actions, a function of the backend.
        rules: what their updates share.
        learner: their numbers on the device.
        hyper: their Hyper numbers as configured `[P]`.
        counters: where each stands `[P]`.
        group: this process's place among those that train them.
    """

    rules: Rules
    learner: Any
    hyper: Hyper
    counters: Counters

    def __init__(
        self, backend: Backend, pack: Pack, observations: Layout, actions: ActionSpace, group: Group | None = None
    ) -> None:
        """Initialise every member from its own seed."""
        config = pack.static
        self.backend, self.pack, self.group = backend, pack, group or Group()
        self.network = Network.of(config, observations, actions)
        if (said := remark(config.models.policy, actions, observations)) is not None:
            log.warning(said)
        if self.network.bfloat16 and not backend.multiplies_bfloat16():
            log.warning(
                "agent.mixed_precision: this device has no bfloat16 arithmetic; float32 is used, which is faster"
            )
            self.network = replace(self.network, bfloat16=False)
        self.env_actions = backend.env_actions(self.network.distribution, actions, config.models.policy.clips)
        self.compiles, self._sequence = backend.compiles(config), config.sequence
        numbers = zip(pack.seeds, pack.members_hyper, strict=True)
        self.restore([initial(self.network, config.agent, seed, hyper) for seed, hyper in numbers])

    # ------------------------------------------------------------------ where they stand

    @property
    def update(self) -> int:
        """Updates done."""
        return int(self.counters.update[0])

    @property
    def timestep(self) -> int:
        """Steps of every environment so far."""
        return self.update * self.pack.static.agent.rollouts

    @property
    def alive(self) -> np.ndarray:
        """Members whose numbers are still finite `[P]`."""
        return ~self.counters.diverged

    @property
    def finished(self) -> bool:
        """Trained to the configured length."""
        return self.update >= self.pack.static.updates

    @property
    def over(self) -> bool:
        """There is nothing left to train: the configured length is reached, or every member has diverged."""
        return self.finished or not self.alive.any()

    @property
    def learns(self) -> bool:
        """The next rollout is learned from: it has no random action, and learning has started when it is over."""
        agent = self.pack.static.agent
        return self.timestep >= agent.random_timesteps and self.timestep + agent.rollouts > agent.learning_starts

    def advance(self) -> int:
        """Count an update; returns the timestep before it."""
        before, envs = self.timestep, self.pack.static.env.num_envs or 0
        self.counters.update[:] += 1
        self.counters.timestep[:] = self.timestep
        self.counters.env_steps[:] = self.timestep * envs
        return before

    def states(self) -> list[MemberState]:
        """Every member as it is now, those of a trial side by side."""
        return members(self.backend.get(self.learner, self.counters, self.hyper))

    def restore(self, states: Sequence[MemberState]) -> None:
        """Go on as these, one per member; those without Hyper numbers get what their configurations have by then."""
        own = zip(states, self.pack.members_hyper, self._changes(), strict=True)
        self._take(stacked([s if s.hyper else replace(s, hyper=self._then(s, h, new)) for s, h, new in own]))

    def _changes(self) -> list[list[tuple[int, dict[str, float]]]]:
        """The changes of every member's Hyper numbers, with their timesteps."""
        return [changes_of(config, agent) for config in self.pack.configs for agent in self.pack.firsts]

    def _then(self, state: MemberState, hyper: Hyper, changes: Sequence[tuple[int, dict[str, float]]]) -> Hyper:
        """Hyper numbers at the timestep of a state, whose last rollout has seen what came before its end."""
        began = state.counters.timestep - self.pack.static.agent.rollouts
        past = [numbers for timestep, numbers in changes if timestep <= began]
        return Hyper(**past[-1]) if past else hyper

    def _take(self, state: MemberState) -> None:
        assert state.hyper is not None
        self.counters, self.hyper = state.counters, state.hyper
        self.rules = Rules.of(self.network, self.pack.static, state.hyper, self.compiles, self.group.size)
        self.learner = self.backend.put(state)

    def change(self) -> None:
        """Take up the Hyper numbers that configurations have from here on, and learning rates in proportion."""
        began = self.timestep - self.pack.static.agent.rollouts
        copies: dict[int, tuple[MemberState | int, Hyper, float]] = {}
        for member, changes in enumerate(self._changes()):
            for _, numbers in (new for new in changes if began < new[0] <= self.timestep):
                rate = numbers["learning_rate"] / float(self.hyper.learning_rate[member])
                copies[member] = member, Hyper(**numbers), rate
        if copies:
            self.exploit(copies)

    def exploit(self, copies: Mapping[int, tuple[MemberState | int, Hyper, float]]) -> None:
        """Let members go on as copies of these, or of the members in these places; see `exploited`."""
        state = self.backend.get(self.learner, self.counters, self.hyper)
        new: dict[int, MemberState] = {}
        for member, (source, hyper, rate) in copies.items():
            copied = member_of(state, source) if isinstance(source, int) else source
            new[member] = exploited(member_of(state, member), copied, hyper, rate)
        for member, one in new.items():
            replace_member(state, member, one)
        self._take(state)

    def scored(self, scores: Sequence[float]) -> None:
        """Take note of the trials' scores; where no episode has ended since it went on (NaN), a trial's stays."""
        now = np.repeat(scores, self.pack.groups)
        self.counters.score[:] = np.where(np.isnan(now), self.counters.score, now)

    def improved(self, evaluated: Sequence[Mapping[str, float]] | None) -> list[int]:
        """Trials whose score, that of an evaluation if there was one, is better than ever; remembers it."""
        scores = self.counters.score
        if evaluated is not None:
            scores = np.repeat([numbers[EVALUATION_MEAN] for numbers in evaluated], self.pack.groups)
        better: np.ndarray = scores > self.counters.best
        self.counters.best[better] = scores[better]
        return np.flatnonzero(better[:: self.pack.groups]).tolist()

    def diverge(self, members: Sequence[int]) -> list[int]:
        """Take note of members whose numbers are no longer finite, with which their trials end; returns these."""
        trials = sorted({member // self.pack.groups for member in members})
        for trial in trials:
            self.counters.diverged[self.pack.members(trial)] = True
        return trials

    # ------------------------------------------------------------------ what they draw and do

    def draw(self) -> draws.Draws:
        """The random numbers and rates of the next iteration: the same for both backends, in an order that is law."""
        agent, seeds = self.pack.static.agent, self.pack.seeds
        distribution, steps, envs = self.network.distribution, agent.rollouts, self.pack.rows
        generators = draws.generators(seeds, "update", self.update)
        noise = draws.noise(generators, steps, envs, distribution.width, distribution.gaussian)
        orders = shifts = random = None
        if agent.mini_batches > 1:
            orders = draws.orders(generators, agent.learning_epochs, steps * envs // self._sequence)
        if agent.cls == "RPO":
            shape = agent.learning_epochs, steps * envs, distribution.units
            shifts = draws.shifts(generators, *shape, self.hyper.alpha)
        if agent.random_timesteps:
            random = np.arange(self.timestep, self.timestep + steps) < agent.random_timesteps
        return draws.Draws(noise[:, :, self.group.own(envs)], orders, shifts, random, self._rates())

    def agreed(self, stop: bool) -> bool:
        """The decision to stop of all processes of the group, which is that of the first, who alone is told to."""
        return stop if self.group.size == 1 else bool(self.backend.gather(np.array([stop]))[0, 0])

    def whole(self, rollout: Any) -> Any:
        """The rollout of all environments, of which those of the group have a part each."""
        return rollout if self.group.size == 1 else self.backend.whole(rollout)

    def _rates(self) -> np.ndarray | None:
        """Learning rates of the next update's epochs `[P, E]` float32; None where they are not counted."""
        config = self.pack.static
        if config.agent.learning_rate_scheduler in (None, "KLAdaptiveLR"):
            return None
        epochs, done = config.agent.learning_epochs, self.update / config.updates
        schedule = config.agent.learning_rate_scheduler_kwargs
        counted = range(self.update * epochs, (self.update + 1) * epochs)
        rates = [[schedule.rate(float(rate), epoch, done) for epoch in counted] for rate in self.hyper.learning_rate]
        return np.array(rates, np.float32)

    def choose(self, carry: Any, observations: np.ndarray, deterministic: bool, draw: int) -> tuple[Any, np.ndarray]:
        """Actions for the environment.

        Args:
            carry: what the policies remember `[P·N, M]`; None where episodes begin, and for feed-forward policies.
            observations: raw, `[P·N, O]` float32.
            deterministic: the distribution's mode, else a sample.
            draw: number of the draw; the same number draws the same.

        Returns:
            The carry after, and `[P·N, …]` as the environment takes them, clipped to its bounds where the policy says
            so.
        """
        rows = observations.reshape(self.pack.size, -1, observations.shape[1])
        noise, distribution = None, self.network.distribution
        if not deterministic:
            generators = draws.generators(self.pack.seeds, "act", draw)
            noise = draws.noise(generators, 1, rows.shape[1], distribution.width, distribution.gaussian)[0]
        if size := self.network.policy_memory:
            carry = (
                np.zeros((*rows.shape[:2], size), np.float32)
                if carry is None
                else carry.reshape(self.pack.size, -1, size)
            )
        carry, actions = self.backend.choose(self.rules, self.learner, self.env_actions, carry, rows, noise)
        return carry if carry is None else carry.reshape(len(observations), -1), actions

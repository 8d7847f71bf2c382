"""The functions that training one pack takes on torch: to begin, to act, to learn. The loop is `runner.training.loop`.

Axes: P member · T rollout step · N environment · K number of an action · W mean or logit · C number of an update.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from runner.draws import Draws
from runner.envs.base import VectorEnv
from runner.envs.halves import Halves
from runner.torch import accelerate, distributions, models
from runner.torch.accelerate import compiles, gather, join, multiplies_bfloat16, sees_gpu, settings
from runner.torch.preprocessors import Scaler, Statistics, observation_scaler
from runner.torch.rollout import Collector, EnvActions, Rollout, env_actions, experience_of, whole
from runner.torch.update import Learner, Optimizer, update
from runner.training.pack import Hyper, Rules
from runner.training.state import Counters, MemberState, Moments

__all__ = [
    "compiles",
    "env_actions",
    "experience_of",
    "gather",
    "join",
    "multiplies_bfloat16",
    "sees_gpu",
    "settings",
    "whole",
]


class Policy(NamedTuple):
    """The part of a learner that acting needs, made ready once per rollout."""

    named: models.Parameters
    log_std: Tensor | None
    scaler: Scaler | None


def begin(rules: Rules, learner: Learner, env: VectorEnv, actions: EnvActions, draws: Draws) -> Collector:
    """Reset the environments (P·N, member-major), and make what training runs by one update on nothing.

    It compiles, or records graphs; and on a GPU it shows, before any step, whether there is memory for the pack.
    """
    members, steps = len(learner.optimizer.parameters), len(draws.noise)
    carry, own = rules.network.carry(members, env.num_envs // members), partial(act, rules)
    if isinstance(env, Halves):
        env.apart = _acts_alike(env, partial(own, policy(rules, learner)), carry, draws.noise[0])
    count, acts = (rules.config.agent.team_return, rules.processes), accelerate.captured(own)
    collector = Collector(env, members, actions, acts, carry, rules.config.sequence, *count)
    if rules.compiled or accelerate.sees_gpu():
        rollout = _nothing(rules, collector, steps)
        # On a GPU twice, since every update but the first has beside it the memory that graphs hold.
        for _ in range(1 + accelerate.sees_gpu()):
            learn(rules, learner, whole(rollout) if rules.processes > 1 else rollout, draws, np.ones(members, bool))
    return collector


@torch.no_grad()
def _acts_alike(env: Halves, acts: Callable[..., Any], carry: np.ndarray | None, noise: np.ndarray) -> bool:
    """Acting on each half gives the bits that acting on both gives, of random observations: it depends on their number.

    Matrix products of a few rows are summed in another order than those of many.
    """
    rng, shape = np.random.default_rng(0), (env.members, env.num_envs // env.members, env.observation_size)
    drawn = rng.integers(0, 256, shape) if env.layout.dtype == np.uint8 else rng.standard_normal(shape)
    remembered = None if carry is None else rng.standard_normal(carry.shape).astype(carry.dtype)
    arrays = remembered, drawn.astype(env.layout.dtype), noise
    rows = [None if x is None else torch.from_numpy(x).to(accelerate.device()) for x in arrays]
    halves = [acts(*(None if x is None else x[:, part] for x in rows)) for part in env.rows]
    found = zip(acts(*rows), *halves, strict=True)
    return all(both is None or both.equal(torch.cat(parts, 1)) for both, *parts in found)


def policy(rules: Rules, learner: Learner) -> Policy:
    """The members' policies as they are now; on a GPU each parameter in memory of its own, without the others' gaps."""
    named = accelerate.kept(models.cut(rules.network, learner.optimizer.parameters))
    return Policy(named, models.log_std(rules, named), observation_scaler(rules, learner.observation_statistics))


def act(
    rules: Rules,
    policy: Policy,
    carry: Any,
    observations: Num[Tensor, "P N O"],
    noise: Float[Tensor, "P N W"],
    random: bool | None = None,
) -> tuple[Any, Float[Tensor, "P N W"], Num[Tensor, "P N K"]]:
    """Policy outputs for raw observations, and actions drawn with this noise, at `random` by no policy."""
    (outputs, carry), distribution = _outputs(rules, policy, carry, observations), rules.network.distribution
    if random:
        return carry, outputs, distributions.uniform(distribution, outputs, noise)
    return carry, outputs, distributions.sample(distribution, outputs, policy.log_std, noise)


def mode(
    rules: Rules, policy: Policy, carry: Any, observations: Num[Tensor, "P N O"]
) -> tuple[Any, Num[Tensor, "P N K"]]:
    """The most probable actions for raw observations."""
    outputs, carry = _outputs(rules, policy, carry, observations)
    return carry, distributions.mode(rules.network.distribution, outputs, policy.log_std)


def choose(
    rules: Rules, learner: Learner, actions: EnvActions, carry: Any, observations: np.ndarray, noise: np.ndarray | None
) -> tuple[Any, np.ndarray]:
    """Actions for environments outside training, by raw observations `[P, N, O]`: drawn with `noise`, or likeliest."""
    with accelerate.own_settings(rules.config.agent.tf32):
        rows, now = torch.from_numpy(observations).to(accelerate.device()), policy(rules, learner)
        carry = None if carry is None else torch.from_numpy(carry).to(rows.device)
        if noise is None:
            carry, chosen = mode(rules, now, carry, rows)
        else:
            carry, _, chosen = act(rules, now, carry, rows, torch.from_numpy(noise).to(rows.device))
        return None if carry is None else carry.cpu().numpy(), actions(chosen)


def learn(
    rules: Rules, learner: Learner, rollout: Rollout, draws: Draws, alive: Bool[np.ndarray, " P"]
) -> tuple[Learner, np.ndarray, np.ndarray]:
    """One update of every member, unless a number in it is not finite, now or before.

    Returns:
        The learner after, its numbers `[P, C]` in the order of `runner.training.reporting.COLUMNS`, and which members'
        are finite `[P]`.
    """
    orders, rates, shifts = (
        None if x is None else torch.from_numpy(x).to(learner.optimizer.steps.device)
        for x in (draws.orders, draws.rates, draws.shifts)
    )
    living = torch.from_numpy(alive).to(learner.optimizer.steps.device).unsqueeze(1)
    after, metrics, explained = update(learner, rollout, orders, living, rules, rates, shifts)
    finite = after.optimizer.parameters.isfinite().all(1)
    # Of a rollout without experience there are no numbers.
    finite &= torch.cat(metrics, 1).isfinite().all(1) | ~rollout.valid.flatten(1).any(1)
    columns = [*metrics, explained, after.optimizer.learning_rate, _deviation(rules, after), finite.unsqueeze(1)]
    # The one wait for the device in an update.
    host = torch.cat(columns, 1).cpu().numpy()
    numbers, said = host[:, :-1], host[:, -1] > 0
    kept = after if (said & alive).all() else _accepted(after, learner, finite & living.squeeze(1))
    return kept, numbers, said


@torch.inference_mode(False)
def put(state: MemberState) -> Learner:
    """Numbers of stacked members on the device."""
    device = accelerate.device()

    def column(row: Any) -> Float[Tensor, "P 1"]:
        return torch.tensor(np.asarray(row), dtype=torch.float32, device=device).unsqueeze(1)

    def statistics(moments: Moments | None) -> Statistics | None:
        if moments is None:
            return None
        mean, variance, seen = (
            torch.tensor(x, dtype=torch.float64, device=device) for x in (moments.mean, moments.variance, moments.count)
        )
        return Statistics(mean, variance, seen.unsqueeze(1))

    parameters, first, second = (
        torch.tensor(x, dtype=torch.float32, device=device)
        for x in (state.parameters, state.first_moment, state.second_moment)
    )
    counters = state.counters
    assert state.hyper is not None
    return Learner(
        Optimizer(parameters, first, second, column(counters.optimizer_steps), column(counters.learning_rate)),
        statistics(state.observation_statistics),
        statistics(state.value_statistics),
        Hyper(*map(column, state.hyper.effective())),
    )


def get(learner: Learner, counters: Counters, hyper: Hyper) -> MemberState:
    """The inverse of `put`, with what is counted and configured on the host."""

    def moments(statistics: Statistics | None) -> Moments | None:
        if statistics is None:
            return None
        mean, variance, seen = (tensor.cpu().numpy() for tensor in statistics)
        return Moments(mean, variance, seen[:, 0])

    parameters, first, second, steps, rate = (tensor.cpu().numpy() for tensor in learner.optimizer)
    return MemberState(
        parameters,
        first,
        second,
        moments(learner.observation_statistics),
        moments(learner.value_statistics),
        replace(counters, optimizer_steps=steps[:, 0], learning_rate=rate[:, 0]),
        hyper,
    )


def _outputs(rules: Rules, policy: Policy, carry: Any, observations: Num[Tensor, "P N O"]) -> tuple[Tensor, Any]:
    """Means or logits for raw observations, and the carry after."""
    rows = policy.scaler.normalize(observations) if policy.scaler else observations
    return models.acted(rules.network, policy.named, rows, carry)


def _deviation(rules: Rules, learner: Learner) -> Float[Tensor, "P 1"]:
    """Mean standard deviation of the Gaussian; zero for a categorical policy, which reports none."""
    log_std = models.log_std(rules, models.cut(rules.network, learner.optimizer.parameters))
    return torch.zeros_like(learner.optimizer.steps) if log_std is None else log_std.exp().mean(-1)


def _accepted(after: Learner, before: Learner, accepted: Bool[Tensor, " P"]) -> Learner:
    """The learner after, but for members with a number that is not finite, now or before: they stay as they were."""

    def keep(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(accepted.unsqueeze(1), new, old)

    def keep_statistics(new: Statistics | None, old: Statistics | None) -> Statistics | None:
        return Statistics(*map(keep, new, old)) if new is not None and old is not None else None

    return Learner(
        Optimizer(*map(keep, after.optimizer, before.optimizer)),
        keep_statistics(after.observation_statistics, before.observation_statistics),
        keep_statistics(after.value_statistics, before.value_statistics),
        after.hyper,
    )


def _nothing(rules: Rules, collector: Collector, steps: int) -> Rollout:
    """A rollout of zeros, of which no row is experience."""
    rows, size = (collector.members, steps, collector.envs), collector.env.observation_size
    distribution = rules.network.distribution
    observations = np.zeros((rows[0], steps + 1, rows[2], size), collector.env.layout.dtype)
    actions = np.zeros((*rows, distribution.chosen), np.float32 if distribution.gaussian else np.int64)
    outputs = np.zeros((*rows, distribution.width), np.float32)
    numbers, flags = np.zeros(rows, np.float32), np.zeros(rows, bool)
    columns = (observations, actions, outputs, numbers, flags, flags, numbers)
    final = torch.empty(rows[0], 0, size, dtype=torch.float32, device=collector.device)
    start, parts = rules.network.carry(rows[0], rows[2]), steps // rules.config.sequence
    carry = None if start is None else torch.from_numpy(start).to(collector.device).unsqueeze(1).repeat(1, parts, 1, 1)
    return Rollout._make([*(torch.from_numpy(x).to(collector.device) for x in columns), None, final, carry])

"""The functions that training one pack takes on JAX: to begin, to act, to learn. The loop is `runner.training.loop`.

Axes: P member · T rollout step · N environment · K number of an action · W mean or logit · C number of an update ·
E epoch · A action. Functions of one member are compiled for all.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from runner.draws import Draws
from runner.envs.base import VectorEnv
from runner.jax import accelerate, distributions, models
from runner.jax.accelerate import compiles, gather, join, multiplies_bfloat16, sees_gpu, settings
from runner.jax.loss import Batch, loss
from runner.jax.preprocessors import Scaler, Statistics, observation_scaler
from runner.jax.rollout import Collector, EnvActions, Rollout, env_actions, experience_of, whole
from runner.jax.update import (
    Learner,
    Metrics,
    Optimizer,
    Progress,
    Rows,
    descend,
    end,
    end_epoch,
    enter,
    leave,
    parted,
    start,
    start_epoch,
    taken,
    update,
)
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
    log_std: Array | None
    scaler: tuple[Array, Array] | None


def begin(rules: Rules, learner: Learner, env: VectorEnv, actions: EnvActions, draws: Draws) -> Collector:
    """Reset the environments (P·N, member-major), and compile what training runs, the update by one on nothing."""
    members = len(learner.optimizer.parameters)
    carry = rules.network.carry(members, env.num_envs // members)
    count = rules.config.agent.team_return, rules.processes
    collector = Collector(env, members, actions, partial(act, rules), carry, rules.config.sequence, *count)
    with accelerate.not_kept():
        rollout = collector.compile(policy(rules, learner), draws.noise, draws.random)
    rollout = accelerate.zeros(rollout)
    if rules.processes > 1:
        rollout = whole(rollout)
    learn(rules, learner, rollout, draws, np.ones(members, bool))
    return collector


def _policy(rules: Rules, learner: Learner) -> Policy:
    """The members' policies as they are now."""
    named = models.cut(rules.network, learner.optimizer.parameters)
    scaler = observation_scaler(rules, learner.observation_statistics)
    return Policy(named, models.log_std(rules, named), scaler and (scaler.mean, scaler.std))


def act(
    rules: Rules,
    policy: Policy,
    carry: Any,
    observations: Num[Array, "N O"],
    noise: Float[Array, "N W"],
    random: Bool[Array, ""] | None = None,
) -> tuple[Any, Float[Array, "N W"], Num[Array, "N K"]]:
    """Policy outputs for raw observations, and actions drawn with this noise, at `random` by no policy."""
    (outputs, carry), distribution = _outputs(rules, policy, carry, observations), rules.network.distribution
    actions = distributions.sample(distribution, outputs, policy.log_std, noise)
    if random is not None:
        actions = jnp.where(random, distributions.uniform(distribution, outputs, noise), actions)
    return carry, outputs, actions


def mode(rules: Rules, policy: Policy, carry: Any, observations: Num[Array, "N O"]) -> tuple[Any, Num[Array, "N K"]]:
    """The most probable actions for raw observations."""
    outputs, carry = _outputs(rules, policy, carry, observations)
    return carry, distributions.mode(rules.network.distribution, outputs, policy.log_std)


def choose(
    rules: Rules, learner: Learner, actions: EnvActions, carry: Any, observations: np.ndarray, noise: np.ndarray | None
) -> tuple[Any, np.ndarray]:
    """Actions for environments outside training, by raw observations `[P, N, O]`: drawn with `noise`, or likeliest."""
    with accelerate.own_settings(rules.config.agent.tf32):
        now = policy(rules, learner)
        if noise is None:
            carry, chosen = _modes(rules, now, carry, observations)
        else:
            carry, _, chosen = _samples(rules, now, carry, observations, noise)
        return None if carry is None else np.array(carry), np.asarray(actions(chosen))


def learn(
    rules: Rules, learner: Learner, rollout: Rollout, draws: Draws, alive: Bool[np.ndarray, " P"]
) -> tuple[Learner, np.ndarray, np.ndarray]:
    """One update of every member, unless a number in it is not finite, now or before; see torch's."""
    learned = _learned if rules.processes == 1 else _learned_together
    after, numbers, finite = learned(rules, learner, rollout, draws.orders, alive, draws.rates, draws.shifts)
    return after, np.asarray(numbers), np.asarray(finite)


@accelerate.own_settings()
def put(state: MemberState) -> Learner:
    """Numbers of stacked members on the device."""

    def statistics(moments: Moments | None) -> Statistics | None:
        if moments is None:
            return None
        with jax.enable_x64(True):
            arrays = (np.asarray(x, np.float64) for x in (moments.mean, moments.variance, moments.count))
            return Statistics(*accelerate.put(tuple(arrays)))

    counters = state.counters
    accelerate.keep_programs()
    rows = (state.parameters, state.first_moment, state.second_moment, counters.learning_rate)
    parameters, first, second, rate = accelerate.put(tuple(np.asarray(x, np.float32) for x in rows))
    assert state.hyper is not None
    return Learner(
        Optimizer(parameters, first, second, accelerate.put(np.asarray(counters.optimizer_steps, np.int32)), rate),
        statistics(state.observation_statistics),
        statistics(state.value_statistics),
        accelerate.put(state.hyper.effective()),
    )


@accelerate.own_settings()
def get(learner: Learner, counters: Counters, hyper: Hyper) -> MemberState:
    """The inverse of `put`, with what is counted and configured on the host."""

    def moments(statistics: Statistics | None) -> Moments | None:
        return None if statistics is None else Moments(*map(np.array, statistics))

    parameters, first, second, steps, rate = map(np.array, learner.optimizer)
    return MemberState(
        parameters,
        first,
        second,
        moments(learner.observation_statistics),
        moments(learner.value_statistics),
        replace(counters, optimizer_steps=steps.astype(np.float32), learning_rate=rate),
        hyper,
    )


def _outputs(rules: Rules, policy: Policy, carry: Any, observations: Num[Array, "N O"]) -> tuple[Array, Any]:
    """Means or logits for raw observations, and the carry after."""
    if policy.scaler is not None:
        epsilon, clip, _ = rules.network.scaling
        observations = Scaler(*policy.scaler, epsilon, clip).normalize(observations)
    return models.acted(rules.network, policy.named, observations, carry)


def _learn(
    rules: Rules,
    learner: Learner,
    rollout: Rollout,
    orders: Int[Array, "E U"] | None,
    alive: Bool[Array, ""],
    rates: Float[Array, " E"] | None,
    shifts: Float[Array, "E B A"] | None,
) -> tuple[Learner, Float[Array, " C"], Bool[Array, ""]]:
    """`learn` of one member."""
    return _judge(rules, learner, rollout, alive, update(learner, rollout, orders, alive, rules, rates, shifts))


def _judge(
    rules: Rules,
    learner: Learner,
    rollout: Rollout,
    alive: Bool[Array, ""],
    updated: tuple[Learner, Metrics, Float[Array, ""]],
) -> tuple[Learner, Float[Array, " C"], Bool[Array, ""]]:
    """`learn` of one member by what `update` did."""
    after, metrics, explained = updated
    # Of a rollout without experience there are no numbers.
    defined = jnp.isfinite(jnp.stack(metrics)).all() | ~rollout.valid.any()
    finite = jnp.isfinite(after.optimizer.parameters).all() & defined
    log_std = models.log_std(rules, models.cut(rules.network, after.optimizer.parameters))
    spread = jnp.zeros_like(explained) if log_std is None else jnp.exp(log_std).mean()
    numbers = jnp.stack([*metrics, explained, after.optimizer.learning_rate, spread])
    accepted = finite & alive
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), after, learner), numbers, finite


def _learned_together(
    rules: Rules,
    learner: Learner,
    rollout: Rollout,
    orders: Int[np.ndarray, "E P U"] | None,
    alive: Bool[np.ndarray, " P"],
    rates: Float[np.ndarray, "P E"] | None,
    shifts: Float[np.ndarray, "E P B A"] | None,
) -> tuple[Learner, Float[Array, "P C"], Bool[Array, " P"]]:
    """`_learned` of processes, which add up their gradients minibatch by minibatch, between programs of their own."""
    agent, rank = rules.config.agent, np.int32(jax.process_index())
    updated, rows, state = _start((rules, orders is None), learner, rollout, alive)
    for epoch in range(agent.learning_epochs):
        state = _start_epoch(rules, state, alive, None if rates is None else rates[:, epoch])
        order, shift = accelerate.put(tuple(None if x is None else x[epoch] for x in (orders, shifts)))
        for number in range(agent.mini_batches):
            where = np.array([epoch, number, rank])
            *entered, part = _differentiate(rules, state, rows.ready, order, shift, learner.hyper, where)
            state = _descend(rules, state, *entered, accelerate.total(part), learner.hyper)
        state = _end_epoch(rules, state, learner.hyper)
    return _end(rules, learner, rollout, alive, updated, rows, state)


def _differentiated(
    rules: Rules,
    state: Progress,
    data: Batch,
    order: Int[Array, " U"] | None,
    shift: Float[Array, "B A"] | None,
    hyper: Hyper,
    where: Int[Array, " 3"],
) -> tuple[Statistics | None, Bool[Array, ""], Float[Array, " n"]]:
    """A minibatch as `enter` gives it; of it, the gradient and the loss's parts of this process's rows.

    Args:
        where: the numbers of epoch, minibatch and process.
    """
    (epoch, number, rank), batch = where, data._replace(shift=shift)
    if order is not None:
        chosen, real = parted(order, rules.config.agent.mini_batches)
        batch = taken(batch, len(order), chosen[number], real[number])
    statistics, entering, batch = enter(state, batch, rules, order is None, epoch)
    part = _own(batch, rules.processes, rank)
    gradient, parts = jax.grad(loss, has_aux=True)(state.optimizer.parameters, part, hyper, rules)
    return statistics, entering, jnp.concatenate((gradient, jnp.stack(parts)))


def _own(batch: Batch, processes: int, rank: Int[Array, ""]) -> Batch:
    """The rows of a minibatch that a process learns from, or sequences; their weights are parts of 1."""
    sequences = len(batch.weight) if batch.carry is None else len(batch.carry)
    size = -(-sequences // processes)

    def cut(x: Array) -> Array:
        # A filled place has weight 0.
        rows = jnp.pad(x, [(0, size * processes - sequences), *[(0, 0)] * (x.ndim - 1)])
        return jax.lax.dynamic_slice_in_dim(rows, rank * size, size)

    def of_steps(x: Array) -> Array:
        steps = x.reshape(-1, sequences, *x.shape[1:])
        return jax.vmap(cut)(steps).reshape(-1, *x.shape[1:])

    carry = None if batch.carry is None else cut(batch.carry)
    return jax.tree.map(of_steps, batch._replace(carry=None))._replace(carry=carry)


def _descended(
    rules: Rules,
    state: Progress,
    statistics: Statistics | None,
    entering: Bool[Array, ""],
    total: Float[Array, " n"],
    hyper: Hyper,
) -> Progress:
    """The state after a minibatch, by the total of what `_differentiated` gave in each process."""
    count = len(state.optimizer.parameters)
    stepped = descend(state.optimizer, total[:count], tuple(total[count:]), hyper, entering, rules)
    return leave(state, statistics, entering, *stepped)


def _ended(
    rules: Rules,
    learner: Learner,
    rollout: Rollout,
    alive: Bool[Array, ""],
    after: Learner,
    rows: Rows,
    state: Progress,
) -> tuple[Learner, Float[Array, " C"], Bool[Array, ""]]:
    """`learn` of one member by the state after its last minibatch."""
    return _judge(rules, learner, rollout, alive, end(after, rows, state, rules))


policy = accelerate.over_members(_policy, [0])
_samples = accelerate.over_members(act, [0, 0, 0, 0])
_modes = accelerate.over_members(mode, [0, 0, 0])
# A learner's memory is its own: an interrupt while the next one is computed leaves it as it is.
_learned = accelerate.over_members(_learn, [0, 1, 1, 0, 0, 1])
# Those of `_learned_together`.
_start = accelerate.over_members(lambda static, *given: start(*given, *static), [0, 1, 0])
_start_epoch = accelerate.over_members(lambda rules, *given: start_epoch(*given), [0, 0, 0], donate=[0])
_differentiate = accelerate.over_members(_differentiated, [0, 0, 0, 0, 0, None])
_descend = accelerate.over_members(_descended, [0, 0, 0, 0, 0], donate=[0])
_end_epoch = accelerate.over_members(lambda rules, state, hyper: end_epoch(state, hyper, rules), [0, 0], donate=[0])
_end = accelerate.over_members(_ended, [0, 1, 0, 0, 0, 0])

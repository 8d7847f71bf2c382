"""The PPO update of one member: rollout in, new learner out. A pure function of arrays.

Axes: T rollout step · N environment · B minibatch row · O observation · A action · n parameter.
Source: Schulman et al. 2017 with skrl's value loss, statistics and schedule; docs/skrl.md lists each difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from runner.jax import advantages as gae
from runner.jax import distributions, models, preprocessors, schedulers
from runner.jax.loss import Batch, loss
from runner.jax.preprocessors import Statistics, observation_scaler, value_scaler
from runner.jax.recurrent import Memory
from runner.jax.rollout import Rollout
from runner.training.pack import Hyper, Rules

State = TypeVar("State")


class Optimizer(NamedTuple):
    """Parameters and Adam's moments `[n]`, number of steps and learning rate."""

    parameters: Float[Array, " n"]
    first_moment: Float[Array, " n"]
    second_moment: Float[Array, " n"]
    steps: Int[Array, ""]
    learning_rate: Float[Array, ""]


class Learner(NamedTuple):
    """Everything that learning changes, and the member's numbers."""

    optimizer: Optimizer
    observation_statistics: Statistics | None
    value_statistics: Statistics | None
    hyper: Hyper


class Metrics(NamedTuple):
    """Numbers of one minibatch, or their mean over an update."""

    policy_loss: Array
    value_loss: Array
    entropy_loss: Array
    kl: Array
    clip_fraction: Array
    gradient_norm: Array


def minibatch_step(
    optimizer: Optimizer, batch: Batch, hyper: Hyper, active: Bool[Array, ""], rules: Rules
) -> tuple[Optimizer, Metrics, Bool[Array, ""]]:
    """One gradient step if active: loss, joint gradient clip, Adam (Kingma and Ba 2015).

    Returns:
        The optimizer after the step, the metrics, and whether the member is still active: with a KL above
        `kl_threshold` it does not take this step.
    """
    gradient, parts = jax.grad(loss, has_aux=True)(optimizer.parameters, batch, hyper, rules)
    return descend(optimizer, gradient, parts, hyper, active, rules)


def descend(
    optimizer: Optimizer,
    gradient: Float[Array, " n"],
    parts: Sequence[Array],
    hyper: Hyper,
    active: Bool[Array, ""],
    rules: Rules,
) -> tuple[Optimizer, Metrics, Bool[Array, ""]]:
    """`minibatch_step` by the gradient of a minibatch, and the parts of its loss."""
    policy_loss, value_loss, entropy_loss, kl, clip_fraction = parts
    norm = jnp.linalg.norm(gradient)
    metrics = Metrics(policy_loss, value_loss, entropy_loss, kl, clip_fraction, norm)
    active = active & ~(kl > hyper.kl_threshold)
    step = gradient * jnp.minimum(hyper.grad_norm_clip / (norm + 1e-6), 1)
    before = optax.ScaleByAdamState(optimizer.steps, optimizer.first_moment, optimizer.second_moment)
    direction, after = optax.scale_by_adam(b1=0.9, b2=0.999, eps=hyper.adam_epsilon).update(step, before)
    assert isinstance(after, optax.ScaleByAdamState) and isinstance(direction, Array)
    rate = optimizer.learning_rate
    if rules.two_rates:
        rate = rate * jnp.where(rules.network.of_value(), hyper.value_learning_rate / hyper.learning_rate, 1)
    stepped = Optimizer(
        optimizer.parameters - rate * direction,
        after.mu,
        after.nu,
        after.count,
        optimizer.learning_rate,
    )
    return jax.tree.map(lambda new, old: jnp.where(active, new, old), stepped, optimizer), metrics, active


def prepare(learner: Learner, rollout: Rollout, rules: Rules) -> tuple[Learner, Batch, Array]:
    """Values, advantages and returns of a rollout; value statistics absorb the returns once, before use.

    Returns:
        The learner with new value statistics, the rows `[T·N]` in time order with raw observations, and the explained
        variance of the returns by the values.
    """
    agent, hyper = rules.config.agent, learner.hyper
    steps, envs = rollout.rewards.shape
    named = models.cut(rules.network, learner.optimizer.parameters)

    def experience(x: Array) -> Array:
        # Zeros where no experience is: weight 0 alone would let a NaN or infinity through.
        return jnp.where(rollout.valid if x.ndim == 2 else rollout.valid[:, :, None], x, 0)

    outputs, values, next_values = _values(learner, named, rollout, rules)
    terminated = rollout.terminated if agent.time_limit_bootstrap else rollout.ended
    rewards = experience(rollout.rewards) * hyper.rewards_shaper_scale
    advantages, returns = gae.gae(
        rewards, experience(values), next_values, terminated, rollout.ended, hyper.discount_factor, hyper.gae_lambda
    )
    advantages, returns, values = advantages.ravel(), returns.ravel(), experience(values).ravel()
    valid, advantages = rollout.valid.ravel().astype(jnp.float32), jnp.where(rollout.valid.ravel(), advantages, 0)
    explained = gae.explained_variance(values, returns, valid)
    if agent.advantage_normalization == "rollout":
        advantages = gae.normalize(advantages, valid)
    statistics = learner.value_statistics
    if statistics is not None:
        statistics = preprocessors.absorb(statistics, returns[:, None], valid)
        judge = value_scaler(rules, statistics)
        assert judge is not None
        returns = judge.normalize(returns[:, None])[:, 0]
    log_prob = distributions.log_prob(
        rules.network.distribution, _flat(rollout.outputs), models.log_std(rules, named), _flat(rollout.actions)
    )
    rows = Batch(
        _flat(experience(rollout.observations[:-1])),
        _flat(experience(rollout.actions)),
        _flat(experience(log_prob.reshape(steps, envs, *log_prob.shape[1:]))),
        advantages,
        returns,
        # The value clip is around what the network itself said. Old values in the new statistics' units would be
        # off centre by the statistics' change, and beyond `value_clip` the loss has no gradient at all.
        _flat(experience(outputs)),
        valid,
    )
    if rollout.carry is not None:
        rows = _sequences(rows._replace(begins=_flat(rollout.begins()[:-1])), rollout.carry, steps)
    return learner._replace(value_statistics=statistics), rows, explained


def _sequences(rows: Batch, carry: Float[Array, "K N M"], steps: int) -> Batch:
    """Rows `[T·N]` of a rollout of K parts as rows `[T/K·K·N]` of its sequences, the parts side by side."""

    def beside(x: Array) -> Array:
        parts = x.reshape(len(carry), steps // len(carry), -1, *x.shape[1:])
        return parts.swapaxes(0, 1).reshape(x.shape)

    return jax.tree.map(beside, rows)._replace(carry=_flat(carry))


def _values(
    learner: Learner, named: models.Parameters, rollout: Rollout, rules: Rules
) -> tuple[Float[Array, "T N"], Float[Array, "T N"], Float[Array, "T N"]]:
    """The value network's output for each observation; that in reward units; the same of what followed."""
    steps, envs = rollout.rewards.shape
    observe = observation_scaler(rules, learner.observation_statistics)
    judge = value_scaler(rules, learner.value_statistics)

    def judged(rows: Num[Array, "B O"], memory: Memory | None) -> tuple[Float[Array, " B"], Array | None]:
        return models.value(rules.network, named, observe.normalize(rows) if observe else rows, memory)

    def in_reward_units(outputs: Float[Array, " B"]) -> Float[Array, " B"]:
        return judge.denormalize(outputs[:, None])[:, 0] if judge else outputs

    memory = None if rollout.carry is None else Memory(rollout.carry[0], _flat(rollout.begins()))
    outputs, states = judged(_flat(rollout.observations), memory)
    every = in_reward_units(outputs).reshape(steps + 1, envs)
    following = every[1:]
    if rollout.final_observations is not None:
        # What is remembered when an episode ends is forgotten only after its last value.
        memory = None if states is None else Memory(_flat(states[:-1]), None)
        final, _ = judged(_flat(rollout.final_observations), memory)
        following = jnp.where(rollout.ended, in_reward_units(final).reshape(steps, envs), following)
    return outputs.reshape(steps + 1, envs)[:-1], every[:-1], following


class _Sums(NamedTuple):
    """The sums over the minibatches of an update; `counted` is their number, of an epoch or of all."""

    metrics: Metrics
    counted: Array
    kl: Array
    epoch_counted: Array


class Progress(NamedTuple):
    """The state that minibatches pass on; a member that is not active stands still until the epoch is over."""

    optimizer: Optimizer
    statistics: Statistics | None
    active: Bool[Array, ""]
    sums: _Sums


class Rows(NamedTuple):
    """The rows of a rollout, with raw observations and as minibatches take them, and how values explain returns."""

    raw: Batch
    ready: Batch
    explained: Float[Array, ""]


def update(
    learner: Learner,
    rollout: Rollout,
    orders: Int[Array, "E U"] | None,
    alive: Bool[Array, ""],
    rules: Rules,
    rates: Float[Array, " E"] | None = None,
    shifts: Float[Array, "E B A"] | None = None,
) -> tuple[Learner, Metrics, Float[Array, ""]]:
    """All epochs over one rollout.

    Args:
        learner: before.
        rollout: T steps of every environment.
        orders: per epoch a permutation of the rows, or sequences; None, for time order, with a single minibatch.
        alive: whether the member learns.
        rules: what is equal for all members.
        rates: learning rate of each epoch, for schedules that are counted.
        shifts: what RPO adds to the means of every row in each epoch.

    Returns:
        The learner after, the mean metrics over minibatches with a valid row, which alone make a step (not a number if
        there are none), and the explained variance.
    """
    agent, hyper, whole = rules.config.agent, learner.hyper, orders is None
    learner, rows, state = start(learner, rollout, alive, rules, whole)

    def one_epoch(state: Progress, now: tuple[Array, Array | None, Array | None, Array | None]) -> Any:
        epoch, order, rate, shift = now
        state = start_epoch(state, alive, rate)
        step = partial(_minibatch, hyper=hyper, rules=rules, whole=whole, epoch=epoch)
        state = minibatches(step, state, rows.ready._replace(shift=shift), order, agent.mini_batches)
        return end_epoch(state, hyper, rules), None

    state, _ = jax.lax.scan(one_epoch, state, (jnp.arange(agent.learning_epochs), orders, rates, shifts))
    return end(learner, rows, state, rules)


def start(
    learner: Learner, rollout: Rollout, alive: Bool[Array, ""], rules: Rules, whole: bool
) -> tuple[Learner, Rows, Progress]:
    """The learner with new value statistics, a rollout's rows, the state before the first minibatch, or the `whole`."""
    learner, raw, explained = prepare(learner, rollout, rules)
    ready, statistics, absorbs = raw, learner.observation_statistics, _absorbs(rules)
    if statistics is not None and absorbs and whole:
        statistics = preprocessors.absorb(statistics, raw.observations, raw.weight * alive)
    if whole or not absorbs:
        ready = _observed(ready, rules, statistics)
    if whole:
        ready = _weighted(ready, rules.config.agent.advantage_normalization)
    zero = jnp.zeros_like(learner.hyper.learning_rate)
    none = _Sums(Metrics(*(zero for _ in Metrics._fields)), zero, zero, zero)
    return learner, Rows(raw, ready, explained), Progress(learner.optimizer, statistics, alive, none)


def start_epoch(state: Progress, alive: Bool[Array, ""], rate: Float[Array, ""] | None) -> Progress:
    """The state before an epoch, with its learning rate where the schedule is counted."""
    optimizer = state.optimizer if rate is None else state.optimizer._replace(learning_rate=rate)
    zero = jnp.zeros_like(state.sums.kl)
    return Progress(optimizer, state.statistics, alive, state.sums._replace(kl=zero, epoch_counted=zero))


def end_epoch(state: Progress, hyper: Hyper, rules: Rules) -> Progress:
    """The state after an epoch, whose KL divergence may change the learning rate."""
    if rules.config.agent.learning_rate_scheduler == "KLAdaptiveLR":
        kl = state.sums.kl / state.sums.epoch_counted
        rate = schedulers.kl_adaptive(state.optimizer.learning_rate, kl, hyper)
        state = state._replace(optimizer=state.optimizer._replace(learning_rate=rate))
    return state


def end(learner: Learner, rows: Rows, state: Progress, rules: Rules) -> tuple[Learner, Metrics, Float[Array, ""]]:
    """`update` by the state after the last epoch."""
    statistics = state.statistics
    if statistics is not None and not _absorbs(rules):
        statistics = preprocessors.absorb(statistics, rows.raw.observations, rows.raw.weight)
    mean = Metrics(*(total / state.sums.counted for total in state.sums.metrics))
    return learner._replace(optimizer=state.optimizer, observation_statistics=statistics), mean, rows.explained


def _absorbs(rules: Rules) -> bool:
    """Statistics of observations, where there are any, grow with the minibatches of the first epoch."""
    return rules.config.agent.observation_statistics == "first_epoch"


def _minibatch(state: Progress, batch: Batch, hyper: Hyper, rules: Rules, whole: bool, epoch: Array) -> Progress:
    """One step on a minibatch."""
    statistics, entering, batch = enter(state, batch, rules, whole, epoch)
    after = minibatch_step(state.optimizer, batch, hyper, entering, rules)
    return leave(state, statistics, entering, *after)


def enter(
    state: Progress, batch: Batch, rules: Rules, whole: bool, epoch: Int[Array, ""]
) -> tuple[Statistics | None, Bool[Array, ""], Batch]:
    """Statistics with a minibatch, whether the member enters it, and the minibatch ready for the loss.

    A `whole` rollout is ready already; parts are absorbed by the first epoch, where statistics grow with them.
    """
    statistics = state.statistics
    entering = state.active & (batch.weight.sum() > 0)
    if not whole:
        if statistics is not None and _absorbs(rules):
            statistics = jax.lax.cond(
                epoch == 0,
                lambda s: preprocessors.absorb(s, batch.observations, batch.weight * entering.astype(jnp.float32)),
                lambda s: s,
                statistics,
            )
            batch = _observed(batch, rules, statistics)
        batch = _weighted(batch, rules.config.agent.advantage_normalization)
    return statistics, entering, batch


def leave(
    state: Progress,
    statistics: Statistics | None,
    entering: Bool[Array, ""],
    optimizer: Optimizer,
    metrics: Metrics,
    stays: Bool[Array, ""],
) -> Progress:
    """The state after a minibatch, by what `enter` and `minibatch_step` gave."""
    entered = entering.astype(jnp.float32)
    now = _Sums(metrics, one := jnp.ones_like(entered), metrics.kl, one)
    sums = jax.tree.map(lambda total, x: total + x * entered, state.sums, now)
    return Progress(optimizer, statistics, jnp.where(entering, stays, state.active), sums)


def minibatches(
    function: Callable[[State, Batch], State],
    state: State,
    data: Batch,
    order: Int[Array, " B"] | None,
    count: int,
) -> State:
    """Fold (state, minibatch) → state over `count` parts of the rows in this order; without one, over all at once.

    Where there are fewer numbers in the order than rows, they are of sequences, which stay whole.
    """
    if order is None:
        return function(state, data)
    state, _ = jax.lax.scan(
        lambda state, part: (function(state, taken(data, len(order), *part)), None), state, parted(order, count)
    )
    return state


def parted(order: Int[Array, " B"], count: int) -> tuple[Int[Array, "C S"], Float[Array, "C S"]]:
    """The numbers of `count` minibatches, and 1 for each but those that only fill the places of shorter ones."""
    # Sizes differ by one where they must: a filled place has weight 0.
    parts = np.array_split(np.arange(order.shape[0]), count)
    size = len(parts[0])
    places = np.stack([np.resize(part, size) for part in parts])
    real = np.stack([np.arange(size) < len(part) for part in parts])
    return order[places], jnp.asarray(real, jnp.float32)


def taken(data: Batch, units: int, chosen: Int[Array, " S"], real: Float[Array, " S"]) -> Batch:
    """The rows with the chosen numbers of so many rows, or sequences."""
    length = len(data.weight) // units
    rows = (chosen + units * np.arange(length)[:, None]).ravel()
    batch = Batch._make(None if x is None else x[rows] for x in data._replace(carry=None))
    carry = None if data.carry is None else data.carry[chosen]
    return batch._replace(weight=batch.weight * jnp.tile(real, length), carry=carry)


def _flat(x: Array) -> Array:
    """`[T, N, …]` → `[T·N, …]`."""
    return x.reshape(-1, *x.shape[2:])


def _observed(batch: Batch, rules: Rules, statistics: Statistics | None) -> Batch:
    """The batch with normalised observations."""
    scaler = observation_scaler(rules, statistics)
    return batch if scaler is None else batch._replace(observations=scaler.normalize(batch.observations))


def _weighted(batch: Batch, normalization: str) -> Batch:
    """Weights that sum to 1, and advantages normalised if that is per minibatch."""
    if normalization == "minibatch":
        batch = batch._replace(advantages=gae.normalize(batch.advantages, batch.weight))
    return batch._replace(weight=batch.weight / jnp.maximum(batch.weight.sum(), 1))

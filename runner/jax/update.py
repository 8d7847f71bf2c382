"""The PPO update of one member: rollout in, new learner out. A pure function of arrays.

Axes: T rollout step · N environment · B minibatch row · O observation · A action · n parameter.
Source: Schulman et al. 2017 with skrl's value loss, statistics and schedule; docs/skrl.md lists each difference.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from runner.jax import accelerate, distributions, models, preprocessors, schedulers
from runner.jax import advantages as gae
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
    part = _own(batch, rules.processes)
    gradient, parts = jax.grad(loss, has_aux=True)(optimizer.parameters, part, hyper, rules)
    if rules.processes > 1:
        summed = accelerate.total(jnp.concatenate((gradient, jnp.stack(parts))))
        gradient, parts = summed[: len(gradient)], tuple(summed[len(gradient) :])
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
        rows = _sequences(rows._replace(begins=_flat(_begins(rollout)[:-1])), rollout.carry, steps)
    return learner._replace(value_statistics=statistics), rows, explained


def _begins(rollout: Rollout) -> Bool[Array, "T1 N"]:
    """Observations that begin an episode: those after a reset row, or after an end where environments reset at once.

    Of the first ones this is known before the rollout: there the carry is zero.
    """
    over = ~rollout.valid
    if rollout.final_observations is not None:
        over = over | rollout.ended
    return jnp.concatenate((jnp.zeros_like(over[:1]), over))


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

    memory = None if rollout.carry is None else Memory(rollout.carry[0], _flat(_begins(rollout)))
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


class _State(NamedTuple):
    """The state that minibatches pass on; a member that is not active stands still until the epoch is over."""

    optimizer: Optimizer
    statistics: Statistics | None
    active: Bool[Array, ""]
    sums: _Sums


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
    agent, hyper = rules.config.agent, learner.hyper
    learner, data, explained = prepare(learner, rollout, rules)
    seen, statistics, whole = data, learner.observation_statistics, orders is None
    absorbs = statistics is not None and agent.observation_statistics == "first_epoch"
    if statistics is not None and absorbs and whole:
        statistics = preprocessors.absorb(statistics, seen.observations, seen.weight * alive)
    if whole or not absorbs:
        data = _observed(data, rules, statistics)
    if whole:
        data = _weighted(data, agent.advantage_normalization)

    def one_epoch(state: _State, now: tuple[Array, Array | None, Array | None, Array | None]) -> tuple[_State, None]:
        (optimizer, statistics, _, sums), (epoch, order, rate, shift) = state, now
        optimizer = optimizer if rate is None else optimizer._replace(learning_rate=rate)
        zero = jnp.zeros_like(sums.kl)
        state = _State(optimizer, statistics, alive, sums._replace(kl=zero, epoch_counted=zero))
        step = partial(_minibatch, hyper=hyper, rules=rules, whole=whole, epoch=epoch if absorbs else None)
        state = minibatches(step, state, data._replace(shift=shift), order, agent.mini_batches)
        if agent.learning_rate_scheduler == "KLAdaptiveLR":
            kl = state.sums.kl / state.sums.epoch_counted
            rate = schedulers.kl_adaptive(state.optimizer.learning_rate, kl, hyper)
            state = state._replace(optimizer=state.optimizer._replace(learning_rate=rate))
        return state, None

    zero = jnp.zeros_like(hyper.learning_rate)
    none = _Sums(Metrics(*(zero for _ in Metrics._fields)), zero, zero, zero)
    state = _State(learner.optimizer, statistics, alive, none)
    state, _ = jax.lax.scan(one_epoch, state, (jnp.arange(agent.learning_epochs), orders, rates, shifts))
    statistics = state.statistics
    if statistics is not None and not absorbs:
        statistics = preprocessors.absorb(statistics, seen.observations, seen.weight)
    mean = Metrics(*(total / state.sums.counted for total in state.sums.metrics))
    return learner._replace(optimizer=state.optimizer, observation_statistics=statistics), mean, explained


def _minibatch(state: _State, batch: Batch, hyper: Hyper, rules: Rules, whole: bool, epoch: Array | None) -> _State:
    """One step: on `whole` rollouts, which are ready for it, or on parts, which the first `epoch` absorbs if given."""
    optimizer, statistics, active, sums = state
    entering = active & (batch.weight.sum() > 0)
    entered = entering.astype(jnp.float32)
    if not whole:
        if epoch is not None:
            assert statistics is not None
            statistics = jax.lax.cond(
                epoch == 0,
                lambda s: preprocessors.absorb(s, batch.observations, batch.weight * entered),
                lambda s: s,
                statistics,
            )
            batch = _observed(batch, rules, statistics)
        batch = _weighted(batch, rules.config.agent.advantage_normalization)
    optimizer, metrics, stays = minibatch_step(optimizer, batch, hyper, entering, rules)
    now = _Sums(metrics, one := jnp.ones_like(entered), metrics.kl, one)
    sums = jax.tree.map(lambda total, x: total + x * entered, sums, now)
    return _State(optimizer, statistics, jnp.where(entering, stays, active), sums)


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
    length = len(data.weight) // len(order)

    def taken(chosen: Int[Array, " S"], real: Float[Array, " S"]) -> Batch:
        rows = (chosen + len(order) * np.arange(length)[:, None]).ravel()
        batch = Batch._make(None if x is None else x[rows] for x in data._replace(carry=None))
        carry = None if data.carry is None else data.carry[chosen]
        return batch._replace(weight=batch.weight * jnp.tile(real, length), carry=carry)

    # Sizes differ by one where they must: a filled place has weight 0.
    parts = np.array_split(np.arange(order.shape[0]), count)
    size = len(parts[0])
    places = np.stack([np.resize(part, size) for part in parts])
    real = np.stack([np.arange(size) < len(part) for part in parts])
    state, _ = jax.lax.scan(
        lambda state, part: (function(state, taken(*part)), None),
        state,
        (order[places], jnp.asarray(real, jnp.float32)),
    )
    return state


def _flat(x: Array) -> Array:
    """`[T, N, …]` → `[T·N, …]`."""
    return x.reshape(-1, *x.shape[2:])


def _own(batch: Batch, processes: int) -> Batch:
    """The rows of a minibatch that this process learns from, or sequences; their weights are parts of 1."""
    if processes == 1:
        return batch
    sequences = len(batch.weight) if batch.carry is None else len(batch.carry)
    first, size = accelerate.own(sequences, processes)

    def cut(x: Array) -> Array:
        # A filled place has weight 0.
        rows = jnp.pad(x, [(0, size * processes - sequences), *[(0, 0)] * (x.ndim - 1)])
        return jax.lax.dynamic_slice_in_dim(rows, first, size)

    def of_steps(x: Array) -> Array:
        steps = x.reshape(-1, sequences, *x.shape[1:])
        return jax.vmap(cut)(steps).reshape(-1, *x.shape[1:])

    carry = None if batch.carry is None else cut(batch.carry)
    return jax.tree.map(of_steps, batch._replace(carry=None))._replace(carry=carry)


def _observed(batch: Batch, rules: Rules, statistics: Statistics | None) -> Batch:
    """The batch with normalised observations."""
    scaler = observation_scaler(rules, statistics)
    return batch if scaler is None else batch._replace(observations=scaler.normalize(batch.observations))


def _weighted(batch: Batch, normalization: str) -> Batch:
    """Weights that sum to 1, and advantages normalised if that is per minibatch."""
    if normalization == "minibatch":
        batch = batch._replace(advantages=gae.normalize(batch.advantages, batch.weight))
    return batch._replace(weight=batch.weight / jnp.maximum(batch.weight.sum(), 1))

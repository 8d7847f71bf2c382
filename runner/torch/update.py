"""The PPO update of P members: rollout in, new learner out. A pure function of arrays.

Axes: P member · T rollout step · N environment · B minibatch row · O observation · A action.
Source: Schulman et al. 2017 with skrl's value loss, statistics and schedule; docs/skrl.md lists each difference.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from runner.torch import accelerate, distributions, models, preprocessors, schedulers
from runner.torch import advantages as gae
from runner.torch.loss import Batch, loss
from runner.torch.preprocessors import Statistics, observation_scaler, value_scaler
from runner.torch.recurrent import Memory
from runner.torch.rollout import Rollout
from runner.training.pack import Hyper, Rules

BETA_1, BETA_2 = 0.9, 0.999
State = TypeVar("State")


class Optimizer(NamedTuple):
    """Parameters and Adam's moments `[P, n]`, number of steps and learning rate `[P, 1]`."""

    parameters: Float[Tensor, "P n"]
    first_moment: Float[Tensor, "P n"]
    second_moment: Float[Tensor, "P n"]
    steps: Float[Tensor, "P 1"]
    learning_rate: Float[Tensor, "P 1"]


class Learner(NamedTuple):
    """Everything that learning changes, and the members' numbers `[P, 1]`."""

    optimizer: Optimizer
    observation_statistics: Statistics | None
    value_statistics: Statistics | None
    hyper: Hyper


class Metrics(NamedTuple):
    """Per-member numbers of one minibatch, or their mean over an update, `[P, 1]` each."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor
    kl: Tensor
    clip_fraction: Tensor
    gradient_norm: Tensor


def minibatch_step(
    optimizer: Optimizer, batch: Batch, hyper: Hyper, active: Bool[Tensor, "P 1"], rules: Rules
) -> tuple[Optimizer, Metrics, Bool[Tensor, "P 1"]]:
    """One gradient step of every member that is active: loss, joint gradient clip, Adam (Kingma and Ba 2015).

    Returns:
        The optimizer after the step, the metrics, and who is still active: a member whose KL is above
        `kl_threshold` does not take this step.
    """
    part = _own(batch, rules.processes)
    raw, parts = accelerate.gradient(lambda flat: loss(flat, part, hyper, rules), optimizer.parameters)
    if rules.processes > 1:
        raw, *parts = accelerate.total(torch.cat((raw, *parts), 1)).split([raw.shape[1], *(1 for _ in parts)], 1)
    policy_loss, value_loss, entropy_loss, kl, clip_fraction = parts
    norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
    metrics = Metrics(policy_loss, value_loss, entropy_loss, kl, clip_fraction, norm)
    active = active & ~(kl > hyper.kl_threshold)
    coefficient = (hyper.grad_norm_clip / (norm + 1e-6)).clamp(max=1.0)
    # Members share tensors: one that stands still must also keep out of the others' way, NaN included.
    step = torch.where(active, raw * coefficient, 0.0)
    moving = active.float()
    first = torch.lerp(optimizer.first_moment, step, (1 - BETA_1) * moving)
    second = torch.lerp(optimizer.second_moment, step * step, (1 - BETA_2) * moving)
    steps = optimizer.steps + moving
    at_least_one = steps.clamp_min(1)
    rate = optimizer.learning_rate * moving / (1 - BETA_1**at_least_one)
    if rules.two_rates:
        of_value = hyper.value_learning_rate / hyper.learning_rate
        factors = [of_value if entry.of_value else torch.ones_like(rate) for entry in rules.network.entries]
        sizes = [entry.size for entry in rules.network.entries]
        rate = rate * torch.cat([x.expand(-1, size) for x, size in zip(factors, sizes, strict=True)], 1)
    root = (1 - BETA_2**at_least_one).rsqrt()
    change = rate * first / (second.sqrt() * root + hyper.adam_epsilon)
    return Optimizer(optimizer.parameters - change, first, second, steps, optimizer.learning_rate), metrics, active


@functools.cache
def _gae() -> Callable[..., tuple[Tensor, Tensor]]:
    """`gae.gae`, one graph where there is a GPU."""
    return accelerate.captured(gae.gae)


def prepare(learner: Learner, rollout: Rollout, rules: Rules) -> tuple[Learner, Batch, Tensor]:
    """Values, advantages and returns of a rollout; value statistics absorb the returns once, before use.

    Returns:
        The learner with new value statistics, the rows `[P, T·N]` in time order with raw observations, and the
        explained variance `[P, 1]` of the returns by the values.
    """
    agent, hyper = rules.config.agent, learner.hyper
    steps, envs = rollout.rewards.shape[1:]
    named = models.cut(rules.network, learner.optimizer.parameters)

    def experience(x: Tensor) -> Tensor:
        # Zeros where no experience is: weight 0 alone would let a NaN or infinity through.
        valid = rollout.valid.bool()
        return torch.where(valid if x.dim() == valid.dim() else valid.unsqueeze(-1), x, 0)

    outputs, values, next_values = _values(learner, named, rollout, rules)
    values = experience(values)
    terminated = rollout.terminated if agent.time_limit_bootstrap else rollout.ended
    rewards = experience(rollout.rewards) * hyper.rewards_shaper_scale.unsqueeze(-1)
    advantages, returns = _gae()(
        rewards, values, next_values, terminated, rollout.ended, hyper.discount_factor, hyper.gae_lambda
    )
    advantages, returns, values, valid = (x.flatten(1) for x in (advantages, returns, values, rollout.valid))
    advantages = torch.where(valid > 0, advantages, 0)
    explained = gae.explained_variance(values, returns, valid)
    if agent.advantage_normalization == "rollout":
        advantages = gae.normalize(advantages, valid)
    statistics = learner.value_statistics
    if statistics is not None:
        statistics = preprocessors.absorb(statistics, returns.unsqueeze(-1), valid)
        judge = value_scaler(rules, statistics)
        assert judge is not None
        returns = judge.normalize(returns.unsqueeze(-1)).squeeze(-1)
    drawn = rollout.outputs.flatten(1, 2), models.log_std(rules, named), rollout.actions.flatten(1, 2)
    log_prob = distributions.log_prob(rules.network.distribution, *drawn)
    rows = Batch(
        experience(rollout.observations[:, :-1]).flatten(1, 2),
        experience(rollout.actions).flatten(1, 2),
        experience(log_prob.unflatten(1, (steps, envs))).flatten(1, 2),
        advantages,
        returns,
        # The value clip is around what the network itself said. Old values in the new statistics' units would be
        # off centre by the statistics' change, and beyond `value_clip` the loss has no gradient at all.
        experience(outputs).flatten(1, 2),
        valid,
    )
    if rollout.carry is not None:
        rows = _sequences(rows._replace(begins=rollout.begins()[:, :-1].flatten(1)), rollout.carry, steps)
    return learner._replace(value_statistics=statistics), rows, explained


def _sequences(rows: Batch, carry: Float[Tensor, "P K N M"], steps: int) -> Batch:
    """Rows `[T·N]` of a rollout of K parts as rows `[T/K·K·N]` of its sequences, the parts side by side."""
    parts = carry.shape[1]

    def beside(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.unflatten(1, (parts, steps // parts, -1)).transpose(1, 2).flatten(1, 3)

    return Batch._make(map(beside, rows))._replace(carry=carry.flatten(1, 2))


def _values(
    learner: Learner, named: models.Parameters, rollout: Rollout, rules: Rules
) -> tuple[Float[Tensor, "P T N"], Float[Tensor, "P T N"], Float[Tensor, "P T N"]]:
    """The value network's output for each observation; that in reward units; the same of what followed."""
    steps, envs = rollout.rewards.shape[1:]
    observe = observation_scaler(rules, learner.observation_statistics)
    judge = value_scaler(rules, learner.value_statistics)

    def judged(rows: Num[Tensor, "P B O"], memory: Memory | None) -> tuple[Float[Tensor, "P B"], Tensor | None]:
        return models.value(rules.network, named, observe.normalize(rows) if observe else rows, memory)

    def in_reward_units(outputs: Float[Tensor, "P B"]) -> Float[Tensor, "P B"]:
        return judge.denormalize(outputs.unsqueeze(-1)).squeeze(-1) if judge else outputs

    memory = None if rollout.carry is None else Memory(rollout.carry[:, 0], rollout.begins().flatten(1))
    outputs, states = judged(rollout.observations.flatten(1, 2), memory)
    every = in_reward_units(outputs).unflatten(1, (steps + 1, envs))
    following = every[:, 1:]
    if rollout.final_rows is not None:
        # What is remembered when an episode ends is forgotten only after its last value.
        member = torch.arange(len(every), device=every.device).unsqueeze(1)
        memory = None if states is None else Memory(states.flatten(1, 2)[member, rollout.final_rows], None)
        final = in_reward_units(judged(rollout.final_observations, memory)[0])
        row = torch.nn.functional.pad(following.flatten(1), (0, 1))  # the last column is of no step
        following = row.scatter(1, rollout.final_rows, final)[:, :-1].unflatten(1, (steps, envs))
    return outputs.unflatten(1, (steps + 1, envs))[:, :-1], every[:, :-1], following


class _Sums(NamedTuple):
    """The sums over the minibatches of an update, metrics `[P, M]`; `counted` is their number, of an epoch or all."""

    metrics: Tensor
    counted: Tensor
    kl: Tensor
    epoch_counted: Tensor


class _State(NamedTuple):
    """The state that minibatches pass on; members that are not active stand still until the epoch is over."""

    optimizer: Optimizer
    statistics: Statistics | None
    active: Bool[Tensor, "P 1"]
    sums: _Sums


def update(
    learner: Learner,
    rollout: Rollout,
    orders: Int[Tensor, "E P U"] | None,
    alive: Bool[Tensor, "P 1"],
    rules: Rules,
    rates: Float[Tensor, "P E"] | None = None,
    shifts: Float[Tensor, "E P B A"] | None = None,
) -> tuple[Learner, Metrics, Tensor]:
    """All epochs over one rollout.

    Args:
        learner: before.
        rollout: T steps of every environment.
        orders: per epoch a permutation of every member's rows, or sequences; None, for time order, with a single
            minibatch.
        alive: members that learn.
        rules: what is equal for all.
        rates: learning rate of each epoch, for schedules that are counted.
        shifts: what RPO adds to the means of every row in each epoch.

    Returns:
        The learner after, the mean metrics over minibatches with a valid row, which alone make a step (not a number if
        there are none), and the explained variance `[P, 1]`.
    """
    agent, hyper = rules.config.agent, learner.hyper
    learner, data, explained = prepare(learner, rollout, rules)
    seen, statistics, whole = data, learner.observation_statistics, orders is None
    absorbs = statistics is not None and agent.observation_statistics == "first_epoch"
    if statistics is not None and absorbs and whole:
        statistics = preprocessors.absorb(statistics, seen.observations, seen.weight * alive)
    observed = whole or not absorbs
    if observed:
        data = _observed(data, rules, statistics)
    if whole:
        data = _weighted(data, data.weight.sum(1, keepdim=True), agent.advantage_normalization)

    zero = torch.zeros_like(learner.optimizer.steps)
    none = _Sums(zero.repeat(1, len(Metrics._fields)), zero, zero, zero)
    state = _State(learner.optimizer, statistics, alive, none)
    for epoch in range(agent.learning_epochs):
        if rates is not None:
            rate = rates[:, epoch : epoch + 1]
            state = state._replace(optimizer=state.optimizer._replace(learning_rate=rate))
        state = state._replace(active=alive, sums=state.sums._replace(kl=zero, epoch_counted=zero))
        step = functools.partial(_step(rules, whole, observed), hyper)
        rows = data if shifts is None else data._replace(shift=shifts[epoch])
        state = minibatches(step, state, rows, None if orders is None else orders[epoch], agent.mini_batches)
        if agent.learning_rate_scheduler == "KLAdaptiveLR":
            kl = state.sums.kl / state.sums.epoch_counted
            rate = schedulers.kl_adaptive(state.optimizer.learning_rate, kl, hyper)
            state = state._replace(optimizer=state.optimizer._replace(learning_rate=rate))
        if not observed:
            data, observed = _observed(data, rules, state.statistics), True
    optimizer, statistics = accelerate.kept((state.optimizer, state.statistics))
    if statistics is not None and not absorbs:
        statistics = preprocessors.absorb(statistics, seen.observations, seen.weight)
    mean = Metrics(*(state.sums.metrics / state.sums.counted).split(1, 1))
    return learner._replace(optimizer=optimizer, observation_statistics=statistics), mean, explained


@functools.lru_cache(maxsize=16)
def _step(rules: Rules, whole: bool, observed: bool) -> Callable[[Hyper, _State, Batch], _State]:
    """`_minibatch`, one graph where there is a GPU; not where processes meet in it."""
    step = functools.partial(_minibatch, rules, whole, observed)
    return accelerate.captured(step) if rules.processes == 1 else step


def _minibatch(rules: Rules, whole: bool, observed: bool, hyper: Hyper, state: _State, batch: Batch) -> _State:
    """One step: on `whole` rollouts, which are ready for it, or on parts, which are absorbed before they are used
    unless their observations are normalised already (`observed`).
    """
    optimizer, statistics, active, sums = state
    count = batch.weight.sum(1, keepdim=True)
    entering = active & (count > 0)
    entered = entering.float()
    if not observed:
        assert statistics is not None
        statistics = preprocessors.absorb(statistics, batch.observations, batch.weight * entered)
        batch = _observed(batch, rules, statistics)
    if not whole:
        batch = _weighted(batch, count, rules.config.agent.advantage_normalization)
    optimizer, metrics, stays = _stepper(rules)(optimizer, batch, hyper, entering)
    # One operation for all metrics: outside a compiler each costs as much as a small network's layer.
    total = sums.metrics + torch.cat(metrics, 1) * entered
    counts = sums.counted + entered, sums.kl + metrics.kl * entered, sums.epoch_counted + entered
    return _State(optimizer, statistics, torch.where(entering, stays, active), _Sums(total, *counts))


@functools.lru_cache(maxsize=16)
def _stepper(rules: Rules) -> Callable[[Optimizer, Batch, Hyper, Tensor], tuple[Optimizer, Metrics, Tensor]]:
    """`minibatch_step` under these rules, compiled where they say so."""
    step = functools.partial(minibatch_step, rules=rules)
    return torch.compile(step, dynamic=False, fullgraph=True) if rules.compiled else step


def minibatches(
    function: Callable[[State, Batch], State],
    state: State,
    data: Batch,
    order: Int[Tensor, "P B"] | None,
    count: int,
) -> State:
    """Fold (state, minibatch) → state over `count` parts of the rows in this order; without one, over all at once.

    Where there are fewer numbers in the order than rows, they are of sequences, which stay whole.
    """
    if order is None:
        return function(state, data)
    members, sequences = order.shape
    member = torch.arange(members, device=order.device).unsqueeze(1)
    length = data.weight.shape[1]
    starts = torch.arange(0, length, sequences, device=order.device).unsqueeze(1)
    # All members' rows one after the other: selecting from one axis is several times faster than from two.
    columns = [None if x is None else x.flatten(0, 1) for x in data._replace(carry=None)]
    for chosen in order.tensor_split(count, 1):
        rows = (starts + chosen.unsqueeze(1)).flatten(1)
        flat = (rows + member * length).flatten()
        parts = (None if x is None else x.index_select(0, flat).unflatten(0, rows.shape) for x in columns)
        carry = None if data.carry is None else data.carry[member, chosen]
        state = function(state, Batch._make(parts)._replace(carry=carry))
    return state


def _own(batch: Batch, processes: int) -> Batch:
    """The rows of a minibatch that this process learns from, or sequences; their weights are parts of 1."""
    if processes == 1:
        return batch
    sequences = batch.weight.shape[1] if batch.carry is None else batch.carry.shape[1]
    mine = accelerate.own(sequences, processes)

    def cut(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.unflatten(1, (-1, sequences))[:, :, mine].flatten(1, 2)

    carry = None if batch.carry is None else batch.carry[:, mine]
    return Batch._make(map(cut, batch._replace(carry=None)))._replace(carry=carry)


def _observed(batch: Batch, rules: Rules, statistics: Statistics | None) -> Batch:
    """The batch with normalised observations."""
    scaler = observation_scaler(rules, statistics)
    return batch if scaler is None else batch._replace(observations=scaler.normalize(batch.observations))


def _weighted(batch: Batch, count: Float[Tensor, "P 1"], normalization: str) -> Batch:
    """Weights of `count` valid rows that sum to 1 per member, and advantages normalised if that is per minibatch."""
    if normalization == "minibatch":
        batch = batch._replace(advantages=gae.normalize(batch.advantages, batch.weight))
    return batch._replace(weight=batch.weight / count.clamp_min(1))

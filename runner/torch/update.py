"""The PPO update of P members: rollout in, new learner out. A pure function of arrays.

Axes: P member · T rollout step · N environment · B minibatch row · O observation · A action.
Source: Schulman et al. 2017 with skrl's value loss, statistics and schedule; docs/skrl.md lists each difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from runner.config import Config
from runner.networks.parameters import Network
from runner.torch import advantages as gae
from runner.torch import distributions, models, preprocessors, schedulers
from runner.torch.objectives import OBJECTIVES
from runner.torch.preprocessors import Scaler, Statistics
from runner.torch.rollout import Rollout
from runner.training.pack import Hyper

BETA_1, BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-8


class Batch(NamedTuple):
    """Rows to learn from.

    `log_prob` is `[P, B]`, or `[P, B, K]` where the distribution is `split`. `values` are the value network's outputs
    before the update, `returns` are normalised. `weight` is 1 for experience and 0 for reset rows, or that over their
    number. `shift` is what RPO adds to the means.
    """

    observations: Num[Tensor, "P B O"]
    actions: Num[Tensor, "P B K"]
    log_prob: Tensor
    advantages: Float[Tensor, "P B"]
    returns: Float[Tensor, "P B"]
    values: Float[Tensor, "P B"]
    weight: Float[Tensor, "P B"]
    shift: Float[Tensor, "P B A"] | None = None


class Optimizer(NamedTuple):
    """Parameters and Adam's moments `[P, n]`, number of steps and learning rate `[P, 1]`."""

    parameters: Float[Tensor, "P n"]
    first_moment: Float[Tensor, "P n"]
    second_moment: Float[Tensor, "P n"]
    steps: Float[Tensor, "P 1"]
    learning_rate: Float[Tensor, "P 1"]


@dataclass(frozen=True)
class Learner:
    """Everything that learning changes."""

    optimizer: Optimizer
    observation_statistics: Statistics | None
    value_statistics: Statistics | None


class Metrics(NamedTuple):
    """Per-member numbers of one minibatch, or their mean over an update, `[P, 1]` each."""

    policy_loss: Tensor
    value_loss: Tensor
    entropy_loss: Tensor
    kl: Tensor
    clip_fraction: Tensor
    gradient_norm: Tensor


@dataclass(frozen=True)
class Rules:
    """The Static side of an update."""

    network: Network
    config: Config
    entropy: bool
    """Any member has an entropy bonus."""
    of_value: Bool[Tensor, " n"] | None = None
    """Parameters with the value's learning rate, where any member has one of its own."""

    def log_std(self, parameters: models.Parameters) -> Tensor | None:
        """The clipped log standard deviation; without gradient if it is fixed."""
        policy = self.config.models.policy
        log_std = models.log_std(parameters, policy.min_log_std, policy.max_log_std, policy.clip_log_std)
        return log_std.detach() if policy.fixed_log_std and log_std is not None else log_std

    def observation_scaler(self, statistics: Statistics | None) -> Scaler | None:
        """How observations are normalised, None for not at all."""
        return statistics and preprocessors.scaler(statistics, *self.network.scaling)

    def value_scaler(self, statistics: Statistics | None) -> Scaler | None:
        """How values are normalised, None for not at all."""
        arguments = self.config.agent.value_preprocessor_kwargs
        return statistics and preprocessors.scaler(statistics, arguments.epsilon, arguments.clip_threshold)


Gradient = Callable[[Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]], Tensor], tuple[Tensor, tuple[Tensor, ...]]]
"""(loss of flat parameters → (total, parts), flat parameters) → (gradient, parts)."""
MinibatchStep = Callable[[Optimizer, Batch, Hyper, Tensor], tuple[Optimizer, Metrics, Tensor]]


def loss(
    parameters: Float[Tensor, "P n"], batch: Batch, hyper: Hyper, rules: Rules
) -> tuple[Float[Tensor, ""], tuple[Tensor, ...]]:
    """PPO's loss, summed over members (they share no parameter), and its parts.

        ρ = π(a|s) / π_old(a|s)
        L = mean(policy loss, see `objectives`) + c_v·mean((R − V′)²) − c_e·mean(H)
        V′ = V_old + clip(V − V_old, ± value_clip)          (`value_loss: skrl`)

    Every mean is over valid rows: `batch.weight` must sum to 1 over each member's rows.

    Returns:
        The loss; policy loss, value loss, entropy loss, approximate KL and clip fraction, `[P, 1]` each.
    """
    named = models.cut(rules.network, parameters)
    outputs, values = models.policy_and_value(rules.network, named, batch.observations)
    log_std = rules.log_std(named)
    distribution = rules.network.distribution
    shifted = outputs if batch.shift is None else outputs + batch.shift
    log_prob = distributions.log_prob(distribution, shifted, log_std, batch.actions)

    def per_ratio(x: Float[Tensor, "P B"]) -> Tensor:
        # Where every action dimension has a ratio of its own, the mean is over these too.
        return (x / distribution.chosen).unsqueeze(-1) if distribution.split else x

    log_ratio = log_prob - batch.log_prob
    ratio = log_ratio.exp()
    clip = hyper.ratio_clip.unsqueeze(-1) if distribution.split else hyper.ratio_clip
    clipped = ratio.clamp(1 - clip, 1 + clip)
    weight = per_ratio(batch.weight)
    objective = OBJECTIVES[rules.config.agent.cls]
    policy_loss = _total(objective(log_prob, ratio, clipped, per_ratio(batch.weight * batch.advantages)))

    held = batch.values + (values - batch.values).clamp(-hyper.value_clip, hyper.value_clip)
    squared = (held - batch.returns).square()
    if rules.config.agent.value_loss == "max":
        squared = torch.maximum(squared, (values - batch.returns).square())
    value_loss = hyper.value_loss_scale * _total(batch.weight * squared)

    entropy_loss = torch.zeros_like(policy_loss)
    if rules.entropy:
        entropies = distributions.entropy(distribution, outputs, log_std)
        entropy_loss = -hyper.entropy_loss_scale * _total(batch.weight * entropies)
    total = (policy_loss + value_loss + entropy_loss).sum()
    with torch.no_grad():
        if batch.shift is not None:
            # What RPO adds is not a change of the policy, which is what stops an epoch and adapts the learning rate.
            log_ratio = distributions.log_prob(distribution, outputs, log_std, batch.actions) - batch.log_prob
        own_ratio = ratio if batch.shift is None else log_ratio.exp()
        kl = _total(weight * (own_ratio - 1 - log_ratio))
        clip_fraction = _total(weight * (clipped != ratio))
    return total, (policy_loss, value_loss, entropy_loss, kl, clip_fraction)


def minibatch_step(
    optimizer: Optimizer,
    batch: Batch,
    hyper: Hyper,
    active: Bool[Tensor, "P 1"],
    *,
    rules: Rules,
    gradient: Gradient,
) -> tuple[Optimizer, Metrics, Bool[Tensor, "P 1"]]:
    """One gradient step of every member that is active: loss, joint gradient clip, Adam (Kingma and Ba 2015).

    Returns:
        The optimizer after the step, the metrics, and who is still active: a member whose KL is above
        `kl_threshold` does not take this step.
    """
    raw, (policy_loss, value_loss, entropy_loss, kl, clip_fraction) = gradient(
        lambda flat: loss(flat, batch, hyper, rules), optimizer.parameters
    )
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
    if rules.of_value is not None:
        rate = rate * torch.where(rules.of_value, hyper.value_learning_rate / hyper.learning_rate, 1.0)
    root = (1 - BETA_2**at_least_one).rsqrt()
    change = rate * first / (second.sqrt() * root + ADAM_EPSILON)
    return Optimizer(optimizer.parameters - change, first, second, steps, optimizer.learning_rate), metrics, active


def prepare(learner: Learner, rollout: Rollout, hyper: Hyper, rules: Rules) -> tuple[Learner, Batch, Tensor]:
    """Values, advantages and returns of a rollout; value statistics absorb the returns once, before use.

    Returns:
        The learner with new value statistics, the rows `[P, T·N]` in time order with raw observations, and the
        explained variance `[P, 1]` of the returns by the values.
    """
    agent = rules.config.agent
    members, steps, envs = rollout.rewards.shape
    named = models.cut(rules.network, learner.optimizer.parameters)
    observe = rules.observation_scaler(learner.observation_statistics)
    judge = rules.value_scaler(learner.value_statistics)

    def judged(rows: Num[Tensor, "P B O"]) -> Float[Tensor, "P B"]:
        return models.value(rules.network, named, observe.normalize(rows) if observe else rows)

    def in_reward_units(outputs: Float[Tensor, "P B"]) -> Float[Tensor, "P B"]:
        return judge.denormalize(outputs.unsqueeze(-1)).squeeze(-1) if judge else outputs

    def experience(x: Tensor) -> Tensor:
        # Zeros where no experience is: weight 0 alone would let a NaN or infinity through.
        valid = rollout.valid.bool()
        return torch.where(valid if x.dim() == valid.dim() else valid.unsqueeze(-1), x, 0)

    outputs = judged(rollout.observations.flatten(1, 2))
    every = in_reward_units(outputs).unflatten(1, (steps + 1, envs))
    values, next_values = experience(every[:, :-1]), every[:, 1:]
    if rollout.final_rows is not None:
        next_values = next_values.clone()
        next_values.flatten(1)[:, rollout.final_rows] = in_reward_units(judged(rollout.final_observations))
    terminated = rollout.terminated if agent.time_limit_bootstrap else rollout.ended
    rewards = experience(rollout.rewards) * hyper.rewards_shaper_scale.unsqueeze(-1)
    advantages, returns = gae.gae(
        rewards, values, next_values, terminated, rollout.ended, hyper.discount_factor, hyper.gae_lambda
    )
    flat = [x.reshape(members, steps * envs) for x in (advantages, returns, values, rollout.valid)]
    advantages, returns, values, valid = flat
    advantages = torch.where(valid > 0, advantages, 0)
    explained = gae.explained_variance(values, returns, valid)
    if agent.advantage_normalization == "rollout":
        advantages = gae.normalize(advantages, valid)
    statistics = learner.value_statistics
    if statistics is not None:
        statistics = preprocessors.absorb(statistics, returns.unsqueeze(-1), valid)
        judge = rules.value_scaler(statistics)
        assert judge is not None
        returns = judge.normalize(returns.unsqueeze(-1)).squeeze(-1)
    log_prob = distributions.log_prob(
        rules.network.distribution, rollout.outputs.flatten(1, 2), rules.log_std(named), rollout.actions.flatten(1, 2)
    )
    rows = Batch(
        experience(rollout.observations[:, :-1]).flatten(1, 2),
        experience(rollout.actions).flatten(1, 2),
        experience(log_prob.unflatten(1, (steps, envs))).flatten(1, 2),
        advantages,
        returns,
        # The value clip is around what the network itself said. Old values in the new statistics' units would be
        # off centre by the statistics' change, and beyond `value_clip` the loss has no gradient at all.
        experience(outputs.unflatten(1, (steps + 1, envs))[:, :-1]).flatten(1, 2),
        valid,
    )
    return replace(learner, value_statistics=statistics), rows, explained


def update(
    learner: Learner,
    rollout: Rollout,
    orders: Iterable[Tensor | None],
    hyper: Hyper,
    rules: Rules,
    alive: Bool[Tensor, "P 1"],
    step: MinibatchStep,
    rates: Float[Tensor, "P E"] | None = None,
    shifts: Float[Tensor, "E P B A"] | None = None,
) -> tuple[Learner, Metrics, Tensor]:
    """All epochs over one rollout.

    Args:
        learner: before.
        rollout: T steps of every environment.
        orders: per epoch a permutation of the rows of every member `[P, T·N]`, or None for time order.
        hyper: per-member numbers.
        rules: what is equal for all.
        alive: members that learn.
        step: `minibatch_step`, as it is or compiled.
        rates: learning rate of each epoch, for schedules that are counted.
        shifts: what RPO adds to the means of every row in each epoch.

    Returns:
        The learner after, the mean metrics over minibatches with a valid row, which alone make a step (not a number if
        there are none), and the explained variance `[P, 1]`.
    """
    agent = rules.config.agent
    learner, data, explained = prepare(learner, rollout, hyper, rules)
    raw_observations, valid = data.observations, data.weight
    statistics, optimizer = learner.observation_statistics, learner.optimizer
    absorbs = statistics is not None and agent.observation_statistics == "first_epoch"
    if not absorbs:
        data = _observed(data, rules, statistics)
    sums: Metrics | None = None
    counted = torch.zeros_like(optimizer.steps)
    for epoch, order in enumerate(orders):
        active = alive
        if rates is not None:
            optimizer = optimizer._replace(learning_rate=rates[:, epoch : epoch + 1])
        if shifts is not None:
            data = data._replace(shift=shifts[epoch])
        kl_sum, kl_count = torch.zeros_like(counted), torch.zeros_like(counted)
        for rows in [None] if order is None else order.tensor_split(agent.mini_batches, 1):
            batch = data if rows is None else _take(data, rows)
            count = batch.weight.sum(1, keepdim=True)
            entering = active & (count > 0)
            entered = entering.float()
            if absorbs and epoch == 0:
                assert statistics is not None
                statistics = preprocessors.absorb(statistics, batch.observations, batch.weight * entered)
                batch = _observed(batch, rules, statistics)
                if rows is None:
                    data = batch
            batch = _weighted(batch, count, agent.advantage_normalization)
            optimizer, metrics, stays = step(optimizer, batch, hyper, entering)
            active = torch.where(entering, stays, active)
            kl_sum, kl_count = kl_sum + metrics.kl * entered, kl_count + entered
            counted = counted + entered
            counting = Metrics(*(m * entered for m in metrics))
            sums = counting if sums is None else Metrics(*(a + b for a, b in zip(sums, counting, strict=True)))
        if agent.learning_rate_scheduler == "KLAdaptiveLR":
            optimizer = optimizer._replace(
                learning_rate=schedulers.kl_adaptive(
                    optimizer.learning_rate,
                    kl_sum / kl_count,
                    hyper.scheduler_kl_threshold,
                    hyper.scheduler_kl_factor,
                    hyper.scheduler_lr_factor,
                    hyper.scheduler_min_lr,
                    hyper.scheduler_max_lr,
                )
            )
        if absorbs and epoch == 0 and order is not None:
            data = _observed(data, rules, statistics)
    if statistics is not None and not absorbs:
        statistics = preprocessors.absorb(statistics, raw_observations, valid)
    assert sums is not None
    mean = Metrics(*(m / counted for m in sums))
    return replace(learner, optimizer=optimizer, observation_statistics=statistics), mean, explained


def _observed(batch: Batch, rules: Rules, statistics: Statistics | None) -> Batch:
    """The batch with normalised observations."""
    scaler = rules.observation_scaler(statistics)
    return batch if scaler is None else batch._replace(observations=scaler.normalize(batch.observations))


def _take(data: Batch, rows: Tensor) -> Batch:
    """Row `rows[p, b]` of member p."""
    member = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1)
    taken = (None if x is None else x[member, rows] for x in data)
    return Batch._make(taken)


def _total(x: Tensor) -> Float[Tensor, "P 1"]:
    """Sum over everything but members."""
    return x.flatten(1).sum(1, keepdim=True)


def _weighted(batch: Batch, count: Float[Tensor, "P 1"], normalization: str) -> Batch:
    """Weights of `count` valid rows that sum to 1 per member, and advantages normalised if that is per minibatch."""
    if normalization == "minibatch":
        batch = batch._replace(advantages=gae.normalize(batch.advantages, batch.weight))
    return batch._replace(weight=batch.weight / count.clamp_min(1))

"""PPO's loss on a minibatch, and the policy's part of it by `agent.class`.

Axes: B minibatch row · O observation · A action · K number of an action
· n parameter · Q sequence · M memory.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Num

from runner.jax import distributions, models
from runner.jax.recurrent import Memory
from runner.training.pack import Hyper, Rules


class Batch(NamedTuple):
    """Rows to learn from.

    `log_prob` is `[B]`, or `[B, K]` where the distribution is `split`. `values` are the value network's outputs before
    the update, `returns` are normalised. `weight` is 1 for experience and 0 for reset rows, or that over their number.
    `shift` is what RPO adds to the means. Of networks that remember, rows are steps of sequences in the order of time:
    `begins` says where episodes begin, `carry` what is remembered before each sequence's first step.
    """

    observations: Num[Array, "B O"]
    actions: Num[Array, "B K"]
    log_prob: Array
    advantages: Float[Array, " B"]
    returns: Float[Array, " B"]
    values: Float[Array, " B"]
    weight: Float[Array, " B"]
    shift: Float[Array, "B A"] | None = None
    begins: Bool[Array, " B"] | None = None
    carry: Float[Array, "Q M"] | None = None

    @property
    def memory(self) -> Memory | None:
        """As networks take it."""
        return None if self.carry is None else Memory(self.carry, self.begins)


def clipped_surrogate(log_prob: Array, ratio: Array, clipped: Array, weighted: Array) -> Array:
    """PPO's policy loss of every row, −min(ρ A, clip(ρ, 1 ± ε) A)."""
    return -jnp.minimum(ratio * weighted, clipped * weighted)


def policy_gradient(log_prob: Array, ratio: Array, clipped: Array, weighted: Array) -> Array:
    """A2C's policy loss of every row (Mnih et al. 2016), −A log π."""
    return -log_prob * weighted


OBJECTIVES = dict.fromkeys(("PPO", "RPO", "IPPO", "MAPPO"), clipped_surrogate) | {"A2C": policy_gradient}
"""`agent.class` → the policy's loss of every row, or of every action dimension where each has a ratio of its own;
`weighted` is the advantage A times the row's weight."""


def loss(
    parameters: Float[Array, " n"], batch: Batch, hyper: Hyper, rules: Rules
) -> tuple[Float[Array, ""], tuple[Array, ...]]:
    """PPO's loss and its parts.

        ρ = π(a|s) / π_old(a|s)
        L = mean(policy loss, by `agent.class`) + c_v·mean((R − V′)²) − c_e·mean(H)
        V′ = V_old + clip(V − V_old, ± value_clip)          (`value_loss: skrl`)

    Every mean is over valid rows: `batch.weight` must sum to 1.

    Returns:
        The loss; policy loss, value loss, entropy loss, approximate KL and clip fraction.
    """
    named = models.cut(rules.network, parameters)
    outputs, values = models.policy_and_value(rules.network, named, batch.observations, batch.memory)
    log_std = models.log_std(rules, named)
    distribution = rules.network.distribution
    shifted = outputs if batch.shift is None else outputs + batch.shift
    log_prob = distributions.log_prob(distribution, shifted, log_std, batch.actions)

    def per_ratio(x: Float[Array, " B"]) -> Array:
        # Where every action dimension has a ratio of its own, the mean is over these too.
        return (x / distribution.chosen)[:, None] if distribution.split else x

    log_ratio = log_prob - batch.log_prob
    ratio = jnp.exp(log_ratio)
    clipped = jnp.clip(ratio, 1 - hyper.ratio_clip, 1 + hyper.ratio_clip)
    weight = per_ratio(batch.weight)
    objective = OBJECTIVES[rules.config.agent.cls]
    policy_loss = objective(log_prob, ratio, clipped, per_ratio(batch.weight * batch.advantages)).sum()

    held = batch.values + jnp.clip(values - batch.values, -hyper.value_clip, hyper.value_clip)
    squared = jnp.square(held - batch.returns)
    if rules.config.agent.value_loss == "max":
        squared = jnp.maximum(squared, jnp.square(values - batch.returns))
    value_loss = hyper.value_loss_scale * (batch.weight * squared).sum()

    entropy_loss = jnp.zeros_like(policy_loss)
    if rules.entropy:
        entropies = distributions.entropy(distribution, outputs, log_std)
        entropy_loss = -hyper.entropy_loss_scale * (batch.weight * entropies).sum()
    if batch.shift is not None:
        # What RPO adds is not a change of the policy, which is what stops an epoch and adapts the learning rate.
        log_ratio = distributions.log_prob(distribution, outputs, log_std, batch.actions) - batch.log_prob
    own_ratio = ratio if batch.shift is None else jnp.exp(log_ratio)
    kl = (weight * (own_ratio - 1 - log_ratio)).sum()
    clip_fraction = (weight * (clipped != ratio)).sum()
    return policy_loss + value_loss + entropy_loss, (policy_loss, value_loss, entropy_loss, kl, clip_fraction)

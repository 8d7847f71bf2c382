"""PPO's loss on a minibatch, and the policy's part of it by `agent.class`.

Axes: P member · B minibatch row · O observation · A action · K number of an action
· n parameter · Q sequence · M memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from runner.torch import distributions, models
from runner.torch.recurrent import Memory
from runner.training.pack import Hyper, Rules


class Batch(NamedTuple):
    """Rows to learn from.

    `log_prob` is `[P, B]`, or `[P, B, K]` where the distribution is `split`. `values` are the value network's outputs
    before the update, `returns` are normalised. `weight` is 1 for experience and 0 for reset rows, or that over their
    number. `shift` is what RPO adds to the means. Of networks that remember, rows are steps of sequences in the order
    of time: `begins` says where episodes begin, `carry` what is remembered before each sequence's first step.
    """

    observations: Num[Tensor, "P B O"]
    actions: Num[Tensor, "P B K"]
    log_prob: Tensor
    advantages: Float[Tensor, "P B"]
    returns: Float[Tensor, "P B"]
    values: Float[Tensor, "P B"]
    weight: Float[Tensor, "P B"]
    shift: Float[Tensor, "P B A"] | None = None
    begins: Bool[Tensor, "P B"] | None = None
    carry: Float[Tensor, "P Q M"] | None = None

    @property
    def memory(self) -> Memory | None:
        """As networks take it."""
        return None if self.carry is None else Memory(self.carry, self.begins)


def clipped_surrogate(log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted: Tensor) -> Tensor:
    """PPO's policy loss of every row, −min(ρ A, clip(ρ, 1 ± ε) A)."""
    return -torch.minimum(ratio * weighted, clipped * weighted)


def policy_gradient(log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted: Tensor) -> Tensor:
    """A2C's policy loss of every row (Mnih et al. 2016), −A log π."""
    return -log_prob * weighted


OBJECTIVES = dict.fromkeys(("PPO", "RPO", "IPPO", "MAPPO"), clipped_surrogate) | {"A2C": policy_gradient}
"""`agent.class` → the policy's loss of every row, or of every action dimension where each has a ratio of its own;
`weighted` is the advantage A times the row's weight."""


def loss(
    parameters: Float[Tensor, "P n"], batch: Batch, hyper: Hyper, rules: Rules
) -> tuple[Float[Tensor, ""], tuple[Tensor, ...]]:
    """PPO's loss, summed over members (they share no parameter), and its parts.

        ρ = π(a|s) / π_old(a|s)
        L = mean(policy loss, by `agent.class`) + c_v·mean((R − V′)²) − c_e·mean(H)
        V′ = V_old + clip(V − V_old, ± value_clip)          (`value_loss: skrl`)

    Every mean is over valid rows: `batch.weight` must sum to 1 over each member's rows.

    Returns:
        The loss; policy loss, value loss, entropy loss, approximate KL and clip fraction, `[P, 1]` each.
    """
    named = models.cut(rules.network, parameters)
    outputs, values = models.policy_and_value(rules.network, named, batch.observations, batch.memory)
    log_std = models.log_std(rules, named)
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


def _total(x: Tensor) -> Float[Tensor, "P 1"]:
    """Sum over everything but members."""
    return x.flatten(1).sum(1, keepdim=True)

"""Generalised advantage estimation (Schulman et al. 2016) that is right about episode ends.

Axes: P member · T rollout step · N environment.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def gae(
    rewards: Float[Tensor, "P T N"],
    values: Float[Tensor, "P T N"],
    next_values: Float[Tensor, "P T N"],
    terminated: Bool[Tensor, "P T N"],
    ended: Bool[Tensor, "P T N"],
    discount_factor: Float[Tensor, "P 1"],
    gae_lambda: Float[Tensor, "P 1"],
) -> tuple[Float[Tensor, "P T N"], Float[Tensor, "P T N"]]:
    """Advantages and returns.

        δ_t = r_t + γ (1 − terminated_t) V(s_{t+1}) − V(s_t)
        A_t = δ_t + γ λ (1 − ended_t) A_{t+1}
        R_t = A_t + V(s_t)

    Args:
        rewards: r_t.
        values: V(s_t), in reward units.
        next_values: V(s_{t+1}), where s_{t+1} after an episode end is the final observation.
        terminated: the episode reached a true end: nothing follows.
        ended: terminated or truncated.
        discount_factor: γ.
        gae_lambda: λ.
    """
    gamma = discount_factor.unsqueeze(-1)
    delta = torch.where(terminated, rewards, rewards + gamma * next_values) - values
    decay = (gamma * gae_lambda.unsqueeze(-1)) * (~ended)
    advantages = delta.clone()
    for t in range(rewards.shape[1] - 2, -1, -1):
        advantages[:, t].addcmul_(decay[:, t], advantages[:, t + 1])
    return advantages, advantages + values


def normalize(
    advantages: Float[Tensor, "P B"], valid: Float[Tensor, "P B"], epsilon: float = 1e-8
) -> Float[Tensor, "P B"]:
    """(A − mean) / (std + ε) per member over the rows whose weight in `valid` is 1; std is unbiased.

    A single row has no deviation, and less its own mean it would be 0 and teach nothing: it stays as it is. Where the
    variance is not finite, nothing is: divided by infinity the advantages would be 0, too.
    """
    n = valid.sum(1, keepdim=True)
    mean = (advantages * valid).sum(1, keepdim=True) / n.clamp_min(1)
    centred = advantages - mean
    variance = (centred * centred * valid).sum(1, keepdim=True) / (n - 1).clamp_min(1)
    normalized = torch.where(variance.isfinite(), centred / (variance.sqrt() + epsilon), torch.nan)
    return torch.where(n > 1, normalized, advantages)


def explained_variance(values: Tensor, returns: Tensor, valid: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R) per member over valid rows; not a number where the returns do not vary."""
    n = valid.sum(1, keepdim=True).clamp_min(1)

    def variance(x: Tensor) -> Tensor:
        centred = (x - (x * valid).sum(1, keepdim=True) / n) * valid
        return (centred * centred).sum(1, keepdim=True) / n

    return 1 - variance(returns - values) / variance(returns)

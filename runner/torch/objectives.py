"""The policy's loss of every row, by `agent.class`, and its slope, since what follows the networks has no tape.

Axes: `[P, B]`, or `[P, B, K]` where every action dimension has a ratio ρ of its own. `weighted` is the advantage A
times the row's weight.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted: Tensor) -> tuple[Tensor, Tensor]:
    """PPO's policy loss of every row, and −∂L/∂log π.

    L = −min(ρ A, clip(ρ, 1 ± ε) A)         −∂L/∂log π = ρ A where the unclipped term is the smaller, else 0
    """
    gain, clipped_gain = ratio * weighted, clipped * weighted
    return -torch.minimum(gain, clipped_gain), gain * (gain <= clipped_gain)


def policy_gradient(log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted: Tensor) -> tuple[Tensor, Tensor]:
    """A2C's policy loss of every row (Mnih et al. 2016), L = −A log π, and −∂L/∂log π."""
    return -log_prob * weighted, weighted.expand_as(log_prob)


OBJECTIVES = {"PPO": clipped_surrogate, "RPO": clipped_surrogate, "A2C": policy_gradient}
"""`agent.class` → the policy's loss."""

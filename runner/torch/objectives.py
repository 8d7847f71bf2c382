"""The policy's loss of every row, by `agent.class`.

Axes: `[P, B]`, or `[P, B, K]` where every action dimension has a ratio ρ of its own. `weighted` is the advantage A
times the row's weight.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted: Tensor) -> Tensor:
    """PPO's policy loss of every row, −min(ρ A, clip(ρ, 1 ± ε) A)."""
    return -torch.minimum(ratio * weighted, clipped * weighted)


def policy_gradient(log_prob: Tensor, ratio: Tensor, clipped: Tensor, weighted: Tensor) -> Tensor:
    """A2C's policy loss of every row (Mnih et al. 2016), −A log π."""
    return -log_prob * weighted


OBJECTIVES = {"PPO": clipped_surrogate, "RPO": clipped_surrogate, "A2C": policy_gradient}
"""`agent.class` → the policy's loss."""

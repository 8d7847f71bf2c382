"""The policy's loss of every row, by `agent.class`.

Axes: `[B]`, or `[B, K]` where every action dimension has a ratio ρ of its own. `weighted` is the advantage A times the
row's weight.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array


def clipped_surrogate(log_prob: Array, ratio: Array, clipped: Array, weighted: Array) -> Array:
    """PPO's policy loss of every row, −min(ρ A, clip(ρ, 1 ± ε) A)."""
    return -jnp.minimum(ratio * weighted, clipped * weighted)


def policy_gradient(log_prob: Array, ratio: Array, clipped: Array, weighted: Array) -> Array:
    """A2C's policy loss of every row (Mnih et al. 2016), −A log π."""
    return -log_prob * weighted


OBJECTIVES = {"PPO": clipped_surrogate, "RPO": clipped_surrogate, "A2C": policy_gradient}
"""`agent.class` → the policy's loss."""

"""Generalised advantage estimation (Schulman et al. 2016) that is right about episode ends, of one member.

Axes: T rollout step · N environment · B row.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float


def gae(
    rewards: Float[Array, "T N"],
    values: Float[Array, "T N"],
    next_values: Float[Array, "T N"],
    terminated: Bool[Array, "T N"],
    ended: Bool[Array, "T N"],
    discount_factor: Float[Array, ""],
    gae_lambda: Float[Array, ""],
) -> tuple[Float[Array, "T N"], Float[Array, "T N"]]:
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
    delta = jnp.where(terminated, rewards, rewards + discount_factor * next_values) - values
    decay = discount_factor * gae_lambda * ~ended

    def step(following: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        delta, decay = now
        advantage = delta + decay * following
        return advantage, advantage

    _, advantages = jax.lax.scan(step, jnp.zeros_like(delta[0]), (delta, decay), reverse=True)
    return advantages, advantages + values


def normalize(advantages: Float[Array, " B"], valid: Float[Array, " B"], epsilon: float = 1e-8) -> Float[Array, " B"]:
    """(A − mean) / (std + ε) over the rows whose weight in `valid` is 1; std is unbiased.

    A single row has no deviation, and less its own mean it would be 0 and teach nothing: it stays as it is. Where the
    variance is not finite, nothing is: divided by infinity the advantages would be 0, too.
    """
    n = valid.sum()
    mean = (advantages * valid).sum() / jnp.maximum(n, 1)
    centred = advantages - mean
    variance = (centred * centred * valid).sum() / jnp.maximum(n - 1, 1)
    normalized = jnp.where(jnp.isfinite(variance), centred / (jnp.sqrt(variance) + epsilon), jnp.nan)
    return jnp.where(n > 1, normalized, advantages)


def explained_variance(values: Array, returns: Array, valid: Array) -> Array:
    """1 − Var(R − V) / Var(R) over valid rows; not a number where the returns do not vary."""
    n = jnp.maximum(valid.sum(), 1)

    def variance(x: Array) -> Array:
        centred = (x - (x * valid).sum() / n) * valid
        return (centred * centred).sum() / n

    return 1 - variance(returns - values) / variance(returns)

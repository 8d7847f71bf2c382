"""Action distributions of one member. Random numbers are arguments, as in the torch backend.

Axes: B row · A action. `outputs` are means or logits, `log_std` is None for a categorical policy.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def sample(outputs: Float[Array, "B A"], log_std: Float[Array, " A"] | None, noise: Float[Array, "B A"]) -> Array:
    """Actions `[B, A]` = mean + std·noise, or `[B]` int32 by the Gumbel-max rule."""
    if log_std is None:
        return (outputs + noise).argmax(-1)
    return outputs + jnp.exp(log_std) * noise


def mode(outputs: Float[Array, "B A"], log_std: Float[Array, " A"] | None) -> Array:
    """The most probable actions: means `[B, A]`, or the largest logit's index `[B]`."""
    return outputs.argmax(-1) if log_std is None else outputs


def log_prob(outputs: Float[Array, "B A"], log_std: Float[Array, " A"] | None, actions: Array) -> Float[Array, " B"]:
    """Log-probability of actions, summed over action dimensions."""
    if log_std is None:
        logits = jax.nn.log_softmax(outputs)
        return jnp.take_along_axis(logits, actions[:, None], 1)[:, 0]
    z = (actions - outputs) * jnp.exp(-log_std)
    return -0.5 * jnp.square(z).sum(-1) - (log_std + _LOG_SQRT_2PI).sum()


def entropy(outputs: Float[Array, "B A"], log_std: Float[Array, " A"] | None) -> Float[Array, " B"]:
    """Entropy in nats, summed over action dimensions."""
    if log_std is None:
        logits = jax.nn.log_softmax(outputs)
        return -(jnp.exp(logits) * logits).sum(-1)
    return jnp.broadcast_to((log_std + (0.5 + _LOG_SQRT_2PI)).sum(), outputs.shape[:1])

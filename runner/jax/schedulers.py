"""Learning-rate schedules, of one member."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float


def kl_adaptive(
    learning_rate: Float[Array, ""],
    kl: Float[Array, ""],
    kl_threshold: Float[Array, ""],
    kl_factor: Float[Array, ""],
    lr_factor: Float[Array, ""],
    min_lr: Float[Array, ""],
    max_lr: Float[Array, ""],
) -> Float[Array, ""]:
    """skrl's KLAdaptiveLR, once per epoch with that epoch's mean KL; a KL that is not a number changes nothing."""
    lower = jnp.maximum(learning_rate / lr_factor, min_lr)
    higher = jnp.minimum(learning_rate * lr_factor, max_lr)
    raised = jnp.where(kl < kl_threshold / kl_factor, higher, learning_rate)
    return jnp.where(kl > kl_threshold * kl_factor, lower, raised)

"""Learning-rate schedules, of one member."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from runner.training.pack import Hyper


def kl_adaptive(
    learning_rate: Float[Array, ""],
    kl: Float[Array, ""],
    hyper: Hyper,
) -> Float[Array, ""]:
    """skrl's KLAdaptiveLR, once per epoch with that epoch's mean KL; a KL that is not a number changes nothing."""
    lower = jnp.maximum(learning_rate / hyper.scheduler_lr_factor, hyper.scheduler_min_lr)
    higher = jnp.minimum(learning_rate * hyper.scheduler_lr_factor, hyper.scheduler_max_lr)
    raised = jnp.where(kl < hyper.scheduler_kl_threshold / hyper.scheduler_kl_factor, higher, learning_rate)
    return jnp.where(kl > hyper.scheduler_kl_threshold * hyper.scheduler_kl_factor, lower, raised)

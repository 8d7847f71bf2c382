"""Learning-rate schedules, one rate per member `[P, 1]`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def kl_adaptive(
    learning_rate: Float[Tensor, "P 1"],
    kl: Float[Tensor, "P 1"],
    kl_threshold: Float[Tensor, "P 1"],
    kl_factor: Float[Tensor, "P 1"],
    lr_factor: Float[Tensor, "P 1"],
    min_lr: Float[Tensor, "P 1"],
    max_lr: Float[Tensor, "P 1"],
) -> Float[Tensor, "P 1"]:
    """skrl's KLAdaptiveLR, once per epoch with that epoch's mean KL; a KL that is not a number changes nothing."""
    lower = torch.maximum(learning_rate / lr_factor, min_lr)
    higher = torch.minimum(learning_rate * lr_factor, max_lr)
    raised = torch.where(kl < kl_threshold / kl_factor, higher, learning_rate)
    return torch.where(kl > kl_threshold * kl_factor, lower, raised)

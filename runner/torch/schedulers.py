"""Learning-rate schedules, one rate per member `[P, 1]`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from runner.training.pack import Hyper


def kl_adaptive(
    learning_rate: Float[Tensor, "P 1"],
    kl: Float[Tensor, "P 1"],
    hyper: Hyper,
) -> Float[Tensor, "P 1"]:
    """skrl's KLAdaptiveLR, once per epoch with that epoch's mean KL; a KL that is not a number changes nothing."""
    lower = torch.maximum(learning_rate / hyper.scheduler_lr_factor, hyper.scheduler_min_lr)
    higher = torch.minimum(learning_rate * hyper.scheduler_lr_factor, hyper.scheduler_max_lr)
    raised = torch.where(kl < hyper.scheduler_kl_threshold / hyper.scheduler_kl_factor, higher, learning_rate)
    return torch.where(kl > hyper.scheduler_kl_threshold * hyper.scheduler_kl_factor, lower, raised)

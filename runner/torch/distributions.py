"""Action distributions. Random numbers are arguments, so that nothing is sampled inside a compiled graph.

Axes: P member · B row · A action. `outputs` are means or logits, `log_std` is None for a categorical policy.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def sample(
    outputs: Float[Tensor, "P B A"], log_std: Float[Tensor, "P 1 A"] | None, noise: Float[Tensor, "P B A"]
) -> Tensor:
    """Actions `[P, B, A]` = mean + std·noise, or `[P, B]` int64 by the Gumbel-max rule."""
    if log_std is None:
        return (outputs + noise).argmax(-1)
    return torch.addcmul(outputs, log_std.exp(), noise)


def mode(outputs: Float[Tensor, "P B A"], log_std: Float[Tensor, "P 1 A"] | None) -> Tensor:
    """The most probable actions: means `[P, B, A]`, or the largest logit's index `[P, B]`."""
    return outputs.argmax(-1) if log_std is None else outputs


def log_prob(
    outputs: Float[Tensor, "P B A"], log_std: Float[Tensor, "P 1 A"] | None, actions: Tensor
) -> Float[Tensor, "P B"]:
    """Log-probability of actions, summed over action dimensions."""
    if log_std is None:
        logits = outputs.log_softmax(-1)
        return logits.gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    z = (actions - outputs) * torch.exp(-log_std)
    return -0.5 * z.square().sum(-1) - (log_std + _LOG_SQRT_2PI).sum(-1)


def entropy(outputs: Float[Tensor, "P B A"], log_std: Float[Tensor, "P 1 A"] | None) -> Float[Tensor, "P B"]:
    """Entropy in nats, summed over action dimensions."""
    if log_std is None:
        logits = outputs.log_softmax(-1)
        return -(logits.exp() * logits).sum(-1)
    return (log_std + (0.5 + _LOG_SQRT_2PI)).sum(-1).expand(outputs.shape[:2])

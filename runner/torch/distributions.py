"""Action distributions. Random numbers are arguments, so that nothing is sampled inside a compiled graph.

Axes: P member · B row · A number of the network's output · W mean or logit · K number of an action. `outputs` are means
or logits, `log_std` is None for categorical policies.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

from runner.networks.policies import IMPOSSIBLE, Distribution
from runner.torch import accelerate

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def finished(
    distribution: Distribution, outputs: Float[Tensor, "P B A"], rows: Num[Tensor, "P B O"]
) -> Float[Tensor, "P B W"]:
    """Means or logits from a network's outputs and the rows that it read: clipped, combined and masked as needed."""
    if distribution.clips_means:
        return outputs.clamp(*_bounds(distribution, outputs))
    if distribution.probabilities:
        parts = [part / part.sum(-1, keepdim=True) for part in outputs.split(distribution.factors, -1)]
        tiny = torch.finfo(torch.float32).eps
        outputs = torch.cat(parts, -1).clamp(tiny, 1 - tiny).log()
    if distribution.joint:
        first, *others = outputs.split(distribution.factors, -1)
        for part in others:
            first = (first.unsqueeze(-1) + part.unsqueeze(-2)).flatten(-2)
        outputs = first
    if distribution.mask:
        columns = accelerate.constant(tuple(distribution.mask), torch.int64, rows.device)
        possible = rows.index_select(-1, columns) > 0.5
        outputs = torch.where(possible, outputs, IMPOSSIBLE)
    return outputs


def _bounds(distribution: Distribution, like: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (accelerate.constant(tuple(x), like.dtype, like.device) for x in (distribution.low, distribution.high))
    return low, high


def sample(
    distribution: Distribution,
    outputs: Float[Tensor, "P B W"],
    log_std: Float[Tensor, "P 1 A"] | None,
    noise: Float[Tensor, "P B W"],
) -> Num[Tensor, "P B K"]:
    """Actions = mean + std·noise, or int64 categories by the Gumbel-max rule."""
    if log_std is None:
        return mode(distribution, outputs + noise, None)
    return torch.addcmul(outputs, log_std.exp(), noise)


def mode(
    distribution: Distribution, outputs: Float[Tensor, "P B W"], log_std: Float[Tensor, "P 1 A"] | None
) -> Num[Tensor, "P B K"]:
    """The most probable actions: means, or the largest logits' indices."""
    if log_std is not None:
        return outputs
    return torch.stack([part.argmax(-1) for part in outputs.split(distribution.sizes, -1)], -1)


def log_prob(
    distribution: Distribution,
    outputs: Float[Tensor, "P B W"],
    log_std: Float[Tensor, "P 1 A"] | None,
    actions: Num[Tensor, "P B K"],
) -> Tensor:
    """Log-probability of actions `[P, B]`; `[P, B, K]` where the distribution is `split`."""
    if log_std is None:
        parts = zip(outputs.split(distribution.sizes, -1), actions.split(1, -1), strict=True)
        found = [logits.log_softmax(-1).gather(-1, chosen) for logits, chosen in parts]
        return distribution.reduced(torch.cat(found, -1))
    z = (actions - outputs) * torch.exp(-log_std)
    if distribution.reduction == "sum":
        return -0.5 * z.square().sum(-1) - (log_std + _LOG_SQRT_2PI).sum(-1)
    return distribution.reduced(-0.5 * z.square() - (log_std + _LOG_SQRT_2PI))


def entropy(
    distribution: Distribution, outputs: Float[Tensor, "P B W"], log_std: Float[Tensor, "P 1 A"] | None
) -> Float[Tensor, "P B"]:
    """Entropy in nats, summed over action dimensions."""
    if log_std is None:
        logits = [part.log_softmax(-1) for part in outputs.split(distribution.sizes, -1)]
        return -torch.stack([(part.exp() * part).sum(-1) for part in logits]).sum(0)
    return (log_std + (0.5 + _LOG_SQRT_2PI)).sum(-1).expand(outputs.shape[:2])


def uniform(
    distribution: Distribution, outputs: Float[Tensor, "P B W"], noise: Float[Tensor, "P B W"]
) -> Num[Tensor, "P B K"]:
    """Actions of no policy: uniform between bounds or over possible categories, normal where there are no bounds.

    Args:
        distribution: of the policy.
        outputs: of the policy; they say which categories are possible.
        noise: as for `sample`.
    """
    if not distribution.gaussian:
        return mode(distribution, torch.where(outputs > IMPOSSIBLE / 2, noise, IMPOSSIBLE), None)
    if not distribution.enclosed:
        return noise
    low, high = _bounds(distribution, noise)
    return (low + (high - low) * torch.special.ndtr(noise)).clamp(low, high)

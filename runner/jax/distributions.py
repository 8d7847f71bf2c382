"""Action distributions of one member. Random numbers are arguments, as in the torch backend.

Axes: B row · A number of the network's output · W mean or logit · K number of an action. `outputs` are means or logits,
`log_std` is None for categorical policies.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Num

from runner.networks.policies import IMPOSSIBLE, Distribution

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


def finished(distribution: Distribution, outputs: Float[Array, "B A"], rows: Num[Array, "B O"]) -> Float[Array, "B W"]:
    """Means or logits from a network's outputs and the rows that it read: clipped, combined and masked as needed."""
    if distribution.clips_means:
        return clamped(outputs, *_bounds(distribution))
    if distribution.probabilities:
        parts = [part / part.sum(-1, keepdims=True) for part in _parts(outputs, distribution.factors)]
        tiny = float(np.finfo(np.float32).eps)
        outputs = jnp.log(clamped(jnp.concatenate(parts, -1), tiny, 1 - tiny))
    if distribution.joint:
        first, *others = _parts(outputs, distribution.factors)
        for part in others:
            first = (first[:, :, None] + part[:, None, :]).reshape(len(first), -1)
        outputs = first
    if distribution.mask:
        possible = rows[:, np.array(distribution.mask)] > 0.5
        outputs = jnp.where(possible, outputs, IMPOSSIBLE)
    return outputs


def clamped(x: Array, low: float | np.ndarray, high: float | np.ndarray) -> Array:
    """Between bounds; unlike jnp.clip's, the gradient at a bound, where a run may begin, is whole."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _bounds(distribution: Distribution) -> tuple[np.ndarray, np.ndarray]:
    return np.array(distribution.low, np.float32), np.array(distribution.high, np.float32)


def _parts(outputs: Float[Array, "B W"], sizes: tuple[int, ...]) -> list[Array]:
    return jnp.split(outputs, np.cumsum(sizes)[:-1], -1)


def sample(
    distribution: Distribution,
    outputs: Float[Array, "B W"],
    log_std: Float[Array, " A"] | None,
    noise: Float[Array, "B W"],
) -> Num[Array, "B K"]:
    """Actions = mean + std·noise, or int32 categories by the Gumbel-max rule."""
    if log_std is None:
        return mode(distribution, outputs + noise, None)
    return outputs + jnp.exp(log_std) * noise


def mode(
    distribution: Distribution, outputs: Float[Array, "B W"], log_std: Float[Array, " A"] | None
) -> Num[Array, "B K"]:
    """The most probable actions: means, or the largest logits' indices."""
    if log_std is not None:
        return outputs
    return jnp.stack([part.argmax(-1) for part in _parts(outputs, distribution.sizes)], -1)


def log_prob(
    distribution: Distribution,
    outputs: Float[Array, "B W"],
    log_std: Float[Array, " A"] | None,
    actions: Num[Array, "B K"],
) -> Array:
    """Log-probability of actions `[B]`; `[B, K]` where the distribution is `split`."""
    if log_std is None:
        logits = [jax.nn.log_softmax(part) for part in _parts(outputs, distribution.sizes)]
        found = [jnp.take_along_axis(part, actions[:, [k]], 1) for k, part in enumerate(logits)]
        return distribution.reduced(jnp.concatenate(found, -1))
    z = (actions - outputs) * jnp.exp(-log_std)
    return distribution.reduced(-0.5 * jnp.square(z) - (log_std + _LOG_SQRT_2PI))


def entropy(
    distribution: Distribution, outputs: Float[Array, "B W"], log_std: Float[Array, " A"] | None
) -> Float[Array, " B"]:
    """Entropy in nats, summed over action dimensions."""
    if log_std is None:
        logits = [jax.nn.log_softmax(part) for part in _parts(outputs, distribution.sizes)]
        return -jnp.stack([(jnp.exp(part) * part).sum(-1) for part in logits]).sum(0)
    return jnp.broadcast_to((log_std + (0.5 + _LOG_SQRT_2PI)).sum(), outputs.shape[:1])


def uniform(distribution: Distribution, outputs: Float[Array, "B W"], noise: Float[Array, "B W"]) -> Num[Array, "B K"]:
    """Actions of no policy: uniform between bounds or over possible categories, normal where there are no bounds.

    Args:
        distribution: of the policy.
        outputs: of the policy; they say which categories are possible.
        noise: as for `sample`.
    """
    if not distribution.gaussian:
        return mode(distribution, jnp.where(outputs > IMPOSSIBLE / 2, noise, IMPOSSIBLE), None)
    if not distribution.enclosed:
        return noise
    low, high = _bounds(distribution)
    return clamped(low + (high - low) * jax.scipy.special.ndtr(noise), low, high)

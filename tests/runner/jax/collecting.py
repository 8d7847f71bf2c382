"""Collectors whose actions are their noise: what the environments give, without a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from runner.envs.base import VectorEnv
from runner.jax.rollout import Collector, env_actions
from runner.networks.policies import Distribution

MEMBERS, ENVS = 2, 2


def as_noise(policy: Any, carry: Any, observations: Any, noise: Any, random: Any) -> tuple[Any, Any, Any]:
    """Act for continuous actions."""
    return carry, noise, noise


def greatest_noise(policy: Any, carry: Any, observations: Any, noise: Any, random: Any) -> tuple[Any, Any, Any]:
    """Act for discrete actions."""
    return carry, noise, noise.argmax(-1)[:, None]


def collector(env: VectorEnv, members: int = MEMBERS, clip: bool = True) -> Collector:
    """A collector over `env`, which has environments for all members."""
    distribution = Distribution(env.actions.sizes, env.actions.units, "sum")
    as_taken = env_actions(distribution, env.actions, clip)
    return Collector(env, members, as_taken, greatest_noise if env.actions.discrete else as_noise)


def noise(env: VectorEnv, steps: int, members: int = MEMBERS, seed: int = 0) -> np.ndarray:
    """Actions for `steps` steps, half of them beyond the bounds of most environments."""
    shape = (steps, members, env.num_envs // members, env.actions.units)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def policies(members: int = MEMBERS) -> np.ndarray:
    """Policies that nothing reads."""
    return np.zeros(members, np.float32)

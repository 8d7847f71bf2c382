"""Collectors whose actions are their noise: what the environments give, without a network."""

from __future__ import annotations

from typing import Any

import numpy as np

from runner.envs.base import VectorEnv
from runner.jax.rollout import Collector

MEMBERS, ENVS = 2, 2


def as_noise(policy: Any, observations: Any, noise: Any) -> tuple[Any, Any]:
    """Act for continuous actions."""
    return noise, noise


def greatest_noise(policy: Any, observations: Any, noise: Any) -> tuple[Any, Any]:
    """Act for discrete actions."""
    return noise, noise.argmax(-1)


def collector(env: VectorEnv, members: int = MEMBERS, clip: bool = True) -> Collector:
    """A collector over `env`, which has environments for all members."""
    return Collector(env, members, clip, greatest_noise if env.actions.discrete else as_noise)


def noise(env: VectorEnv, steps: int, members: int = MEMBERS, seed: int = 0) -> np.ndarray:
    """Actions for `steps` steps, half of them beyond the bounds of most environments."""
    shape = (steps, members, env.num_envs // members, env.actions.size)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def policies(members: int = MEMBERS) -> np.ndarray:
    """Policies that nothing reads."""
    return np.zeros(members, np.float32)

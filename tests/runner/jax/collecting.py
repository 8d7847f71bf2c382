"""Collectors whose actions are their noise: what the environments give, without a network; and one that counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from runner.envs.base import Step, VectorEnv
from runner.jax.rollout import Collector, env_actions
from runner.networks.policies import Distribution

MEMBERS, ENVS = 2, 2
LENGTH = 5
"""Of an episode of `Counting`."""


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


class Counting(VectorEnv):
    """Shows the number of its step and what it was last told; fails where it is asked to; ends every fifth step."""

    def __init__(self, num_envs: int = 3, error: BaseException | None = None, fails_at: int = -1) -> None:
        super().__init__(num_envs, Box(-np.inf, np.inf, (3,), np.float32), Box(-9, 9, (1,), np.float32))
        self.error, self.fails_at = error, fails_at
        self.steps, self.told = 0, [np.zeros((num_envs, 1), np.float32)]

    def _seen(self) -> np.ndarray:
        indices = np.arange(self.num_envs, dtype=np.float32)
        return np.stack([np.full(self.num_envs, self.steps, np.float32), self.told[-1][:, 0], indices], 1)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self._seen(), {}

    def step(self, actions: Any) -> Step:
        self.steps += 1
        if self.steps == self.fails_at and self.error is not None:
            raise self.error
        assert isinstance(actions, np.ndarray) and actions.shape == (self.num_envs, 1)
        self.told.append(actions.copy())
        ended = np.full(self.num_envs, self.steps % (LENGTH + 1) == LENGTH)
        rewards = np.full(self.num_envs, 0.5, np.float64)  # as gymnasium's are
        return self._seen(), rewards, ended, np.zeros_like(ended), {}  # type: ignore[return-value]

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        return self

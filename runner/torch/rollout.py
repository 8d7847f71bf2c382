"""Collect T steps of every environment of every member.

Axes: P member · T rollout step · N environment · O observation · A action.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from runner.envs.base import VectorEnv
from runner.envs.spaces import ActionSpace
from runner.networks.policies import Distribution
from runner.torch import accelerate
from runner.training.episodes import Episodes
from runner.training.tracking import ACT_TIME, ENVIRONMENT_TIME


class Rollout(NamedTuple):
    """Experience of P members, member-major.

    Attributes:
        observations: raw; one more step than the rest.
        actions: unclipped samples, or categories.
        outputs: the policy's means or logits that the actions were drawn from.
        rewards: as the environment gave them.
        terminated: the episode reached a true end at this step.
        ended: terminated or truncated.
        valid: 1 for experience, 0 for the row after an episode end.
        final_rows: flat indices into `[T·N]` of steps whose successor is not the next observation, or None.
        final_observations: those successors `[P, K, O]`.
    """

    observations: Num[Tensor, "P T1 N O"]
    actions: Num[Tensor, "P T N K"]
    outputs: Float[Tensor, "P T N W"]
    rewards: Float[Tensor, "P T N"]
    terminated: Bool[Tensor, "P T N"]
    ended: Bool[Tensor, "P T N"]
    valid: Float[Tensor, "P T N"]
    final_rows: Tensor | None
    final_observations: Tensor


Act = Callable[[Any, Any, Tensor, Tensor, bool | None], tuple[Any, Tensor, Tensor]]
"""(policy, carry, raw observations `[P, N, O]`, noise `[P, N, W]`, whether at random) → (carry, policy outputs
`[P, N, W]`, actions `[P, N, K]`)."""
EnvActions = Callable[[Tensor], np.ndarray]
"""Actions `[P, N, K]` → what the environment takes, `[P·N, …]`."""


class Collector:
    """Steps the environments and remembers, between rollouts, where each of them stands.

    Attributes:
        episodes: that it counts.
        spent: metric → seconds that its parts took since somebody took note of them.
    """

    def __init__(self, env: VectorEnv, members: int, env_actions: EnvActions, act: Act, carry: Any = ()) -> None:
        """Reset `env` (P·N environments, member-major) and count episodes; networks begin with `carry`."""
        self.env = env
        self.members = members
        self.envs = env.num_envs // members
        self.device = accelerate.device()
        self.episodes = Episodes(members, self.envs)
        self.spent: dict[str, float] = defaultdict(float)
        self._env_actions, self._act, self._carry = env_actions, act, carry
        observations, _ = env.reset()
        self._observations = self._to_device(observations)
        self._ended = np.zeros(env.num_envs, bool)

    def collect(self, policy: Any, noise: np.ndarray, random: np.ndarray | None = None) -> Rollout:
        """T steps of every environment, one per row of `noise` `[T, P, N, W]`, those in `random` `[T]` by no policy."""
        drawn = torch.from_numpy(noise).to(self.device)
        observations, actions, outputs = [self._observations], [], []
        rewards, terminated, ended, valid = [], [], [], []
        final_rows, final_observations = [], []
        for t in range(len(noise)):
            began = time.perf_counter()
            at_random = None if random is None else bool(random[t])
            self._carry, output, action = self._act(policy, self._carry, observations[-1], drawn[t], at_random)
            chosen = self._env_actions(action)
            acted = time.perf_counter()
            after, reward, terminal, truncated, info = self.env.step(chosen)
            self.spent[ACT_TIME] += acted - began
            self.spent[ENVIRONMENT_TIME] += time.perf_counter() - acted
            observations.append(self._to_device(after))
            outputs.append(output)
            actions.append(action)
            rewards.append(reward)
            terminated.append(terminal)
            valid.append(~self._ended)
            end = terminal | truncated
            ended.append(end)
            self._ended = np.zeros_like(end) if self.env.resets_at_once else end
            if "final_observations" in info:
                which, final = info["final_observations"]
                final_rows.append(t * self.envs + which)
                final_observations.append(final)
            self.episodes.add(reward, end, valid[-1], info)
        self._observations = observations[-1]
        return Rollout(
            torch.stack(observations, 1),
            torch.stack(actions, 1),
            torch.stack(outputs, 1),
            self._stacked(rewards),
            self._stacked(terminated),
            self._stacked(ended),
            self._stacked(valid).float(),
            torch.from_numpy(np.concatenate(final_rows)).to(self.device) if final_rows else None,
            self._finals(final_observations),
        )

    def _to_device(self, observations: np.ndarray) -> Num[Tensor, "P N O"]:
        return torch.from_numpy(observations).to(self.device).unflatten(0, (self.members, self.envs))

    def _stacked(self, steps: list[np.ndarray]) -> Any:
        tensor = torch.from_numpy(np.stack(steps)).to(self.device)
        return tensor.unflatten(1, (self.members, self.envs)).transpose(0, 1)

    def _finals(self, observations: list[np.ndarray]) -> Tensor:
        if not observations:
            return torch.empty(self.members, 0, self.env.observation_size, device=self.device)
        return torch.from_numpy(np.concatenate(observations)).to(self.device).unsqueeze(0)


def env_actions(distribution: Distribution, space: ActionSpace, clip: bool) -> EnvActions:
    """Policy actions → what the environment takes: clipped to its bounds if asked."""

    def taken(actions: Num[Tensor, "P N K"]) -> np.ndarray:
        array = actions.flatten(0, 1).cpu().numpy()
        if space.discrete:
            if distribution.joint:
                array = np.stack(np.unravel_index(array[:, 0], distribution.factors), 1)
            return (array + space.low).reshape(-1, *space.shape)
        if clip:
            array = np.clip(array, space.low, space.high)
        # A diverged member's numbers must not reach the pool that it shares with its pack.
        finite = np.isfinite(array)
        return (array if finite.all() else np.where(finite, array, space.rest)).reshape(-1, *space.shape)

    return taken


def experience_of(rollout: Rollout, member: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A member's rewards, which of them are experience, and its observations, `[T, N, …]`."""
    rewards, valid, observations = (
        x[member].cpu().numpy() for x in (rollout.rewards, rollout.valid, rollout.observations)
    )
    return rewards, valid, observations

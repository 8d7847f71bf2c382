"""What Isaac Lab's environments look like to who trains on them; Isaac Lab itself needs a GPU with its simulator.

The contract is that of `isaaclab.envs.ManagerBasedRLEnv` and `DirectRLEnv` (isaac-sim/IsaacLab, 2.x and 3.0): a
`gymnasium.Env` that is `num_envs` environments, with `single_observation_space` a Dict of groups, spaces of the batch
beside it, one integer as its seed, tensors on `device`, episodes that are reset in the step in which they end without
a word about what they ended with, buffers that are written again at every step, and one `extras` for ever.

A point is pushed about in as many dimensions as there are actions; it is rewarded for being near 0.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from gymnasium.vector.utils import batch_space
from torch import Tensor

INFINITE = {"low": -np.inf, "high": np.inf}


class LabEnv(gymnasium.Env[Any, Any]):
    """What both kinds have in common."""

    is_vector_env: ClassVar[bool] = True
    metadata: ClassVar[dict[str, Any]] = {"render_modes": [None, "human", "rgb_array"]}

    def __init__(
        self,
        policy: gymnasium.Space[Any],
        critic: gymnasium.Space[Any] | None = None,
        action: gymnasium.Space[Any] | None = None,
        num_envs: int = 4,
        length: int = 5,
    ) -> None:
        self.num_envs, self.device, self.max_episode_length = num_envs, "cpu", length
        self.single_observation_space = Dict({"policy": policy} | ({} if critic is None else {"critic": critic}))
        self.single_action_space = Box(**INFINITE, shape=(2,)) if action is None else action
        self.observation_space: Any = batch_space(self.single_observation_space, num_envs)
        self.action_space: Any = batch_space(self.single_action_space, num_envs)
        self.size = max(map(numbers_in, self.single_observation_space.values()))
        self.position = torch.zeros(num_envs, self.size)
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.reset_terminated, self.reset_time_outs = (torch.zeros(num_envs, dtype=torch.bool) for _ in range(2))
        self.reward_buf = torch.zeros(num_envs)
        self.obs_buf: dict[str, Any] = {}
        self.extras: dict[str, Any] = {}
        self.generator = torch.Generator()

    def reset(self, seed: int | None = None, env_ids: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Reset all environments."""
        if seed is not None:
            assert isinstance(seed, int)
            self.generator.manual_seed(seed)
        self._reset_idx(torch.arange(self.num_envs))
        self._observe()
        return self.obs_buf, self.extras

    def step(self, action: Tensor) -> Any:
        """One step of every environment."""
        assert isinstance(action, Tensor) and action.shape == (self.num_envs, columns(self.single_action_space))
        force = action.to(self.device).float().clone()
        action.zero_()  # some tasks write into what they get
        self.episode_length_buf += 1
        moved = min(self.size, force.shape[1])
        self.position[:, :moved] += 0.1 * force[:, :moved].clamp(-1, 1)
        self.reset_terminated[:] = self.position[:, :moved].abs().amax(1) > 3
        self.reset_time_outs[:] = self.episode_length_buf >= self.max_episode_length
        self.reward_buf[:] = 1 - self.position[:, :moved].square().mean(1)
        ids = (self.reset_terminated | self.reset_time_outs).nonzero(as_tuple=False).squeeze(-1)
        if len(ids):
            self._reset_idx(ids)
        self._observe()
        return self.obs_buf, self.reward_buf, self.reset_terminated, self.reset_time_outs, self.extras

    def _reset_idx(self, ids: Tensor) -> None:
        self.position[ids] = torch.randn(len(ids), self.size, generator=self.generator)
        self.episode_length_buf[ids] = 0
        self.extras["log"] = {"Episode_Reward/alive": torch.tensor(float(len(ids)))}

    def _observe(self) -> None:
        for name, space in self.single_observation_space.items():
            self.obs_buf[name] = observed(space, self.position)


class ManagerBasedRLEnv(LabEnv):
    """Groups of the observation manager, each concatenated or a Dict of terms; the reward's buffer is the manager's."""


class DirectRLEnv(LabEnv):
    """Spaces of its configuration, whose `observation_space` is the policy's alone."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.observation_space = batch_space(self.single_observation_space["policy"], self.num_envs)
        critic = self.single_observation_space.spaces.get("critic")
        self.state_space = None if critic is None else batch_space(critic, self.num_envs)


def numbers_in(space: gymnasium.Space[Any]) -> int:
    """Numbers of an observation in this space."""
    if isinstance(space, Dict | Tuple):
        return sum(map(numbers_in, space.values() if isinstance(space, Dict) else space))
    return int(np.prod(space.shape or (1,)))


def columns(space: gymnasium.Space[Any]) -> int:
    """Columns of a batch of actions: one of a Discrete one."""
    return int(np.prod(space.shape or (1,)))


def observed(space: gymnasium.Space[Any], position: Tensor) -> Any:
    """Observations of the positions, as tensors in a structure like the space."""
    if isinstance(space, Dict):
        return {name: observed(part, position) for name, part in space.items()}
    if isinstance(space, Tuple):
        return tuple(observed(part, position) for part in space)
    rows = len(position)
    if isinstance(space, Discrete):
        return (position[:, :1] > 0).long()
    if isinstance(space, MultiDiscrete):
        return (position[:, : len(space.nvec)] > 0).long()
    if space.dtype == np.uint8:
        return (
            (position[:, :1].sigmoid() * 255).to(torch.uint8).expand(rows, columns(space)).reshape(rows, *space.shape)
        )
    flat = position[:, : columns(space)]
    # Not a copy, where nothing is rearranged: the next step writes over it.
    return flat if space.shape == flat.shape[1:] else flat.reshape(rows, *space.shape)

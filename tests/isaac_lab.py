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


class DirectMARLEnv(gymnasium.Env[Any, Any]):
    """Several agents (`isaaclab.envs.DirectMARLEnv`): everything is a dict by agent, a space is one environment's.

    Each agent pushes a point of its own; beyond 1 it is terminated, at every step until all are, or time is up.
    """

    def __init__(
        self,
        observations: dict[str, gymnasium.Space[Any]],
        actions: dict[str, gymnasium.Space[Any]],
        state: gymnasium.Space[Any] | None = None,
        num_envs: int = 3,
        length: int = 5,
    ) -> None:
        self.num_envs, self.device, self.max_episode_length = num_envs, "cpu", length
        self.possible_agents = self.agents = list(observations)
        self.observation_spaces, self.action_spaces, self.state_space = observations, actions, state
        self.position = torch.zeros(num_envs, len(observations))
        self.episode_length_buf = torch.zeros(num_envs, dtype=torch.long)
        self.extras: dict[str, Any] = {name: {} for name in observations}
        self.generator = torch.Generator()

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:  # type: ignore[override]
        """Those of one agent in one environment."""
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> gymnasium.Space[Any]:  # type: ignore[override]
        """Those of one agent in one environment."""
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset all environments."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self._reset_idx(torch.arange(self.num_envs))
        return self._observations(), self.extras

    def step(self, action: dict[str, Tensor]) -> Any:
        """One step of every environment; the reward is the position before a reset."""
        for number, (name, space) in enumerate(self.action_spaces.items()):
            assert action[name].shape == (self.num_envs, columns(space))
            self.position[:, number] += action[name][:, 0].float()
            action[name].zero_()
        self.episode_length_buf += 1
        terminated = {name: self.position[:, number] > 1 for number, name in enumerate(self.agents)}
        time_out = self.episode_length_buf >= self.max_episode_length
        rewards = {name: self.position[:, number].clone() for number, name in enumerate(self.agents)}
        over = torch.stack(list(terminated.values())).all(0) | time_out
        self._reset_idx(over.nonzero(as_tuple=False).squeeze(-1))
        return self._observations(), rewards, terminated, dict.fromkeys(self.agents, time_out), self.extras

    def state(self) -> Tensor | None:
        """The positions of all, where there is a space for them."""
        return None if self.state_space is None else self.position

    def _reset_idx(self, ids: Tensor) -> None:
        self.position[ids] = -torch.rand(len(ids), self.position.shape[1], generator=self.generator)
        self.episode_length_buf[ids] = 0

    def _observations(self) -> dict[str, Tensor]:
        return {
            name: observed(space, self.position[:, number : number + 1].expand(-1, numbers_in(space)))
            for number, (name, space) in enumerate(self.observation_spaces.items())
        }


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

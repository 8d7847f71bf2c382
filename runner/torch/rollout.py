"""Collect T steps of every environment of every member.

Axes: P member · T rollout step · N environment · O observation · A action.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from runner.envs.base import ABSENT, VectorEnv
from runner.envs.spaces import ActionSpace
from runner.envs.tensors import TensorEnv
from runner.networks.policies import Distribution
from runner.torch import accelerate
from runner.training.episodes import following
from runner.training.tracking import ACT_TIME, ENVIRONMENT_TIME

FINAL = "final_observations"


class Rollout(NamedTuple):
    """Experience of P members, member-major.

    Attributes:
        observations: raw; one more step than the rest.
        actions: unclipped samples, or categories.
        outputs: the policy's means or logits that the actions were drawn from.
        rewards: as the environment gave them.
        terminated: the episode reached a true end at this step.
        ended: terminated or truncated.
        valid: 1 for experience, 0 for the row after an episode end, and where an agent is not there.
        final_rows: `[P, K]` flat indices into `[T·N]` of steps whose successor is not the next observation, T·N where a
            member has fewer of them than K; None where there are none.
        final_observations: those successors `[P, K, O]`.
        carry: what networks remembered before each sequence's first step; None for those that remember nothing.
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
    carry: Float[Tensor, "P K N M"] | None = None


Act = Callable[[Any, Any, Tensor, Tensor, bool | None], tuple[Any, Tensor, Tensor]]
"""(policy, carry, raw observations `[P, N, O]`, noise `[P, N, W]`, whether at random) → (carry, policy outputs
`[P, N, W]`, actions `[P, N, K]`)."""
EnvActions = Callable[..., Any]
"""(actions `[P, N, K]`, whether as tensors) → what the environment takes, `[P·N, …]`."""


class Collector:
    """Steps the environments and remembers, between rollouts, where each of them stands.

    Attributes:
        episodes: that it counts.
        spent: metric → seconds that its parts took since somebody took note of them.
    """

    def __init__(
        self,
        env: VectorEnv,
        members: int,
        env_actions: EnvActions,
        act: Act,
        carry: Any = None,
        sequence: int = 1,
        team_return: str = "sum",
        processes: int = 1,
    ) -> None:
        """Reset `env` (P·N environments, member-major) and count episodes, those of all `processes` together.

        Networks begin with `carry`, `[P, N, M]` zeros or None; a rollout keeps what they remembered before each
        sequence of so many steps.
        """
        self.env = env
        self.members = members
        self.envs = env.num_envs // members
        self.device = accelerate.device()
        self.episodes = following(env, members, team_return, processes, accelerate.gather)
        self.spent: dict[str, float] = defaultdict(float)
        self._env_actions, self._act, self._sequence = env_actions, act, sequence
        self._carry = None if carry is None else torch.from_numpy(carry).to(self.device)
        observations, info = (env.reset_arrays(), self._told()) if isinstance(env, TensorEnv) else env.reset()
        self._observations = self._to_device(observations)
        self._absent: Any = info.get(ABSENT, np.zeros(env.num_envs, bool))
        if isinstance(env, TensorEnv):
            self._absent = _tensor(self._absent).to(self.device)

    def collect(self, policy: Any, noise: np.ndarray, random: np.ndarray | None = None) -> Rollout:
        """T steps of every environment, one per row of `noise` `[T, P, N, W]`, those in `random` `[T]` by no policy."""
        drawn = torch.from_numpy(noise).to(self.device)
        observations, actions, outputs = [self._observations], [], []
        columns: tuple[list[Any], ...] = ([], [], [], [])
        infos: list[dict[str, Any]] = []
        carries: list[Tensor] = []
        for t in range(len(noise)):
            began = time.perf_counter()
            if self._carry is not None and t % self._sequence == 0:
                carries.append(self._carry)
            at_random = None if random is None else bool(random[t])
            self._carry, output, action = self._act(policy, self._carry, observations[-1], drawn[t], at_random)
            chosen = self._env_actions(action, isinstance(self.env, TensorEnv))
            acted = time.perf_counter()
            after, reward, terminal, truncated, info = self._step(chosen)
            self.spent[ACT_TIME] += acted - began
            self.spent[ENVIRONMENT_TIME] += time.perf_counter() - acted
            observations.append(self._to_device(after))
            outputs.append(output)
            actions.append(action)
            end = terminal | truncated
            for column, now in zip(columns, (reward, terminal, end, ~self._absent), strict=True):
                column.append(now)
            # The next row begins an episode: after a reset row, or right after an end that resets at once.
            self._forget(self._absent | end if self.env.resets_at_once else self._absent)
            self._absent = info.get(ABSENT, end & (not self.env.resets_at_once))
            infos.append(info)
        rewards, terminated, ended, valid = map(_stack, columns)
        steps = rewards.cpu().numpy(), ended.cpu().numpy(), valid.cpu().numpy()
        self.episodes.add(*steps, infos)
        self._observations = observations[-1]
        return Rollout(
            torch.stack(observations, 1),
            torch.stack(actions, 1),
            torch.stack(outputs, 1),
            self._of_members(rewards),
            self._of_members(terminated),
            self._of_members(ended),
            self._of_members(valid).float(),
            *self._followed(ended, observations, infos),
            torch.stack(carries, 1) if carries else None,
        )

    def _forget(self, begins: Any) -> None:
        """Episodes begin in these environments."""
        if self._carry is not None:
            rows = _tensor(begins).to(self.device).view(self.members, self.envs, 1)
            self._carry = torch.where(rows, 0, self._carry)

    def _step(self, actions: Any) -> tuple[Any, Any, Any, Any, Any]:
        """A step of the environments: arrays of numpy and an info, or tensors and the final observations."""
        if isinstance(self.env, TensorEnv):
            *arrays, final = self.env.step_arrays(actions)
            observations, rewards, terminated, truncated = (_tensor(x).to(self.device) for x in arrays)
            info = {} if final is None else {FINAL: self._to_device(final)}
            return observations, rewards, terminated, truncated, info | self._told()
        return self.env.step(actions)

    def _told(self) -> dict[str, Any]:
        """The part of an info that environments which give tensors have beside their steps."""
        absent = getattr(self.env, ABSENT, None)
        return {} if absent is None else {ABSENT: _tensor(absent).to(self.device)}

    def _to_device(self, observations: Any) -> Num[Tensor, "P N O"]:
        return _tensor(observations).to(self.device).unflatten(0, (self.members, self.envs))

    def _of_members(self, steps: Tensor) -> Any:
        return steps.to(self.device).unflatten(1, (self.members, self.envs)).transpose(0, 1)

    def _followed(
        self, ended: Tensor, observations: list[Tensor], infos: list[dict[str, Any]]
    ) -> tuple[Tensor | None, Tensor]:
        """Rows of the steps whose successor is not the next observation, and the successors; see `Rollout`."""
        if isinstance(self.env, TensorEnv) and self.env.resets_at_once:
            return self._followed_tensors(ended, observations, infos)
        found = [(t, *info[FINAL]) for t, info in enumerate(infos) if len(info.get(FINAL, ((),))[0])]
        if not found:
            return None, torch.empty(self.members, 0, self.env.observation_size, device=self.device)
        members = np.concatenate([which // self.envs for _, which, _ in found])
        places = np.concatenate([t * self.envs + which % self.envs for t, which, _ in found])
        order, counts = np.argsort(members, kind="stable"), np.bincount(members, minlength=self.members)
        filled = np.arange(counts.max()) < counts[:, None]
        index = np.full(filled.shape, len(infos) * self.envs)
        last = np.zeros((*filled.shape, self.env.observation_size), self.env.layout.dtype)
        index[filled], last[filled] = places[order], np.concatenate([final for *_, final in found])[order]
        return _tensor(index).to(self.device), _tensor(last).to(self.device)

    def _followed_tensors(
        self, ended: Tensor, observations: list[Tensor], infos: list[dict[str, Any]]
    ) -> tuple[Tensor | None, Tensor]:
        """`_followed` of environments whose arrays are on a device."""
        assert isinstance(self.env, TensorEnv)
        self.env.tell(ended.any())
        steps, rows = ended.nonzero(as_tuple=True)
        if not len(steps):
            return None, self._observations.new_empty(self.members, 0, self.env.observation_size)
        # Where nobody knows what followed, it is what was before.
        finals = torch.stack([info.get(FINAL, observations[t]) for t, info in enumerate(infos)], 1)
        members, places = rows // self.envs, steps * self.envs + rows % self.envs
        order, counts = members.argsort(stable=True), members.bincount(minlength=self.members)
        filled = torch.arange(int(counts.max()), device=counts.device) < counts.unsqueeze(1)
        index = places.new_full(filled.shape, len(infos) * self.envs)
        last = finals.new_zeros(*filled.shape, finals.shape[-1])
        index[filled], last[filled] = places[order], finals.flatten(1, 2)[members, places][order]
        return index, last


def env_actions(distribution: Distribution, space: ActionSpace, clip: bool) -> EnvActions:
    """Policy actions → what the environment takes: clipped to its bounds if asked."""

    def taken(actions: Num[Tensor, "P N K"], as_tensors: bool = False) -> Any:
        flat = actions.flatten(0, 1)
        if as_tensors:
            return tensors(flat)
        array = flat.cpu().numpy()
        if space.discrete:
            if distribution.joint:
                array = np.stack(np.unravel_index(array[:, 0], distribution.factors), 1)
            return (array + space.low).reshape(-1, *space.shape)
        if clip:
            array = np.clip(array, space.low, space.high)
        # A diverged member's numbers must not reach the pool that it shares with its pack.
        finite = np.isfinite(array)
        return (array if finite.all() else np.where(finite, array, space.rest)).reshape(-1, *space.shape)

    @functools.cache
    def bounds(device: torch.device) -> list[Tensor]:
        rest = space.low if space.discrete else space.rest
        return [torch.from_numpy(x).to(device) for x in (space.low, space.high, rest)]

    def tensors(flat: Num[Tensor, "PN K"]) -> Tensor:
        low, high, rest = bounds(flat.device)
        if space.discrete:
            if distribution.joint:
                flat = torch.stack(torch.unravel_index(flat[:, 0], distribution.factors), 1)
            return flat + low
        if clip:
            flat = flat.clamp(low, high)
        return torch.where(flat.isfinite(), flat, rest)

    return taken


def _tensor(array: Any) -> Tensor:
    """An array of any library, without a copy."""
    if isinstance(array, Tensor):
        return array
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else torch.from_dlpack(array)


def _stack(steps: list[Any]) -> Tensor:
    return torch.stack(steps) if isinstance(steps[0], Tensor) else torch.from_numpy(np.stack(steps))


def experience_of(rollout: Rollout, member: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A member's rewards, which of them are experience, and its observations, `[T, N, …]`."""
    rewards, valid, observations = (
        x[member].cpu().numpy() for x in (rollout.rewards, rollout.valid, rollout.observations)
    )
    return rewards, valid, observations


def whole(rollout: Rollout) -> Rollout:
    """The rollout of the environments of all processes of the group, by the parts that they call this with."""
    rows, final = _whole_final(rollout)
    own = rollout._replace(final_rows=None, final_observations=None)  # type: ignore[arg-type]
    every = Rollout._make(None if x is None else accelerate.gathered(x, 2) for x in own)
    return every._replace(final_rows=rows, final_observations=final)


def _whole_final(rollout: Rollout) -> tuple[Tensor | None, Tensor]:
    """Rows and observations that do not follow, of all processes; see `Rollout`."""
    steps, envs = rollout.rewards.shape[1:]
    final = rollout.final_observations
    counts = accelerate.gather(np.array(final.shape[1]))
    most, processes = int(counts.max()), len(counts)
    if not most:
        return None, final
    index = torch.full((len(final), most), steps * envs, device=final.device)
    if rollout.final_rows is not None:
        index[:, : final.shape[1]] = rollout.final_rows
    first = accelerate.own(processes * envs, processes).start
    row = torch.div(index, envs, rounding_mode="floor") * processes * envs + first + index % envs
    index = torch.where(index < steps * envs, row, steps * processes * envs)
    last = torch.nn.functional.pad(final, (0, 0, 0, most - final.shape[1]))
    return accelerate.gathered(index, 1), accelerate.gathered(last, 1)

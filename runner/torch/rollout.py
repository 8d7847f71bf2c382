"""Collect T steps of every environment of every member.

Axes: P member · T rollout step · N environment · O observation · A action.
"""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from runner.envs.base import ABSENT, VectorEnv
from runner.envs.halves import Halves
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

    def begins(self) -> Bool[Tensor, "P T1 N"]:
        """Observations that begin an episode: after a reset row, or after an end where environments reset at once.

        Of the first ones this is known before the rollout: there the carry is zero.
        """
        over = ~self.valid.bool()
        if self.final_rows is not None:
            over = over | self.ended
        return torch.cat((torch.zeros_like(over[:, :1]), over), 1)


Act = Callable[[Any, Any, Tensor, Tensor, bool | None], tuple[Any, Tensor, Tensor]]
"""(policy, carry, raw observations `[P, N, O]`, noise `[P, N, W]`, whether at random) → (carry, policy outputs
`[P, N, W]`, actions `[P, N, K]`)."""
EnvActions = Callable[..., Any]
"""(actions `[P, N, K]`, whether as tensors) → what the environment takes, `[P·N, …]`."""


class _Part:
    """Environments that are stepped and acted on together, where they stand, and their place in a rollout's memory.

    Attributes:
        env: the environments.
        rows: those of each member's environments.
        observations: where they stand, `[P, n, O]`.
        absent: rows at which nobody is there to act next, `[P·n]`.
        carry: what networks remember, `[P, n, M]`.
        views: of each tensor of the rollout, by name, this part of each step.
    """

    def __init__(self, env: VectorEnv, rows: slice, observations: Tensor, absent: Any, carry: Tensor | None) -> None:
        self.env, self.rows = env, rows
        self.observations, self.absent, self.carry = observations, absent, carry
        self.views: dict[str, Sequence[Tensor]] = {}


class Collector:
    """Steps the environments and remembers, between rollouts, where each of them stands.

    On a GPU a rollout holds until the next one, which is written into the same memory.

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
        self._steps, self._memory = 0, dict[str, Tensor]()
        together = [(env, slice(0, self.envs))]
        parts = zip(env.halves, env.rows, strict=True) if isinstance(env, Halves) and env.apart else together
        self._parts = [self._reset(part, rows, carry) for part, rows in parts]

    def _reset(self, env: VectorEnv, rows: slice, carry: np.ndarray | None) -> _Part:
        observations, info = (env.reset_arrays(), self._told()) if isinstance(env, TensorEnv) else env.reset()
        absent: Any = info.get(ABSENT, np.zeros(env.num_envs, bool))
        if isinstance(env, TensorEnv):
            absent = _tensor(absent).to(self.device)
        start = None if carry is None else torch.from_numpy(carry[:, rows]).to(self.device)
        return _Part(env, rows, self._of_members(observations).to(self.device), absent, start)

    def collect(self, policy: Any, noise: np.ndarray, random: np.ndarray | None = None) -> Rollout:
        """T steps of every environment, one per row of `noise` `[T, P, N, W]`, those in `random` `[T]` by no policy.

        While one part is acted on, the other one steps, if there are two.
        """
        self._begin(len(noise))
        drawn = torch.from_numpy(noise).to(self.device)
        noises = [drawn[:, :, part.rows].unbind(0) for part in self._parts]
        columns, infos = self._columns(), list[list[dict[str, Any]]]()
        for part, own in zip(self._parts, noises, strict=True):
            self._send(part, 0, policy, own, random)
        for t in range(self._steps):
            infos.append([])
            for part, own in zip(self._parts, noises, strict=True):
                infos[t].append(self._receive(part, t, columns))
                if t + 1 < self._steps:
                    self._send(part, t + 1, policy, own, random)
        rewards, terminated, ended, valid = map(_tensor, columns)
        told = [one[0] if len(one) == 1 else self.env.told(one) for one in infos]  # type: ignore[attr-defined]
        counted, done, there = (x.flatten(1).cpu().numpy() for x in (rewards, ended, valid))
        self.episodes.add(counted, done, there, told)
        observations = self._memory["observations"]
        rewards, terminated, ended_, valid = (
            x.to(self.device).transpose(0, 1) for x in (rewards, terminated, ended, valid)
        )
        return Rollout(
            observations,
            self._memory["actions"],
            self._memory["outputs"],
            rewards,
            terminated,
            ended_,
            valid.float(),
            *self._followed(ended.flatten(1), observations, told),
            self._memory.get("carry"),
        )

    def _begin(self, steps: int) -> None:
        """Make the memory ready for a rollout of so many steps."""
        if steps != self._steps or not accelerate.sees_gpu():
            self._steps = steps
            self._memory.clear()
            for part in self._parts:
                part.views.clear()
        for part in self._parts:
            self._keep(part, "observations", 0, part.observations)

    def _columns(self) -> tuple[Any, Any, Any, Any]:
        """Places `[T, P, N]` for what each step gives: rewards, terminated, ended, valid; of the environments' library.

        Not of the rollout's memory: they are counted later.
        """
        shape = (self._steps, self.members, self.envs)
        if isinstance(self.env, TensorEnv):
            kinds = torch.float32, torch.bool, torch.bool, torch.bool
            return tuple(torch.empty(shape, dtype=kind, device=self.device) for kind in kinds)  # type: ignore[return-value]
        return tuple(np.empty(shape, kind) for kind in (np.float32, bool, bool, bool))  # type: ignore[return-value]

    def _keep(self, part: _Part, name: str, at: int, rows: Tensor) -> None:
        """Write a part's rows of one step, `[P, n, …]`, to the rollout's memory."""
        if name not in part.views:
            if name not in self._memory:
                length = {"observations": self._steps + 1, "carry": self._steps // self._sequence}
                shape = (self.members, length.get(name, self._steps), self.envs, *rows.shape[2:])
                self._memory[name] = torch.empty(shape, dtype=rows.dtype, device=self.device)
            part.views[name] = self._memory[name][:, :, part.rows].unbind(1)
        part.views[name][at].copy_(rows, non_blocking=True)

    def _send(self, part: _Part, t: int, policy: Any, noises: Sequence[Tensor], random: np.ndarray | None) -> None:
        """Act on a part, and let it step."""
        began = time.perf_counter()
        if part.carry is not None and t % self._sequence == 0:
            self._keep(part, "carry", t // self._sequence, part.carry)
        at_random = None if random is None else bool(random[t])
        observations = part.views["observations"][t]
        carry, outputs, actions = self._act(policy, part.carry, observations, noises[t], at_random)
        part.carry = accelerate.kept(carry)
        self._keep(part, "outputs", t, outputs)
        self._keep(part, "actions", t, actions)
        chosen = self._env_actions(actions, isinstance(part.env, TensorEnv))
        acted = time.perf_counter()
        part.env.send(chosen)
        self.spent[ACT_TIME] += acted - began
        self.spent[ENVIRONMENT_TIME] += time.perf_counter() - acted

    def _receive(self, part: _Part, t: int, columns: Sequence[Any]) -> dict[str, Any]:
        """Wait for a part's step, and write it down; returns its info."""
        began = time.perf_counter()
        after, reward, terminal, truncated, info = self._step(part.env)
        self.spent[ENVIRONMENT_TIME] += time.perf_counter() - began
        self._keep(part, "observations", t + 1, self._of_members(after))
        part.observations = part.views["observations"][t + 1]
        end, at_once = terminal | truncated, part.env.resets_at_once
        for column, now in zip(columns, (reward, terminal, end, ~part.absent), strict=True):
            column[t, :, part.rows] = now.reshape(self.members, -1)
        if part.carry is not None:
            # The next row begins an episode: after a reset row, or right after an end that resets at once.
            begins = self._of_members(part.absent | end if at_once else part.absent).to(self.device)
            part.carry = torch.where(begins.unsqueeze(2), 0, part.carry)
        part.absent = info.get(ABSENT, end & (not at_once))
        return info

    def _step(self, env: VectorEnv) -> tuple[Any, Any, Any, Any, Any]:
        """The step that was sent: arrays of numpy and an info, or tensors and the final observations."""
        if isinstance(env, TensorEnv):
            *arrays, final = env.step_arrays(env.sent)
            observations, rewards, terminated, truncated = (_tensor(x).to(self.device) for x in arrays)
            info = {} if final is None else {FINAL: self._of_members(final).to(self.device)}
            return observations, rewards, terminated, truncated, info | self._told()
        return env.receive()

    def _told(self) -> dict[str, Any]:
        """The part of an info that environments which give tensors have beside their steps."""
        absent = getattr(self.env, ABSENT, None)
        return {} if absent is None else {ABSENT: _tensor(absent).to(self.device)}

    def _of_members(self, rows: Any) -> Tensor:
        """Rows `[P·n, …]` of any library as `[P, n, …]`."""
        return _tensor(rows).unflatten(0, (self.members, -1))

    def _followed(
        self, ended: Tensor, observations: Tensor, infos: Sequence[Mapping[str, Any]]
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
        self, ended: Tensor, observations: Tensor, infos: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor | None, Tensor]:
        """`_followed` of environments whose arrays are on a device."""
        assert isinstance(self.env, TensorEnv)
        self.env.tell(ended.any())
        steps, rows = ended.nonzero(as_tuple=True)
        if not len(steps):
            return None, observations.new_empty(self.members, 0, self.env.observation_size)
        # Where nobody knows what followed, it is what was before.
        finals = torch.stack([info.get(FINAL, observations[:, t]) for t, info in enumerate(infos)], 1)
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

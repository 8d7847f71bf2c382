"""Environments of Python: any function that makes one, at every call, as many environments as are wanted.

`PythonTask` is to such a function what `EnvPoolTask` is to a task of EnvPool. It asks for one environment to know the
spaces; `seeded(seeds)` then makes one per seed, stepped in this process or, with several threads to step with, in as
many processes. A function that makes many in one, a vector environment of N, is called once for every N seeds: once per
member of a pack (`Joined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from runner.envs.base import Step, VectorEnv
from runner.envs.gymnasium import is_single
from runner.envs.loop import Loop, Maker, Table
from runner.envs.recipe import Recipe
from runner.envs.wrap import wrap_env


class PythonTask(VectorEnv):
    """What a recipe makes: spaces are known, environments are made by `seeded`."""

    def __init__(self, recipe: Recipe, num_envs: int) -> None:
        """Make one, to know its spaces; the first that is asked for will be this one.

        Args:
            recipe: makes one environment, or many in one.
            num_envs: environments of one member.
        """
        self.recipe = recipe
        made = recipe(num_envs)
        self._spare: list[Any] = [made]
        self._single = is_single(made)
        one = made if self._single else wrap_env(made)
        super().__init__(num_envs if self._single else one.num_envs, one.observation_space, one.action_space)
        self.resets_at_once = not self._single and one.resets_at_once

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """New environments with these seeds."""
        if self._single:
            if min(threads or 1, len(seeds)) == 1:
                return InProcess(self, self._make, seeds)
            from runner.envs.processes import Processes

            self.close()
            return Processes(self, partial(self.recipe, self.num_envs), seeds, threads or 1)
        parts = []
        for first in range(0, len(seeds), self.num_envs):
            some = seeds[first : first + self.num_envs]
            parts.append(wrap_env(self._make()).seeded(some, threads))
        return parts[0] if len(parts) == 1 else Joined(parts)

    def _make(self) -> Any:
        return self._spare.pop() if self._spare else self.recipe(self.num_envs)

    def close(self) -> None:
        """Close the one that was made to know its spaces, if nobody took it."""
        while self._spare:
            self._spare.pop().close()


class InProcess(VectorEnv):
    """Environments of one kind, stepped in this process."""

    def __init__(self, like: VectorEnv, maker: Maker, seeds: Sequence[int]) -> None:
        super().__init__(len(seeds), like.observation_space, like.action_space)
        self._table = Table.empty(self.layout, len(seeds))
        self._loop = Loop(maker, seeds, self.layout, self._table)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere."""
        self._loop.reset()
        return self._table.observations.copy(), {}

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        return self.step_some(actions, np.arange(self.num_envs))

    def step_some(self, actions: Any, indices: np.ndarray) -> Step:
        """Step only these environments; see the base class."""
        self._loop.step(np.array(self.actions.checked(actions, self.num_envs)), indices.tolist())
        observations, rewards, terminated, truncated = (column[indices] for column in self._table[:4])
        return observations, rewards, terminated, truncated, {}

    def close(self) -> None:
        """Close the environments."""
        self._loop.close()


class Joined(VectorEnv):
    """Vector environments of one kind as one, their rows one after the other."""

    def __init__(self, parts: Sequence[VectorEnv]) -> None:
        super().__init__(sum(part.num_envs for part in parts), parts[0].observation_space, parts[0].action_space)
        self.parts, self.resets_at_once = list(parts), parts[0].resets_at_once

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere."""
        return np.concatenate([part.reset()[0] for part in self.parts]), {}

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        taken, first, answers, final = self.actions.checked(actions, self.num_envs), 0, [], []
        for part in self.parts:
            answers.append(part.step(taken[first : first + part.num_envs]))
            if "final_observations" in answers[-1][4]:
                which, rows = answers[-1][4]["final_observations"]
                final.append((which + first, rows))
            first += part.num_envs
        columns = [np.concatenate(column) for column in list(zip(*answers, strict=True))[:4]]
        info = {"final_observations": tuple(map(np.concatenate, zip(*final, strict=True)))} if final else {}
        return columns[0], columns[1], columns[2], columns[3], info

    def close(self) -> None:
        """Close them all."""
        for part in self.parts:
            part.close()

"""Environments of Python: any function that makes one, at every call, as many environments as are wanted.

`PythonTask` is to such a function what `EnvPoolTask` is to a task of EnvPool. It asks for one environment to know the
spaces; `seeded(seeds)` then makes one per seed, stepped in this process or, with several threads to step with, in as
many processes. A function that makes many in one, a vector environment of N, is called once for every N seeds: once per
member of a pack (`Joined`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from runner.draws import environment_seeds, fresh_seed
from runner.envs.agents.joint import Joint
from runner.envs.base import Step, VectorEnv, close, of_spec
from runner.envs.gymnasium import is_single
from runner.envs.loop import Loop, Maker, Table
from runner.envs.named.recipe import Recipe
from runner.errors import UserError, shown


def refuse(made: Any) -> VectorEnv:
    """Take nothing that is many environments in one."""
    raise UserError(f"{type(made).__name__} is not one gymnasium.Env")


def check_spaces(name: str, env: Any) -> None:
    """Refuse an environment without spaces of gymnasium."""
    for which in ("observation_space", "action_space"):
        if not isinstance(space := getattr(env, which, None), gymnasium.Space):
            raise UserError(f"env: {name} has as {which} {shown(space, 60)}; allowed: a space of gymnasium")


class PythonTask(VectorEnv):
    """A recipe as a task: spaces are known, environments are made by `seeded`.

    Attributes:
        recipe: makes one environment, or many in one.
        single: it makes one.
        joint: the one that was made, where it has several agents.
    """

    measured = 4  # to make one may take seconds

    def __init__(self, recipe: Recipe, num_envs: int | None, adapter: Callable[[Any], VectorEnv] = refuse) -> None:
        """Make one, to know its spaces; the first that is asked for will be this one.

        Args:
            recipe: makes one environment, or many in one.
            num_envs: environments of one member; None: one, or as many as there are in what is made.
            adapter: makes a `VectorEnv` of many in one.
        """
        self.recipe, self._adapter, self._filmed = recipe, adapter, False
        self._own: VectorEnv | None = None
        self._spare = [recipe(num_envs or 1)]
        self.single = self.splits = is_single(self._spare[0])
        self.joint = self._spare[0] if isinstance(self._spare[0], Joint) else None
        one = self._spare[0] if self.single else adapter(self._spare[0])
        if getattr(one, "agents", None) is not None and self.joint is None:
            why = "makes many environments of several agents in one, of which only one that is made can be used"
            raise UserError(f"env: {recipe.name} {why}; allowed: wrap_env({recipe.name}(…))")
        check_spaces(recipe.name, one)
        count = (num_envs or 1) if self.single else one.num_envs
        if num_envs not in (None, count):
            raise UserError(f"env.num_envs: found {num_envs}; allowed: {count}, of which {recipe.name} makes a vector")
        super().__init__(count, one.observation_space, one.action_space)
        self.resets_at_once = not self.single and one.resets_at_once

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """New environments with these seeds."""
        if self.single:
            if self._filmed or min(threads or 1, len(seeds)) == 1:
                return InProcess(self, partial(self._make, self.num_envs), seeds)
            from runner.envs.processes import Processes

            self._drop()
            return Processes(self, partial(self.recipe, self.num_envs), seeds, threads or 1)
        parts = []
        for first in range(0, len(seeds), self.num_envs):
            some = list(seeds[first : first + self.num_envs])
            part = self._adapter(self._make(len(some)))
            # Where their number is fixed, some of the last are stepped for nothing.
            parts.append(part.seeded(some + some[:1] * (part.num_envs - len(some)), threads))
        return parts[0] if len(parts) == 1 and parts[0].num_envs == len(seeds) else Joined(parts, len(seeds))

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes in environments of this task itself, with fresh seeds; a Runner makes its own."""
        if self._own is None:
            self._own = self.seeded(environment_seeds(fresh_seed(), self.num_envs))
        return self._own.reset()

    def step(self, actions: Any) -> Step:
        """Step those that `reset` has made; see the base class."""
        return self.step_some(actions, np.arange(self.num_envs))

    def step_some(self, actions: Any, indices: np.ndarray) -> Step:
        """Step some of those that `reset` has made; see the base class."""
        if self._own is None:
            raise UserError(f"{self.recipe.name}: step before reset; allowed: reset(), then step(actions)")
        return self._own.step_some(actions, indices)

    @property
    def named(self) -> dict[str, Any]:
        """See the base class."""
        return self.recipe.named

    def check_described(self, task: str | None, arguments: Mapping[str, Any]) -> None:
        """See the base class; where the environment's name is known, all that it is made with is known as well."""
        super().check_described(task, arguments)
        given = {*self.recipe.arguments, *(["wrappers"] if self.recipe.wrappers else ())}
        for name, value in arguments.items():
            if self.named and name not in given:
                made = f"{self.recipe.name} is made without it here"
                allowed = "put it into what is given to wrap_env, with functools.partial or in a function"
                raise UserError(f"env.{name}: the configuration says {shown(value, 60)}; {made}; allowed: {allowed}")

    def drawn(self) -> PythonTask:
        """The same, whose environments can be drawn."""
        # Of a parallel environment the signature rarely tells.
        draws = self.recipe.draws or (self.joint and "rgb_array" in self.joint.metadata.get("render_modes", ()))
        if not draws or not self.single:
            why = "takes no render_mode" if self.single else "makes many environments in one"
            raise UserError(f"{self.recipe.name} cannot be filmed: it {why}")
        self._drop()
        arguments = {**self.recipe.arguments, "render_mode": "rgb_array"}
        drawn = PythonTask(replace(self.recipe, arguments=arguments), self.num_envs, self._adapter)
        drawn._filmed = True
        return drawn

    def _make(self, count: int) -> Any:
        same = count == self.num_envs or not self.recipe.counts
        return self._spare.pop() if self._spare and same else self.recipe(count)

    def _drop(self) -> None:
        """Close the one that was made to know its spaces, if nobody took it."""
        while self._spare:
            close(self._spare.pop())

    def close(self) -> None:
        """Close what this task has made and no Runner has."""
        self._drop()
        if self._own is not None:
            close(self._own)
            self._own = None


class InProcess(VectorEnv):
    """Environments of one kind, stepped in this process."""

    def __init__(self, like: Any, maker: Maker, seeds: Sequence[int | None]) -> None:
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

    def render(self, indices: Sequence[int]) -> np.ndarray:
        """Pictures of these environments; see the base class."""
        pictures: list[Any] = [self._loop.envs[index].render() for index in indices]
        if any(np.ndim(picture) != 3 for picture in pictures):
            raise UserError("render() gives no picture; allowed: an array [H, W, 3] with render_mode rgb_array")
        return np.stack(pictures).astype(np.uint8)

    def close(self) -> None:
        """Close the environments."""
        self._loop.close()


class Single(InProcess):
    """One environment that is made already, as a vector of one."""

    rebuilds = False

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap `env`.

        Raises:
            UserError: a space that is not supported.
        """
        check_spaces(type(env).__name__, env)
        self.env = env
        super().__init__(env, lambda: env, [None])

    @property
    def named(self) -> dict[str, Any]:
        """See the base class."""
        return of_spec(self.env.spec)

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """Reset with this seed from now on; the number of environments cannot change."""
        self.refuse_another_number(type(self.env).__name__, len(seeds))
        self._loop.seeds = list(seeds)
        return self


class Joined(VectorEnv):
    """Vector environments of one kind as one, their rows one after the other, without what is above `rows`."""

    def __init__(self, parts: Sequence[VectorEnv], rows: int) -> None:
        super().__init__(rows, parts[0].observation_space, parts[0].action_space)
        self.parts, self.resets_at_once = list(parts), parts[0].resets_at_once

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere."""
        return np.concatenate([part.reset()[0] for part in self.parts])[: self.num_envs], {}

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        taken = self.actions.checked(actions, self.num_envs)
        ends = np.cumsum([part.num_envs for part in self.parts])
        taken = np.concatenate([taken, np.repeat(taken[-1:], ends[-1] - self.num_envs, 0)])
        answers = [part.step(some) for part, some in zip(self.parts, np.split(taken, ends[:-1]), strict=True)]
        columns = [np.concatenate(column)[: self.num_envs] for column in list(zip(*answers, strict=True))[:4]]
        info = {}
        if self.resets_at_once:
            final = [
                (which + first, rows)
                for first, answer in zip([0, *ends[:-1]], answers, strict=True)
                for which, rows in [answer[4].get("final_observations", (np.zeros(0, int), answer[0][:0]))]
            ]
            which, rows = map(np.concatenate, zip(*final, strict=True))
            info["final_observations"] = which[which < self.num_envs], rows[which < self.num_envs]
        return columns[0], columns[1], columns[2], columns[3], info

    def close(self) -> None:
        """Close them all."""
        for part in self.parts:
            part.close()

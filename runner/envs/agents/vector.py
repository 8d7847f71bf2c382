"""Environments of several agents as a vector of rows, one for each agent of each environment.

`AgentsEnv` has what adapters have in common: they give a `Table` per environment and agent and take actions so; here
these become rows as `runner.envs.agents.roster` lays them out. `Parallel` is the adapter of PettingZoo's parallel API.

Axes: N environment (of all trials) · K agent · R row · O observation of a row.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np

from runner.envs.agents.common import Common
from runner.envs.agents.joint import Joint, Table
from runner.envs.agents.roster import Agents
from runner.envs.base import ABSENT, Step, VectorEnv
from runner.envs.observations import library_of
from runner.envs.spaces import layout
from runner.errors import UserError


class AgentsEnv(VectorEnv):
    """Base of the adapters of environments with several agents.

    Attributes:
        agents: who is who among the rows.
        common: the spaces that all agents are given.
    """

    agents: Agents

    def __init__(
        self, env: VectorEnv, names: Sequence[str], common: Common, state_space: gymnasium.Space[Any] | None = None
    ) -> None:
        """Wrap what steps the environments, those of one trial.

        Args:
            env: N environments, or a task.
            names: of all agents.
            common: their spaces.
            state_space: of what the environment calls its shared state; None: all agents' observations in a row are it.
        """
        self._env, self.rebuilds, self.measured = env, env.rebuilds, env.measured
        self.common, self._state_space, self._of_trial = common, state_space, env.num_envs
        self.padded = common.differs
        self._arrange(Agents.of(names), False)

    def _arrange(self, agents: Agents, states: bool) -> None:
        self.agents, self._shows_states = agents, states
        seen = self.common.seen((self._state_space or self.common.together) if states else None)
        super().__init__(self._of_trial * agents.rows, seen, self.common.action_space)
        self._made(self._of_trial)

    @property
    def environments(self) -> int:
        """See the base class."""
        return self._of_trial

    def arranged(self, share: bool | Sequence[Sequence[str]], states: bool) -> VectorEnv:
        """See the base class."""
        other = copy.copy(self)
        other._arrange(Agents.of(self.agents.names, share), states)
        return other

    def of_each(self, environments: int) -> VectorEnv:
        """See the base class."""
        other = copy.copy(self)
        other._of_trial = environments
        other._made(environments)
        return other

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """See the base class; the seeds are those of every trial's environments."""
        env = self._env.seeded(seeds, threads)
        if env is self._env:
            return self
        other = copy.copy(self)
        other._env = env
        other._made(len(seeds))
        return other

    def drawn(self) -> VectorEnv:
        """See the base class."""
        other = copy.copy(self)
        other._env = self._env.drawn()
        return other

    def close(self) -> None:
        """Close the environments."""
        self._env.close()

    @property
    def named(self) -> dict[str, Any]:
        """See the base class."""
        return self._env.named

    def check_described(self, task: str | None, arguments: Mapping[str, Any]) -> None:
        """See the base class."""
        self._env.check_described(task, arguments)

    def _made(self, environments: int) -> None:
        """Note that there are so many environments, in all trials."""
        if environments % self._of_trial:
            raise UserError(f"{environments} environments are no whole number of trials of {self._of_trial} each")
        self.num_envs = environments * self.agents.rows
        self._fillers = self.agents.fillers(environments // self._of_trial, self._of_trial)
        # The environment and the agent of each row.
        numbers = np.arange(environments)[:, None].repeat(len(self.agents.names), 1)
        self._of_row = self.agents.rows_of(numbers, self._of_trial)

    def begun(self) -> Table:
        """The table after a reset of all environments; what is no observation or presence in it is not read."""
        raise NotImplementedError

    def stepped(self, actions: np.ndarray, which: np.ndarray) -> Table:
        """The table of these environments after a step of theirs, by the actions `[N, K, …]` of all."""
        raise NotImplementedError

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere."""
        self._table = Table(*(None if column is None else np.array(column) for column in self.begun()))
        return self._seen(), {ABSENT: self._absent()}

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        return self.step_some(actions, np.arange(self.num_envs))

    def step_some(self, actions: Any, indices: np.ndarray) -> Step:
        """Step the environments of these rows; see the base class."""
        taken = self.agents.of_rows(self.actions.checked(actions, self.num_envs), self._of_trial)
        which, before, filled = np.unique(self._of_row[indices]), self._absent(), self._fillers
        for column, new in zip(self._table, self.stepped(taken, which), strict=True):
            if column is not None:
                column[which] = new
        rewards, terminated, truncated = (
            np.where(before | filled, column.dtype.type(0), self.agents.rows_of(column, self._of_trial))
            for column in (self._table.rewards, self._table.terminated, self._table.truncated)
        )
        over = ~self._table.present.any(1)[self._of_row]
        columns = (self._seen(), rewards.astype(np.float32, copy=False), terminated, truncated, self._absent(), over)
        if len(indices) < self.num_envs:
            columns = tuple(column[indices] for column in columns)
        return *columns[:4], {ABSENT: columns[4], "episode_ends": columns[5]}

    def render(self, indices: Sequence[int]) -> np.ndarray:
        """The pictures of the environments of these rows."""
        return self._env.render(self._of_row[list(indices)].tolist())

    def _absent(self) -> np.ndarray:
        return ~self.agents.rows_of(self._table.present, self._of_trial) | self._fillers

    def _seen(self) -> np.ndarray:
        """Observations `[R, O]`, with the shared state where it is shown."""
        cells, states = self._table.observations, self._table.states
        if self._shows_states:
            cells = with_states(cells, states, self.common)
        rows = self.agents.rows_of(cells, self._of_trial)
        return rows.astype(self.layout.dtype, copy=False)


def with_states(cells: Any, states: Any, common: Common) -> Any:
    """Observations `[N, K, O]` with the shared state beside each, arrays of any library.

    Args:
        cells: the observations.
        states: the state, `[N, S]`, or `[N, K, S]` where each agent has its own; None: it is all observations in a row.
        common: the spaces of the observations.
    """
    library = library_of(cells)
    if states is None:
        states = library.concat([cells[:, agent, :width] for agent, width in enumerate(common.widths)], 1)
    if len(states.shape) == 2:
        states = library.broadcast_to(states[:, None], (*cells.shape[:2], states.shape[1]))
    return library.concat((cells, states), 2)


class Parallel(AgentsEnv):
    """Environments with PettingZoo's parallel API."""

    def __init__(self, make: Callable[[bool], VectorEnv], joint: Joint, env: VectorEnv) -> None:
        """Wrap a vector of `Joint` environments, or a task that makes one.

        Args:
            make: makes such a one whose observations have the shared state, or have not.
            joint: one of the environments.
            env: what `make(False)` has made.
        """
        self._make = make
        super().__init__(env, joint.names, joint.common, joint.state_space)

    def arranged(self, share: bool | Sequence[Sequence[str]], states: bool) -> VectorEnv:
        """See the base class."""
        other = super().arranged(share, states)
        assert isinstance(other, Parallel)
        if states != self._shows_states and self._state_space is not None:
            other._env = self._make(states)
        return other

    def begun(self) -> Table:
        """See the base class."""
        return self._told(self._env.reset()[0])

    def stepped(self, actions: np.ndarray, which: np.ndarray) -> Table:
        """See the base class."""
        first = self.actions.low.reshape(self.actions.shape) if self.actions.discrete else 0
        return self._told(self._env.step_some((actions - first).reshape(len(actions), -1), which)[0])

    def _told(self, rows: np.ndarray) -> Table:
        columns = layout(self.common.observation_space)
        return Table.of(rows, len(self.agents.names), columns.stop, columns.dtype)


def of_instance(env: Any) -> Parallel:
    """One parallel environment that is made already, as a vector of one."""
    from runner.envs.python import Single

    joint = Joint(env)
    return Parallel(lambda states: Single(Joint(env, states)), joint, Single(joint))


def of_recipe(recipe: Any, num_envs: int | None, adapter: Callable[[Any], VectorEnv]) -> VectorEnv:
    """A recipe of environments of Python as a task, of one agent or of several."""
    from runner.envs.python import PythonTask

    task = PythonTask(recipe, num_envs, adapter)
    if task.joint is None:
        return task

    def make(states: bool) -> PythonTask:
        task.close()
        return PythonTask(replace(recipe, states=states), num_envs, adapter)

    return Parallel(make, task.joint, task)

"""Environments of several agents that are many in one, with their arrays on a device: Isaac Lab's `DirectMARLEnv`.

The contract is what skrl reads: `possible_agents`, `num_envs`, `observation_spaces` and `action_spaces` by agent;
`reset` and `step` take and give dicts by agent of arrays `[N, …]`; `state()` gives the shared state, one for all or one
for each agent. An environment is reset in the step in which all its agents are terminated, or all are truncated. An
agent whose episode has ended before that is not there until then.

Axes: N environment · K agent · R row.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Discrete

from runner.envs.agents.common import Common
from runner.envs.agents.roster import Agents
from runner.envs.agents.vector import with_states
from runner.envs.base import VectorEnv
from runner.envs.observations import child, library_of
from runner.envs.spaces import ActionSpace, layout
from runner.envs.tensors import Arrays, TensorEnv, attribute
from runner.errors import UserError


def is_many_of_several(env: Any) -> bool:
    """Many environments of several agents in one."""
    names = ("possible_agents", "num_envs", "observation_spaces", "action_spaces")
    return all(attribute(env, name, None) is not None for name in names)


class TensorAgents(TensorEnv):
    """Many environments of several agents in one; see the module.

    Attributes:
        agents: who is who among the rows.
        common: the spaces that all agents are given.
    """

    agents: Agents

    def __init__(self, env: Any) -> None:
        """Wrap `env`.

        Raises:
            UserError: spaces that are not supported, or have nothing in common.
        """
        self.env, self._of_trial = env, int(attribute(env, "num_envs"))
        self._names = tuple(attribute(env, "possible_agents"))
        observed, taken = (attribute(env, name) for name in ("observation_spaces", "action_spaces"))
        self.common = Common.of({n: observed[n] for n in self._names}, {n: taken[n] for n in self._names})
        self.padded = self.common.differs
        self._own_actions = [(taken[name], ActionSpace.of(taken[name])) for name in self._names]
        states = attribute(env, "state_spaces", None)
        state = states.get(self._names[0]) if isinstance(states, Mapping) else attribute(env, "state_space", None)
        self._state_space = state if isinstance(state, gymnasium.Space) else None
        self._seed: int | None = None
        self._before: Any = None
        self._knows_final, self.resets_at_once = False, True
        self._arrange(Agents.of(self._names), False)

    def _arrange(self, agents: Agents, states: bool) -> None:
        self.agents, self._shows_states = agents, states
        seen = self.common.seen((self._state_space or self.common.together) if states else None)
        rows = self._of_trial * agents.rows
        VectorEnv.__init__(self, rows, seen, self.common.action_space)

    @property
    def environments(self) -> int:
        """See the base class."""
        return self._of_trial

    def arranged(self, share: bool | Sequence[Sequence[str]], states: bool) -> VectorEnv:
        """See the base class."""
        other = copy.copy(self)
        other._arrange(Agents.of(self._names, share), states)
        return other

    def reset_arrays(self) -> Any:
        """Start new episodes → observations `[R, O]`, which nobody else writes into."""
        observations = self._reset_observations()
        self._before, self._present = self._rows(observations)
        self._fillers = self._constant(self.agents.fillers(1, self._of_trial))
        self.absent = self._absent()
        return self._before

    def step_arrays(self, actions: Any) -> Arrays:
        """One step of every environment; see the base class."""
        allowed = "(observations, rewards, terminated, truncated, infos)"
        answer = self._parts("step", self.env.step(self._by_agent(actions)), allowed, 5)
        library, was, before = library_of(self._before), self.absent, self._before
        rewards = self._cells("rewards", answer[1], library.float32, 0)
        terminated, truncated = (
            self._cells(name, flags, library.bool, True)
            for name, flags in zip(("terminations", "truncations"), answer[2:4], strict=True)
        )
        over = (library.all(terminated, 1) | library.all(truncated, 1))[:, None]
        self._before, there = self._rows(answer[0])
        self._present = there & (over | ~(terminated | truncated))
        rows = [self.agents.rows_of(cells, self._of_trial) for cells in (rewards, terminated, truncated)]
        gained, ended, cut = (library.where(was, library.zeros_like(row), row) for row in rows)
        self.absent = self._absent()
        # Of those that have been reset nobody knows what they ended with; the others show it.
        reset = self.agents.rows_of(library.broadcast_to(over, terminated.shape), self._of_trial)
        final = library.where(reset[:, None], before, self._before)
        return Arrays(self._before, gained, ended, cut, final)

    def _absent(self) -> Any:
        return ~self.agents.rows_of(self._present, self._of_trial) | self._fillers

    def _rows(self, observations: Any) -> tuple[Any, Any]:
        """Observations by agent → `[R, O]`, and which agents have one `[N, K]`."""
        if not isinstance(observations, Mapping) or not observations:
            raise UserError(f"{self._name}: observations are {type(observations).__name__}; allowed: a dict by agent")
        flat = {
            number: self.common.padded(number, self._columns(parts, observations[name], f"observations of {name}"))
            for number, (name, parts) in enumerate(zip(self._names, self.common.layouts, strict=True))
            if observations.get(name) is not None
        }
        some = next(iter(flat.values()))
        library = library_of(some)
        cells = library.stack([flat.get(number, library.zeros_like(some)) for number in range(len(self._names))], 1)
        if self._shows_states:
            cells = with_states(cells, self._shared(library), self.common)
        self._before = cells
        there = np.array([[number in flat for number in range(len(self._names))]] * self._of_trial)
        rows = self.agents.rows_of(cells, self._of_trial)
        return library.asarray(rows, dtype=getattr(library, self.layout.dtype.name)), self._constant(there)

    def _shared(self, library: Any) -> Any:
        """The shared state `[N, S]`, or `[N, K, S]`; None where the environment has none of its own."""
        if self._state_space is None:
            return None
        states, parts = attribute(self.env, "state")(), layout(self._state_space)
        if not isinstance(states, Mapping):
            return self._columns(parts, states, "states")
        return library.stack([self._columns(parts, child(states, name), "states") for name in self._names], 1)

    def _cells(self, what: str, values: Mapping[str, Any], dtype: Any, missing: Any) -> Any:
        """One number for each environment and agent `[N, K]`; `missing` for agents that are not told of."""
        told = {name: values.get(name) for name in self._names}
        nobody = self._constant(np.full(self._of_trial, missing))
        columns = [
            self._column(f"{what} of {name}", nobody if column is None else column, dtype)
            for name, column in told.items()
        ]
        return library_of(self._before).stack(columns, 1)

    def _by_agent(self, actions: Any) -> dict[str, Any]:
        """Actions of rows as each agent's own, copies: some environments write into them."""
        library = library_of(self._before)
        if not isinstance(actions, np.ndarray) and library_of(actions) is not library:
            actions = library.from_dlpack(actions)
        cells, found = self.agents.of_rows(self._constant(actions), self._of_trial), {}
        for number, (name, (space, own)) in enumerate(zip(self._names, self._own_actions, strict=True)):
            action = cells[:, number].reshape(self._of_trial, -1)
            if self.common.starts is not None:
                action = action + self._constant(self.common.starts[number] - self.actions.low)
            kind = own.dtype if library.__name__ in ("torch", "numpy") else np.dtype(f"{own.dtype.kind}4")
            shape = (1,) if isinstance(space, Discrete) else own.shape
            taken = library.asarray(action, dtype=getattr(library, kind.name), copy=True)
            found[name] = taken.reshape(self._of_trial, *shape)
        return found

    def _constant(self, array: Any) -> Any:
        """An array of numpy in the environment's library, where its own arrays are."""
        library = library_of(self._before)
        device = {"device": self._before.device} if library.__name__ == "torch" else {}
        return library.asarray(array, **device) if isinstance(array, np.ndarray) else array

"""Parallel environments of PettingZoo, each as one environment of gymnasium whose observation is a table of agents.

So whatever steps, watches, checks or sends to other processes environments of Python does that with these too. A row of
the table is an agent's: its observation, reward, two kinds of end, and whether it is there to act next; the shared
state follows. An agent is there while `agents` has it and this step has not ended its episode. The episode of the
environment ends when nobody is there, and its next step is a reset.

Axes: N environment · K agent · O observation of an agent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, MultiDiscrete

from runner.envs.agents.common import Common
from runner.envs.base import close
from runner.envs.observations import as_array, flatten_observations
from runner.envs.spaces import LEGAL, MASK, ActionSpace, layout
from runner.errors import UserError

REWARD, TERMINATED, TRUNCATED, PRESENT = range(-4, 0)
"""Columns of the table after an observation."""
MEMBERS = ("possible_agents", "observation_space", "action_space")


class Table(NamedTuple):
    """One step of N environments, per agent; `states` is None where nobody asked for the shared state.

    Arrays of any library.
    """

    observations: Any
    rewards: Any
    terminated: Any
    truncated: Any
    present: Any
    states: Any

    @classmethod
    def of(cls, rows: np.ndarray, agents: int, columns: int, dtype: np.dtype[Any]) -> Table:
        """The table in rows of what `Joint` gives, `[N, K·(O + 4) + S]`."""
        stop = agents * (columns + 4)
        cells = rows[:, :stop].reshape(-1, agents, columns + 4)
        terminated, truncated, present = (cells[..., column] > 0 for column in (TERMINATED, TRUNCATED, PRESENT))
        states = rows[:, stop:] if rows.shape[1] > stop else None
        return cls(cells[..., :columns].astype(dtype), cells[..., REWARD], terminated, truncated, present, states)


def is_parallel(env: Any) -> bool:
    """One environment with PettingZoo's parallel API, not many in one."""
    alone = getattr(env, "num_envs", None) is None and not takes_turns(env)
    return alone and all(hasattr(env, name) for name in MEMBERS) and callable(env.observation_space)


def takes_turns(env: Any) -> bool:
    """An environment with PettingZoo's other API, in which agents act one after the other."""
    return hasattr(env, "agent_iter")


def refuse_turns(env: Any) -> None:
    """Raise a `UserError` about such an environment."""
    if takes_turns(env):
        raise UserError(
            f"env: in {type(env).__qualname__} agents act in turns (PettingZoo's AEC API); allowed: environments "
            "in which they act at once, of its parallel API, such as parallel_env() makes"
        )


class Joint(gymnasium.Env[np.ndarray, np.ndarray]):
    """A parallel environment as one environment.

    Attributes:
        names: of the agents.
        common: the spaces that they are given.
        state_space: of the shared state; None where the environment has none.
    """

    def __init__(self, env: Any, states: bool = False) -> None:
        """Wrap `env`; with `states`, the shared state is a part of the observation.

        Raises:
            UserError: it has no agents, or their spaces have nothing in common.
        """
        self.env, self._made = env, f"{type(env).__module__}.{type(env).__qualname__}"
        self.names = tuple(map(str, env.possible_agents))
        self._keys = list(env.possible_agents)
        if not self.names:
            raise UserError(f"{self._made}: possible_agents is empty; allowed: all agents that there may ever be")
        if twice := [name for name, count in Counter(self.names).items() if count > 1]:
            raise UserError(f"{self._made}: possible_agents has {twice[0]} twice; allowed: each agent once")
        observed, taken = (
            {name: space(key) for name, key in zip(self.names, self._keys, strict=True)}
            for space in (env.observation_space, env.action_space)
        )
        self.common = Common.of(observed, taken)
        state = getattr(env, "state_space", None)
        self.state_space = state if isinstance(state, gymnasium.Space) else None
        self._state = layout(self.state_space, where="state space") if states and self.state_space is not None else None
        self.render_mode, self.metadata = getattr(env, "render_mode", None), getattr(env, "metadata", {})
        self._own = [ActionSpace.of(space) for space in taken.values()]
        self._cells = np.zeros((len(self.names), self.common.columns + 4), np.float32)
        self._states = np.zeros((1, self._state.stop if self._state else 0), np.float32)
        self.observation_space = Box(-np.inf, np.inf, (self._cells.size + self._states.size,), np.float32)
        self.action_space = _joint_space(self.common.action_space, len(self.names))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode; the info has what agents say of possible actions, in name only."""
        answer = self.env.reset(seed=seed) if options is None else self.env.reset(seed=seed, options=options)
        observations, infos = answer if isinstance(answer, tuple | list) and len(answer) == 2 else (answer, {})
        if not isinstance(observations, Mapping):
            raise UserError(f"{self._made}: reset gives {type(answer).__name__}; allowed: (observations, infos)")
        self._cells[:] = 0
        if not (live := self._live()):
            raise UserError(f"{self._made}: nobody is in agents after a reset; allowed: one agent or more to act first")
        for row, key in enumerate(self._keys):
            if key in live:
                self._see(row, observations)
            self._cells[row, PRESENT] = key in live
        each = infos.values() if isinstance(infos, Mapping) else ()
        said = {name for info in each if isinstance(info, Mapping) for name in info}
        return self._row(), dict.fromkeys(said & {MASK, LEGAL})

    def step(self, action: np.ndarray) -> Any:
        """Step all agents that are there; the reward is their sum."""
        answer = self.env.step(self._actions(action))
        if not isinstance(answer, tuple | list) or len(answer) != 5:
            raise UserError(
                f"{self._made}: step gives {_kind(answer)}; allowed: (observations, rewards, terminations, "
                "truncations, infos), five dicts by agent"
            )
        observations, rewards, terminated, truncated, _ = answer
        live, cells = self._live(), self._cells
        for row, key in enumerate(self._keys):
            was = bool(cells[row, PRESENT])
            ends = [was and bool(flags.get(key, False)) for flags in (terminated, truncated)]
            stays = key in live and not (terminated.get(key, False) or truncated.get(key, False))
            if was and not stays and not any(ends):
                raise UserError(
                    f"{self._made}: {key} is no longer in agents, but was neither terminated nor truncated; allowed: "
                    "to say with its last step which it was"
                )
            if was and key not in rewards:
                raise UserError(f"{self._made}: step gives no reward of {key}, which was there; allowed: one of each")
            if stays or (was and key in observations):
                self._see(row, observations)
            elif not was:
                cells[row] = 0
            cells[row, REWARD:] = (self._number(key, rewards[key]) if was else 0.0, *ends, stays)
        over = not cells[:, PRESENT].any()
        cut = over and bool(cells[:, TRUNCATED].any())
        return self._row(), float(cells[:, REWARD].sum()), over and not cut, cut, {}

    def render(self) -> Any:
        """The picture of the environment."""
        return self.env.render()

    def close(self) -> None:
        """Close the environment."""
        close(self.env)

    def _live(self) -> set[Any]:
        live = set(self.env.agents)
        if unknown := live.difference(self._keys):
            raise UserError(
                f"{self._made}: {min(map(str, unknown))} is in agents, but not in possible_agents "
                f"({', '.join(self.names)}); allowed: agents that were announced there"
            )
        return live

    def _see(self, row: int, observations: Mapping[Any, Any]) -> None:
        key, parts, columns = self._keys[row], self.common.layouts[row], self.common.columns
        if key not in observations:
            raise UserError(f"{self._made}: gives no observation of {key}, which is in agents; allowed: one of each")
        value = observations[key]
        plain = not parts.children and self.common.gathers[row] is None
        if plain and type(value) is np.ndarray and value.shape == parts.shape:  # most are
            self._cells[row, :columns] = value.reshape(-1)
            return
        own = np.zeros((1, parts.stop), np.float32)
        try:
            flatten_observations(parts, value, own)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            space = self.env.observation_space(key)
            raise UserError(f"{self._made}: an observation of {key} does not fit its space {space}: {error}") from None
        self._cells[row, :columns] = self.common.padded(row, own)[0]

    def _number(self, key: Any, reward: Any) -> float:
        if type(reward) is float:
            return reward
        array = as_array(reward)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise UserError(f"{self._made}: step gives as reward of {key} {_kind(reward)}; allowed: one number")
        return float(array.item())

    def _actions(self, action: np.ndarray) -> dict[Any, Any]:
        """The agents' own actions, of those that `agents` has."""
        cells = np.asarray(action).reshape(len(self.names), -1)
        live, found = set(self.env.agents), {}
        for row, key in enumerate(self._keys):
            if key in live:
                own = cells[row] if self.common.starts is None else cells[row] + self.common.starts[row]
                own = own.reshape(self._own[row].shape).astype(self._own[row].dtype)
                found[key] = own if own.shape else own[()]
        return found

    def _row(self) -> np.ndarray:
        """The table and the state as one observation, a copy."""
        if self._state is not None:
            flatten_observations(self._state, self.env.state(), self._states)
        return np.concatenate((self._cells.ravel(), self._states[0]))


def _joint_space(space: gymnasium.Space[Any], agents: int) -> gymnasium.Space[Any]:
    """The actions of all agents in a row, categories counted from 0."""
    one = ActionSpace.of(space)
    if one.discrete:
        return MultiDiscrete(np.tile(one.sizes, agents))
    return Box(np.tile(one.low, agents), np.tile(one.high, agents), dtype=np.float32)


def _kind(value: Any) -> str:
    return f"{len(value)} things" if isinstance(value, tuple | list) else f"{type(value).__name__} {value!r:.40}"


def joined(env: Any, states: bool = False) -> Any:
    """The environment, as a `Joint` if it is a parallel one; as a wrapper of a recipe."""
    refuse_turns(env)
    return Joint(env, states) if is_parallel(env) else env

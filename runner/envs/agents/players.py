"""EnvPool's tasks of several players that act at once: all are there for a whole episode, which ends for all."""

from __future__ import annotations

from typing import Any

import numpy as np

from runner.envs.agents.common import Common
from runner.envs.agents.joint import Table
from runner.envs.agents.vector import AgentsEnv
from runner.envs.base import VectorEnv
from runner.envs.envpool import EnvPool, EnvPoolTask


class Players(AgentsEnv):
    """Environments of EnvPool with several players, or a task of such.

    The pool gives the players' rows one environment after the other, and takes their actions with the environment of
    each.
    """

    def __init__(self, env: EnvPool | EnvPoolTask, players: int) -> None:
        """Wrap a pool or task of so many players."""
        names = [f"agent_{number}" for number in range(players)]
        common = Common.of(dict.fromkeys(names, env.observation_space), dict.fromkeys(names, env.action_space))
        super().__init__(env, names, common)

    def begun(self) -> Table:
        """See the base class."""
        observations, _ = self._pool.reset()
        return self._told(observations, np.zeros(self._env.num_envs, bool))

    def stepped(self, actions: np.ndarray, which: np.ndarray) -> Table:
        """See the base class; all are stepped, since EnvPool waits for ever for what some of several players do."""
        name, array = list(self._pool.spec.action_array_spec.items())[-1]
        numbers = np.arange(len(actions), dtype=np.int32)
        named = {
            name: actions.reshape(-1, *self.actions.shape).astype(array.dtype),
            "players.env_id": numbers.repeat(len(self.agents.names)),
            "env_id": numbers,
        }
        observations, rewards, terminated, truncated, _ = self._pool.step(named)
        table = self._told(observations, terminated | truncated, rewards, terminated, truncated)
        return Table(*(None if column is None else column[which] for column in table))

    @property
    def _pool(self) -> Any:
        assert isinstance(self._env, EnvPool)
        return self._env.pool

    def _told(self, observations: Any, over: np.ndarray, rewards: Any = 0, *ends: np.ndarray) -> Table:
        shape = (len(over), len(self.agents.names))
        flat = self._env.flatten(observations, shape[0] * shape[1]).reshape(*shape, -1)
        terminated, truncated = (np.repeat(flags[:, None], shape[1], 1) for flags in ends or (over, over))
        rewards = np.asarray(rewards, np.float32)
        given = np.broadcast_to(rewards.reshape((-1, shape[1]) if rewards.ndim else ()), shape)
        return Table(flat, given, terminated, truncated, np.repeat(~over[:, None], shape[1], 1), None)


def of_pool(env: EnvPool) -> VectorEnv:
    """A pool, of one player or of several."""
    players = env.pool.config["max_num_players"]
    return env if players == 1 else Players(env, players)


def of_task(task: EnvPoolTask) -> VectorEnv:
    """A task, of one player or of several."""
    return task if task.players == 1 else Players(task, task.players)

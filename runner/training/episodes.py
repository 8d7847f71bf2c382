"""Returns and lengths of finished episodes, per member, reset rows left out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runner.envs.agents.roster import Agents
from runner.envs.base import VectorEnv
from runner.training import tracking

WINDOW = 100
"""Episodes over which a member's score is averaged."""


class _Rewards:
    """Number, sum, greatest and least of each member's rewards, `[P]`, whatever the number of rollouts."""

    def __init__(self, members: int) -> None:
        self.count, self.sum = np.zeros(members, np.int64), np.zeros(members)
        self.greatest, self.least = np.full(members, -np.inf), np.full(members, np.inf)

    def add(self, rewards: np.ndarray, valid: np.ndarray) -> None:
        """Count the valid ones of a rollout `[T, P, N]`."""
        self.count += valid.sum((0, 2))
        self.sum += np.where(valid, rewards, 0).sum((0, 2), dtype=np.float64)
        self.greatest = np.maximum(self.greatest, np.where(valid, rewards, -np.inf).max((0, 2)))
        self.least = np.minimum(self.least, np.where(valid, rewards, np.inf).min((0, 2)))


class Episodes:
    """Follows every environment of a pack, environments of a member side by side.

    Attributes:
        members: P.
        envs: N, environments of one member.
    """

    def __init__(self, members: int, envs: int) -> None:
        self.members, self.envs = members, envs
        self._returns = np.zeros(members * envs)
        self._lengths = np.zeros(members * envs, np.int64)
        self._recent: list[deque[float]] = [deque(maxlen=WINDOW) for _ in range(members)]
        self._finished: list[list[tuple[float, int]]] = [[] for _ in range(members)]
        self._rewards = _Rewards(members)

    @np.errstate(over="ignore", invalid="ignore")
    def add(
        self, rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray, infos: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count the steps of a rollout; `[T, P·N]` each.

        The score's own rewards and ends in `infos`, one per step, win over the learner's.
        """
        shape = len(rewards), self.members, self.envs
        self._rewards.add(rewards.reshape(shape), valid.reshape(shape))
        for step in zip(rewards, ended, valid, infos, strict=True):
            self._add(*step)

    def _add(self, rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray, info: Mapping[str, Any]) -> None:
        self._returns += np.where(valid, info.get("episode_rewards", rewards), 0)
        self._lengths += valid
        ended = info.get("episode_ends", ended)
        if not ended.any():
            return
        for index in np.flatnonzero(ended):
            episode = (float(self._returns[index]), int(self._lengths[index]))
            self._finished[index // self.envs].append(episode)
            self._recent[index // self.envs].append(episode[0])
        self._returns[ended] = 0
        self._lengths[ended] = 0

    def scores(self) -> list[float]:
        """Per member the mean return of its last `WINDOW` episodes, NaN before the first."""
        return [float(np.mean(recent)) if recent else float("nan") for recent in self._recent]

    @np.errstate(over="ignore", invalid="ignore")
    def drain(self) -> list[dict[str, float]]:
        """Per member, skrl's reward and episode metrics since the last call."""
        rewards, self._rewards = self._rewards, _Rewards(self.members)
        out: list[dict[str, float]] = []
        for member in range(self.members):
            values: dict[str, float] = {}
            if count := rewards.count[member]:
                values[tracking.REWARD_MAX] = float(rewards.greatest[member])
                values[tracking.REWARD_MIN] = float(rewards.least[member])
                values[tracking.REWARD_MEAN] = float(rewards.sum[member] / count)
            if self._finished[member]:
                returns, lengths = np.array(self._finished[member]).T
                _spread(values, returns, tracking.RETURN_MAX, tracking.RETURN_MIN, tracking.RETURN_MEAN)
                _spread(values, lengths, tracking.LENGTH_MAX, tracking.LENGTH_MIN, tracking.LENGTH_MEAN)
                self._finished[member].clear()
            out.append(values)
        return out


class Gathered(Episodes):
    """Follows the environments of all processes that train together, each of which steps a part of every member's."""

    def __init__(self, members: int, envs: int, processes: int, gather: Callable[[np.ndarray], np.ndarray]) -> None:
        """Follow `envs` environments of every member here; `gather` gives what each process gives it, in order."""
        super().__init__(members, envs * processes)
        self._gather = gather

    def add(
        self, rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray, infos: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count the steps of a rollout in all processes; see the base class."""
        scored = [info.get("episode_rewards", now) for info, now in zip(infos, rewards, strict=True)]
        over = [info.get("episode_ends", now) for info, now in zip(infos, ended, strict=True)]
        own = np.array([rewards, ended, valid, scored, over], np.float64)
        every = self._gather(own.reshape(5, len(rewards), self.members, -1))
        every = np.moveaxis(every, 0, 3).reshape(5, len(rewards), -1)
        flags = every > 0
        steps = [{"episode_rewards": x, "episode_ends": y} for x, y in zip(every[3], flags[4], strict=True)]
        super().add(every[0].astype(rewards.dtype), flags[1], flags[2], steps)


class Teams:
    """Follows every environment of several agents: its team's return, which is its score, and that of each agent.

    An episode is over when its environment says so in `infos`, else when it is for all agents that were there; numbers
    are per trial.
    """

    def __init__(self, agents: Agents, trials: int, envs: int, mean: bool) -> None:
        """Follow `envs` environments of each trial; `mean` says that a team's reward is not the sum, but the mean."""
        self._agents, self._trials, self._envs, self._mean = agents, trials, envs, mean
        self._team, self._each = Episodes(trials, envs), Episodes(trials * len(agents.names), envs)

    @np.errstate(over="ignore", invalid="ignore")
    def add(
        self, rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray, infos: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count the steps of a rollout; `[T, P·N]` each, a row for each agent."""
        nothing: list[Mapping[str, Any]] = [{}] * len(infos)
        rewards, ended, valid = (self._agents.of_rows(x.T, self._envs) for x in (rewards, ended, valid))
        received, over, there = team(rewards, ended, valid, self._mean)
        if infos and "episode_ends" in infos[0]:
            ends = np.stack([info["episode_ends"] for info in infos], -1)
            over = self._agents.of_rows(ends, self._envs).any(1)
        self._team.add(received.T, over.T, there.T, nothing)
        parts = [x.reshape(self._trials, self._envs, *x.shape[1:]).swapaxes(1, 2) for x in (rewards, ended, valid)]
        rewards, ended, valid = (x.reshape(-1, x.shape[-1]).T for x in parts)
        self._each.add(rewards, ended, valid, nothing)

    def scores(self) -> list[float]:
        """Per trial the mean return of its team's last `WINDOW` episodes, NaN before the first."""
        return self._team.scores()

    def drain(self) -> list[dict[str, float]]:
        """Per trial skrl's reward and episode metrics since the last call: of the team, and of each agent."""
        found, each, names = self._team.drain(), self._each.drain(), self._agents.names
        for place, numbers in enumerate(each):
            trial, agent = divmod(place, len(names))
            found[trial] |= {tracking.of(tag, names[agent]): number for tag, number in numbers.items()}
        return found


def team(rewards: np.ndarray, ended: np.ndarray, valid: np.ndarray, mean: bool) -> tuple[Any, Any, Any]:
    """Rewards, ends and validity of a team, `[N, …]`, by those of its agents, `[N, K, …]`."""
    received = np.where(valid, rewards, np.float32(0)).sum(1)
    over = (valid & ended).any(1) & ~(valid & ~ended).any(1)
    return received / rewards.shape[1] if mean else received, over, valid.any(1)


def following(
    env: VectorEnv, members: int, team_return: str, processes: int, gather: Callable[[np.ndarray], np.ndarray]
) -> Episodes | Teams:
    """The counting of episodes of an environment's rows, members side by side; see `Gathered` for several processes."""
    if processes > 1:
        return Gathered(members, env.num_envs // members, processes, gather)
    if env.agents is None:
        return Episodes(members, env.num_envs // members)
    trials = members // len(env.agents.groups)
    return Teams(env.agents, trials, env.num_envs // (trials * env.agents.rows), team_return == "mean")


def _spread(values: dict[str, float], numbers: np.ndarray, largest: str, least: str, mean: str) -> None:
    values[largest], values[least], values[mean] = (
        float(numbers.max()),
        float(numbers.min()),
        float(numbers.mean()),
    )

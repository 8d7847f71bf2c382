"""Two points that agents push, each its own, with PettingZoo's parallel API, without PettingZoo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box

NAMES = ("left", "right")
LENGTH = 5


class One(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point that an action pushes, for five steps; nothing is drawn."""

    observation_space, action_space = Box(-9, 9, (2,), np.float32), Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._at, self._steps = 0.5, 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> Any:
        self._at += 0.25 * float(np.ravel(action)[0])
        self._steps += 1
        return self._seen(), -abs(self._at), False, self._steps == LENGTH, {}

    def _seen(self) -> np.ndarray:
        return np.array([self._at, self._steps / LENGTH], np.float32)


class Two:
    """Two such points that know nothing of one another, with PettingZoo's parallel API."""

    metadata: ClassVar[dict[str, Any]] = {}
    possible_agents: Sequence[str] = NAMES

    def __init__(self) -> None:
        self._each = {name: One() for name in self.possible_agents}
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Box:
        return One.observation_space

    def action_space(self, agent: str) -> Any:
        return One.action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.agents = list(self.possible_agents)
        return {name: one.reset()[0] for name, one in self._each.items()}, {}

    def step(self, actions: dict[str, Any]) -> Any:
        found = {name: self._each[name].step(action) for name, action in actions.items()}
        columns = [{name: step[place] for name, step in found.items()} for place in range(5)]
        self.agents = [name for name in self.agents if not (columns[2][name] or columns[3][name])]
        return tuple(columns)

    def close(self) -> None:
        pass

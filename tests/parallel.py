"""A parallel environment of PettingZoo's API, without PettingZoo: agents come and go by a timetable.

Its reward is the action; an observation is (seed, episode, time, place of the agent).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

from runner.envs.spaces import MASK


class Stay(NamedTuple):
    """The time of an agent in every episode."""

    arrives: int
    steps: int
    terminated: bool = True


TIMETABLE = {"early": Stay(0, 2), "whole": Stay(0, 5, terminated=False), "late": Stay(2, 2)}


class Timetable:
    """Agents by their timetable; an episode ends when nobody is there.

    Attributes:
        taken: the actions of every step.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "timetable"}

    def __init__(self, stays: Mapping[str, Stay] | None = None, actions: gymnasium.Space[Any] | None = None) -> None:
        self.stays = dict(stays or TIMETABLE)
        self.possible_agents, self.agents = list(self.stays), list[str]()
        self.seed = self.time = 0
        self.episode = -1
        self.taken: list[dict[str, Any]] = []
        self._action_space = actions or Discrete(4)

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """The same for all."""
        return Box(-np.inf, np.inf, (4,), np.float32)

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """The same for all."""
        return self._action_space

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode."""
        self.seed = self.seed if seed is None else seed
        self.time, self.episode = 0, self.episode + 1
        self.agents = [name for name, stay in self.stays.items() if stay.arrives == 0]
        return {name: self._seen(name) for name in self.agents}, {name: {} for name in self.agents}

    def step(self, actions: Mapping[str, Any]) -> Any:
        """One step of those who are there."""
        assert set(actions) == set(self.agents)
        self.taken.append(dict(actions))
        acted, self.time = self.agents, self.time + 1
        leaves = {name for name in acted if self.time == self.stays[name].arrives + self.stays[name].steps}
        comes = [name for name, stay in self.stays.items() if stay.arrives == self.time]
        self.agents = [name for name in self.possible_agents if name in {*acted, *comes} - leaves]
        told = [*acted, *comes]
        return (
            {name: self._seen(name) for name in told},
            {name: float(np.sum(actions[name])) for name in acted},
            {name: name in leaves and self.stays[name].terminated for name in acted},
            {name: name in leaves and not self.stays[name].terminated for name in acted},
            {name: {} for name in told},
        )

    def render(self) -> np.ndarray:
        """A picture of the time."""
        return np.full((24, 32, 3), 40 * self.time, np.uint8)

    def _seen(self, name: str) -> np.ndarray:
        return np.array([self.seed, self.episode, self.time, self.possible_agents.index(name)], np.float32)


class Lone(Timetable):
    """Agents that all stay for the same steps."""

    def __init__(self, agents: int = 2, steps: int = 3) -> None:
        super().__init__({f"agent_{number}": Stay(0, steps, terminated=False) for number in range(agents)})


class Stated(Lone):
    """The same with a shared state: seed and time."""

    state_space = Box(-np.inf, np.inf, (2,), np.float32)

    def state(self) -> np.ndarray:
        """The shared state."""
        return np.array([self.seed, self.time], np.float32)


class Masked(Lone):
    """Says which actions are possible where nobody reads it."""

    def reset(self, **arguments: Any) -> Any:
        observations, _ = super().reset(**arguments)
        return observations, {name: {MASK: np.ones(4, np.int8)} for name in observations}


class Pushed(Lone):
    """The same with actions of two numbers."""

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """The same for all."""
        return Box(-1, 1, (2,), np.float32)


class Drawn(Stated):
    """The same, which can be drawn."""

    metadata: ClassVar[dict[str, Any]] = {"name": "drawn", "render_modes": ["rgb_array"]}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__()
        self.render_mode = render_mode


class Unlike(Lone):
    """Two agents with spaces of their own: 2 and 4 numbers, 3 and 5 actions."""

    def observation_space(self, agent: str) -> gymnasium.Space[Any]:
        """Narrower for the first."""
        return Box(-np.inf, np.inf, (2 if agent == "agent_0" else 4,), np.float32)

    def action_space(self, agent: str) -> gymnasium.Space[Any]:
        """Fewer for the first, and counted from 1."""
        return Discrete(3, start=1) if agent == "agent_0" else Discrete(5)

    def _seen(self, name: str) -> np.ndarray:
        return super()._seen(name)[: self.observation_space(name).shape[0]]  # type: ignore[index]

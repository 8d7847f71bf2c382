"""One observation space and one action space for agents whose own differ, since agents train as one batched program.

Observations are padded with zeros to the widest; discrete actions too, and a mask says which of them an agent has. Both
are exact: a network learns nothing from zeros, and impossible actions have no probability. Real actions cannot be
padded so, because a network's spread would count for dimensions that do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from runner.envs.observations import library_of
from runner.envs.spaces import LEGAL, PRIVILEGED, ActionSpace, Layout, layout
from runner.errors import UserError

OBSERVATION = "observation"
"""Part of an observation that is the agent's own, where there are others beside it."""


@dataclass(frozen=True)
class Common:
    """The spaces that all K agents are given.

    Attributes:
        observation_space: of every agent, without the shared state.
        action_space: of every agent.
        spaces: of the agents' own observations, `[K]`.
        layouts: of these.
        gathers: for each agent the columns of its own flat observation, followed by a 0 and a 1, that make a common
            one; None where its own is the common one.
        widths: columns of the agents' own observations, `[K]`, which are a common one's first, without a mask that was
            put aside.
        starts: the agents' own first categories; None for real numbers.
    """

    observation_space: gymnasium.Space[Any]
    action_space: gymnasium.Space[Any]
    spaces: tuple[gymnasium.Space[Any], ...]
    layouts: tuple[Layout, ...]
    gathers: tuple[np.ndarray | None, ...]
    widths: tuple[int, ...]
    starts: tuple[np.ndarray, ...] | None

    @classmethod
    def of(
        cls, observations: Mapping[str, gymnasium.Space[Any]], actions: Mapping[str, gymnasium.Space[Any]]
    ) -> Common:
        """Find them, by the agents' own spaces.

        Raises:
            UserError: there are none.
        """
        names, spaces = list(observations), tuple(observations.values())
        layouts = tuple(layout(space, where=f"observation space of {name}") for name, space in observations.items())
        taken, sizes = _action_space(actions), [ActionSpace.of(actions[name]) for name in names]
        starts = tuple(own.low for own in sizes) if taken.sizes else None
        first = observations[names[0]]
        if all(space == first for space in observations.values()) and all(own.sizes == taken.sizes for own in sizes):
            widths = tuple(own.stop for own in layouts)
            return cls(first, taken.space, spaces, layouts, (None,) * len(names), widths, starts)
        for name, own in zip(names, layouts, strict=True):
            if own.has_image:
                raise UserError(
                    f"agents have different observation spaces, and that of {name} has an image, which cannot be "
                    "padded; allowed: the same image for all"
                )
        space, gathers, widths = _padded(layouts, sizes, taken)
        return cls(space, taken.space, spaces, layouts, gathers, widths, starts)

    @property
    def differs(self) -> bool:
        """They are not each agent's own."""
        return any(gather is not None for gather in self.gathers)

    @property
    def columns(self) -> int:
        """Numbers of a common observation."""
        return layout(self.observation_space).stop

    def padded(self, agent: int, rows: Any) -> Any:
        """Flat observations of one agent `[N, own columns]` → `[N, columns]`, arrays of any library."""
        gather = self.gathers[agent]
        if gather is None:
            return rows
        library = library_of(rows)
        zeros = library.zeros_like(rows[:, :1])
        return library.concat((rows, zeros, zeros + 1), 1)[:, gather]

    @property
    def together(self) -> Box:
        """The space of all agents' observations in a row: the shared state where an environment has none of its own."""
        return Box(-np.inf, np.inf, (sum(self.widths),), np.float32)

    def seen(self, state: gymnasium.Space[Any] | None) -> gymnasium.Space[Any]:
        """The space of what an agent's row shows: its observation, and beside it the shared state if there is one."""
        if state is None:
            return self.observation_space
        own = self.observation_space
        return Dict({**(own.spaces if isinstance(own, Dict) else {OBSERVATION: own}), PRIVILEGED: state})


@dataclass(frozen=True)
class _Actions:
    """A common action space, and the number of categories of each of its discrete actions."""

    space: gymnasium.Space[Any]
    sizes: tuple[int, ...]


def _action_space(spaces: Mapping[str, gymnasium.Space[Any]]) -> _Actions:
    kinds = {name: ActionSpace.of(space) for name, space in spaces.items()}
    first, *others = kinds.values()
    if all(space == next(iter(spaces.values())) for space in spaces.values()):
        return _Actions(next(iter(spaces.values())), first.sizes)
    told = ", ".join(f"{name} {space}" for name, space in spaces.items())
    if not all(kind.discrete for kind in kinds.values()):
        raise UserError(
            f"agents have different action spaces: {told}; allowed: the same for all, or discrete ones, of which the "
            "smaller are masked"
        )
    if any(kind.shape != first.shape for kind in others):
        raise UserError(f"agents take different numbers of discrete actions: {told}; allowed: as many for all")
    sizes = tuple(max(column) for column in zip(*(kind.sizes for kind in kinds.values()), strict=True))
    if not first.shape:
        return _Actions(Discrete(sizes[0]), sizes)
    return _Actions(MultiDiscrete(np.reshape(sizes, first.shape)), sizes)


def _padded(
    layouts: tuple[Layout, ...], sizes: list[ActionSpace], taken: _Actions
) -> tuple[gymnasium.Space[Any], tuple[np.ndarray, ...], tuple[int, ...]]:
    """The observation space of padded observations with a mask, and where each agent's columns come from."""
    masked = any(own.mask is not None for own in layouts) or any(own.sizes != taken.sizes for own in sizes)
    parts: list[tuple[list[int], list[int]]] = []
    for own, actions in zip(layouts, sizes, strict=True):
        mask = range(own.mask.start, own.mask.stop) if own.mask is not None else range(0)
        zero, one = own.stop, own.stop + 1
        given = list(mask) or [one] * actions.units
        legal = [zero] * (len(taken.sizes) * max(taken.sizes, default=0))
        if len(given) != actions.units:
            raise UserError("agents have different spaces, and a mask of combined actions; allowed: of each action")
        taken_from = iter(given)
        for action, size in enumerate(actions.sizes):
            for category in range(size):
                legal[action * max(taken.sizes) + category] = next(taken_from)
        parts.append(([column for column in range(own.stop) if column not in mask], legal if masked else []))
    width = max(len(columns) for columns, _ in parts)
    gathers = tuple(
        np.array([*columns, *[own.stop] * (width - len(columns)), *legal])
        for own, (columns, legal) in zip(layouts, parts, strict=True)
    )
    space: gymnasium.Space[Any] = Box(-np.inf, np.inf, (width,), np.float32)
    if masked:
        count, largest = len(taken.sizes), max(taken.sizes)
        space = Dict({OBSERVATION: space, LEGAL: MultiBinary((count, largest))})
    return space, gathers, tuple(len(columns) for columns, _ in parts)

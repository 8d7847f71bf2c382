"""The places of agents among the rows of environments of several agents: this module alone knows them.

Agents that share parameters are a group, and a group is a member of a pack: a trial of G groups has G members, whose
rows are its N environments × the agents of the group. So the rows of T trials are `[(T, G), (N, M)]`, where M is the
size of the largest group; rows that smaller groups have no agent for are absent for ever. Per environment and agent
the same numbers are `[T·N, K]`, agents in the order of their names.

Axes: T trial · N environment of a trial · K agent · G group · M agent of a group.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from runner.errors import UserError, did_you_mean, shown

KEY = "agent.share_parameters"


@dataclass(frozen=True)
class Agents:
    """The agents of an environment and the groups in which they share parameters.

    Attributes:
        names: of all K agents that there may be, in the environment's order.
        groups: names that share parameters, each name in one of them.
    """

    names: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, names: Sequence[str], share: bool | Sequence[Sequence[str]] = False) -> Agents:
        """All in one group (True), each in one of its own (False), or groups of names.

        Raises:
            UserError: the groups do not have each agent once.
        """
        names = tuple(names)
        if isinstance(share, bool):
            return cls(names, (names,) if share else tuple((name,) for name in names))
        groups = tuple(tuple(group) for group in share)
        counts = Counter(name for group in groups for name in group)
        for name, count in counts.items():
            if name not in names:
                allowed = did_you_mean(name, names) or f" Allowed: {', '.join(names)}"
                raise UserError(f"{KEY}: this environment has no agent {shown(name, 40)}.{allowed}")
            if count > 1:
                raise UserError(f"{KEY}: {name} is given twice; allowed: each agent in one group")
        if missing := [name for name in names if name not in counts]:
            raise UserError(f"{KEY}: {', '.join(missing)} in no group; allowed: each agent in one group")
        if not all(groups):
            raise UserError(f"{KEY}: a group is empty; allowed: groups of one agent or more")
        return cls(names, groups)

    @property
    def firsts(self) -> list[str]:
        """`[G]` the first agent of each group, which speaks for it."""
        return [group[0] for group in self.groups]

    def group_of(self, name: str) -> int:
        """The number of an agent's group, which is that of its member in a trial."""
        return next(number for number, group in enumerate(self.groups) if name in group)

    @property
    def width(self) -> int:
        """M, rows of an environment in each member."""
        return max(map(len, self.groups))

    @property
    def rows(self) -> int:
        """Rows of an environment in all members of a trial."""
        return len(self.groups) * self.width

    @functools.cached_property
    def places(self) -> np.ndarray:
        """`[G, M]` number of each row's agent; −1 where there is none."""
        found = np.full((len(self.groups), self.width), -1)
        for number, group in enumerate(self.groups):
            found[number, : len(group)] = [self.names.index(name) for name in group]
        return found

    @functools.cached_property
    def slots(self) -> np.ndarray:
        """`[K]` row of each agent among the G·M of an environment."""
        return np.array([np.flatnonzero(self.places.ravel() == number)[0] for number in range(len(self.names))])

    def rows_of(self, numbers: Any, environments: int) -> Any:
        """`[T·N, K, …]` → `[T·G·N·M, …]`, arrays of any library; rows without an agent have some other agent's.

        Args:
            numbers: per environment and agent.
            environments: N.
        """
        parts = numbers.reshape(-1, environments, *numbers.shape[1:])[:, :, self.places]
        return parts.swapaxes(1, 2).reshape(-1, *numbers.shape[2:])

    def of_rows(self, rows: Any, environments: int) -> Any:
        """`[T·G·N·M, …]` → `[T·N, K, …]`, the other way round.

        Args:
            rows: member-major.
            environments: N.
        """
        parts = rows.reshape(-1, len(self.groups), environments, self.width, *rows.shape[1:]).swapaxes(1, 2)
        return parts.reshape(-1, self.rows, *rows.shape[1:])[:, self.slots]

    def fillers(self, trials: int, environments: int) -> np.ndarray:
        """`[T·G·N·M]` rows that have no agent."""
        one = np.repeat((self.places < 0)[:, None], environments, 1)
        return np.tile(one.ravel(), trials)

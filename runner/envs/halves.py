"""Half-pools: each half of the environments steps in threads of its own, while the other half steps or is acted on.

An environment's numbers do not depend on what is stepped beside it, so a rollout is bit for bit that of one pool.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import numpy as np

from runner.cores import usable_cores
from runner.envs.base import Step, VectorEnv, close
from runner.errors import UserError

BLOCK = 16
"""Rows that arithmetic takes at once: a cut between such blocks leaves the last bits of each row as they were."""


class Halves(VectorEnv):
    """Environments of P members in two parts, each with about half of every member's.

    Attributes:
        members: P.
        rows: the environments of a member that each of the two parts has.
        apart: one part may be acted on while the other steps; else both are acted on together.
    """

    overlaps = True

    def __init__(self, parts: Sequence[VectorEnv], members: int) -> None:
        """Put two parts with environments of the same members side by side."""
        first, second = parts
        super().__init__(first.num_envs + second.num_envs, first.observation_space, first.action_space)
        self.members, self._halves = members, (first, second)
        at = first.num_envs // members
        self.rows, self.apart = (slice(0, at), slice(at, self.num_envs // members)), False

    @property
    def halves(self) -> Sequence[VectorEnv]:
        """See the base class."""
        return self._halves

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere."""
        return self.joined([part.reset()[0] for part in self.halves]), {}

    def step(self, actions: Any) -> Step:
        """Step both parts at the same time; see the base class."""
        self.send(actions)
        return self.receive()

    def send(self, actions: Any) -> None:
        """Begin a step of both parts; see the base class."""
        for part, some in zip(self.halves, self.cut(actions), strict=True):
            part.send(some)

    def receive(self) -> Step:
        """Wait for both parts; see the base class."""
        *columns, infos = zip(*(part.receive() for part in self.halves), strict=True)
        observations, rewards, terminated, truncated = map(self.joined, columns)
        return observations, rewards, terminated, truncated, self.told(infos)

    def told(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """The infos of the parts as one: by name, an array `[P·N]`."""
        return {name: self.joined([info[name] for info in infos]) for name in infos[0]}

    def cut(self, rows: Any) -> Sequence[Any]:
        """See the base class."""
        of_members = rows.reshape(self.members, -1, *rows.shape[1:])
        return [of_members[:, part].reshape(-1, *rows.shape[1:]) for part in self.rows]

    def joined(self, rows: Sequence[Any], concatenate: Callable[..., Any] = np.concatenate) -> Any:
        """See the base class."""
        of_members = [some.reshape(self.members, -1, *some.shape[1:]) for some in rows]
        return concatenate(of_members, 1).reshape(-1, *rows[0].shape[1:])

    def close(self) -> None:
        """Release both parts."""
        for part in self.halves:
            close(part)


def halved(choice: Literal["auto"] | bool, env: VectorEnv, envs: int, gpu: bool) -> bool:
    """Training steps two half-pools.

    Auto: where a GPU acts, which leaves the cores to the other half meanwhile. On CPUs a training did not gain
    (docs/speed.md).

    Args:
        choice: `env.half_pools`.
        env: what there are N = `envs` of for each member.
        gpu: whoever acts is one.

    Raises:
        UserError: they are wanted, of environments that have none.
    """
    able = env.overlaps and envs > 1
    if choice is True and not able:
        why = "num_envs is 1" if env.overlaps else f"{type(env).__name__} is not an EnvPool task of one agent"
        raise UserError(f"env.half_pools: found True, but {why}; allowed: auto or False")
    return able and (gpu if choice == "auto" else choice)


def opened(
    env: VectorEnv, seeds: Sequence[int], threads: int | None, members: int, choice: Literal["auto"] | bool, gpu: bool
) -> AbstractContextManager[VectorEnv]:
    """`VectorEnv.opened`, of P members' environments, in half-pools where `halved` says so."""
    cores, envs = usable_cores() if threads is None else threads, len(seeds) // members
    return _both(env, seeds, cores, members) if halved(choice, env, envs, gpu) else env.opened(seeds, threads)


@contextlib.contextmanager
def _both(env: VectorEnv, seeds: Sequence[int], threads: int, members: int) -> Iterator[VectorEnv]:
    table = np.reshape(seeds, (members, -1))
    at = middle(table.shape[1])
    with contextlib.ExitStack() as stack:
        halves = (half.ravel().tolist() for half in np.split(table, [at], 1))
        yield Halves([stack.enter_context(env.opened(half, (threads + 1) // 2)) for half in halves], members)


def middle(envs: int) -> int:
    """The cut nearest to the middle, between blocks of rows where there are several."""
    return round(envs / 2 / BLOCK) * BLOCK if envs >= 4 * BLOCK else envs // 2

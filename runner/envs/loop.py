"""Environments of Python, stepped one after the other into rows of arrays, which may be shared with another process.

An environment is reset with its own seed once, at `reset`, and draws what follows from its own generator. So what it
gives is a function of seed and actions, whatever stands beside it and whichever process steps it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from runner.envs.base import check_finite, close
from runner.envs.observations import as_array, flatten_observations
from runner.envs.spaces import LEGAL, MASK, Layout
from runner.errors import FailedEnvironmentError, UserError, last_words

log = logging.getLogger(__name__)

Maker = Callable[[], gymnasium.Env[Any, Any]]
HUNG_SECONDS = 300.0
"""One step, reset or constructor of an environment that takes longer has failed."""

PACKED, FLAGS = (tuple, list), (bool, np.bool_)
IDLE = -1
"""Stands for the row that is being worked on where there is none."""


class Table(NamedTuple):
    """The rows that N environments give, one each; `Loop` writes into them.

    Attributes:
        doing: `[2]` row that is being worked on, or IDLE; how often all have been gone through.
    """

    observations: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    doing: np.ndarray

    @classmethod
    def empty(cls, layout: Layout, rows: int) -> Table:
        """For N environments of these observations."""
        observations, rewards = np.zeros((rows, layout.stop), layout.dtype), np.zeros(rows, np.float32)
        return cls(observations, rewards, np.zeros(rows, bool), np.zeros(rows, bool), np.array([IDLE, 0]))


LOOPS: weakref.WeakSet[Loop] = weakref.WeakSet()
"""Of this process."""


class Loop:
    """Environments that are stepped one after the other; one whose episode has ended is reset at its next step.

    Attributes:
        seeds: one per environment, with which `reset` begins.
    """

    def __init__(
        self, maker: Maker, seeds: Sequence[int | None], layout: Layout, table: Table, first: int = 0, whole: int = 0
    ) -> None:
        """Make the first environment; the first reset makes the others.

        Args:
            maker: makes an environment at every call.
            seeds: one per environment; None where it is not said.
            layout: of their observations.
            table: a row per environment, written by `reset` and `step`.
            first: number of the first of them, where there are others.
            whole: how many there are with those; default these.
        """
        self.envs: list[gymnasium.Env[Any, Any]] = []
        self.seeds, self._layout, self._table = list(seeds), layout, table
        self._numbers = range(first, first + len(seeds))
        self._whole = whole or len(seeds)
        self._ended = [False] * len(seeds)
        self._warned = first > 0  # the process that has the first one says it
        self._places = table.observations.reshape(len(seeds), *layout.shape)
        self._maker = maker
        LOOPS.add(self)
        self._make(1)

    def reset(self) -> None:
        """Begin new episodes everywhere, each with its environment's seed."""
        # With each instance that is made CPython has room for one attribute less outside of dicts, for all of a class.
        # What the first one's reset adds must be there before the others are, else the steps of all are a tenth slower.
        self._begin(range(1))
        self._make(len(self.seeds))
        self._begin(range(1, len(self.seeds)))
        self._check_finite()

    def step(self, actions: np.ndarray, rows: Sequence[int]) -> None:
        """One step of the environments in these rows.

        Args:
            actions: `[N, …]` of all environments, as they take them; a copy, since environments may write into theirs.
            rows: which.
        """
        table, ended, envs = self._table, self._ended, self.envs
        doing, rewards = table.doing, table.rewards
        table.terminated[:] = table.truncated[:] = False
        with self._blamed("step"):
            for row in rows:
                doing[0] = row
                if ended[row]:
                    self._reset(row, None)
                    continue
                answer = envs[row].step(actions[row])
                if not isinstance(answer, PACKED) or len(answer) != 5:
                    raise self._wrong(
                        f"step gives {_kind(answer)}; allowed: (observation, reward, terminated, truncated, info), a "
                        "tuple of five (gym before 0.26 gave four)"
                    )
                observation, reward, terminated, truncated, _ = answer
                if not isinstance(reward, float):
                    reward = self._number("reward", reward)
                if type(terminated) not in FLAGS:
                    terminated = bool(self._number("terminated", terminated))
                if type(truncated) not in FLAGS:
                    truncated = bool(self._number("truncated", truncated))
                self._write(row, observation)
                rewards[row] = reward
                if terminated or truncated:
                    table.terminated[row], table.truncated[row], ended[row] = terminated, truncated, True
        self._check_finite()

    @property
    def doing(self) -> tuple[str, int]:
        """The environment that is being worked on, empty where none is; and how often all have been gone through."""
        row, passes = map(int, self._table.doing)
        return (self._name(row) if row != IDLE else "", passes)

    def close(self) -> None:
        """Close the environments."""
        with self._blamed("close"):
            for row, env in enumerate(self.envs):
                self._table.doing[0] = row
                close(env)

    def _make(self, count: int) -> None:
        """Make the environments up to so many, those that there are not yet."""
        with self._blamed("constructor"):
            for row in range(len(self.envs), count):
                self._table.doing[0] = row
                self.envs.append(self._maker())

    def _begin(self, rows: Sequence[int]) -> None:
        with self._blamed("reset"):
            for row in rows:
                self._table.doing[0] = row
                self._reset(row, self.seeds[row])

    def _reset(self, row: int, seed: int | None) -> None:
        answer = self.envs[row].reset(seed=seed)
        if not isinstance(answer, PACKED) or len(answer) != 2:
            raise self._wrong(f"reset gives {_kind(answer)}; allowed: (observation, info), a tuple of two")
        self._write(row, answer[0])
        self._table.rewards[row], self._ended[row] = 0.0, False
        if not self._warned and isinstance(answer[1], dict) and (said := unread(answer[1])):
            self._warned = True
            log.warning(said)

    def _number(self, name: str, value: Any) -> Any:
        """One number, of whatever library and shape."""
        array = as_array(value)
        if array.size != 1 or array.dtype.kind not in "biuf":
            raise self._wrong(f"step gives as {name} {_kind(value)}; allowed: one number")
        return array.item()

    def _write(self, row: int, observation: Any) -> None:
        parts = self._layout
        try:
            fits = getattr(observation, "shape", None) == parts.shape
            if fits and type(observation) is np.ndarray and (not parts.byte or observation.dtype == np.uint8):
                self._places[row] = observation
            else:
                flatten_observations(parts, observation, self._table.observations[row : row + 1])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise self._wrong(
                f"an observation, {_kind(observation)}, does not fit its observation_space "
                f"{self.envs[row].observation_space}: {error}"
            ) from None

    def _check_finite(self) -> None:
        check_finite(self._table.observations, self._table.rewards, self.seeds, self._numbers, self._whole)

    @contextmanager
    def _blamed(self, doing: str) -> Iterator[None]:
        """Go through all environments, and say of an exception which of them raised it."""
        self._table.doing[1] += 1
        try:
            yield
        except (Exception, SystemExit) as error:
            if isinstance(error, UserError):
                raise
            row = int(self._table.doing[0])
            words = f"{self._name(row)} raised in its {doing}: {last_words(error)}"
            raise FailedEnvironmentError(words, self._numbers[row], self._whole) from error
        finally:
            self._table.doing[0] = IDLE

    def _wrong(self, what: str) -> UserError:
        return UserError(f"{self._name(int(self._table.doing[0]))}: {what}")

    def _name(self, row: int) -> str:
        return f"the environment with seed {self.seeds[row]}"


def unread(info: Mapping[str, Any]) -> str:
    """A warning of an info with masks; empty where there are none."""
    if not (masks := info.keys() & {MASK, LEGAL}):
        return ""
    return (
        f"info says which actions are possible ({', '.join(sorted(masks))}), and nobody reads it there: put it into a "
        f"Dict observation as {MASK!r}, which categorical policies obey"
    )


def watch(seconds: float = HUNG_SECONDS) -> None:
    """From now on end this process, saying why, once an environment that it steps itself has not answered so long.

    Nothing else ends what may hang in the middle of anything, and whoever started the process starts another.
    """

    def look() -> None:
        since: dict[tuple[str, int], float] = {}
        while True:
            time.sleep(min(1.0, seconds / 4))
            now = time.monotonic()
            since = {doing: since.get(doing, now) for doing in (loop.doing for loop in list(LOOPS)) if doing[0]}
            for (name, _), began in since.items():
                if now - began > seconds:
                    faulthandler.dump_traceback()
                    print(f"FailedEnvironmentError: {name} has not answered for {seconds:.0f} s", file=sys.stderr)
                    sys.stderr.flush()
                    os._exit(1)

    threading.Thread(target=look, name="watch", daemon=True).start()


def _kind(value: Any) -> str:
    """The kind of a wrong value, in a few words."""
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"{getattr(value, 'dtype', type(value).__name__)} of shape {tuple(shape)}"
    return f"{type(value).__name__} {value!r:.60}"

"""A gymnasium environment of a user's: a point that is pushed along a line. Others go wrong in one way each.

Processes of environments import this module, so it imports nothing heavy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple


class Point(gymnasium.Env[Any, Any]):
    """It begins anywhere on the line, and its episodes are truncated after `length` steps."""

    def __init__(self, length: int = 20) -> None:
        self.observation_space = Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.length, self.steps, self.place = length, 0, 0.0

    def seen(self) -> Any:
        return np.array([self.place, self.steps, 1.0], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.place = 0, float(self.np_random.normal())
        return self.seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        self.place += float(action[0]) + 0.1 * float(self.np_random.normal())
        return self.seen(), -abs(self.place), abs(self.place) > 5, self.steps >= self.length, {}


class DoingAtStep(Point):
    """Does something at the third step of the episode of one environment, which is the one with this seed."""

    def __init__(self, do: Callable[[], Any], seed: int, at: str = "step") -> None:
        super().__init__()
        self.do, self.chosen, self.at, self.mine = do, seed, at, False
        if at == "constructor":
            do()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.mine = self.mine or seed == self.chosen
        if self.mine and self.at == "reset":
            self.do()
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        if self.mine and self.steps == 2 and self.at == "step":
            self.do()
        return super().step(action)


class Helped(DoingAtStep):
    """Has a process of its own until it is closed, whose number is a file in a folder, and hangs at the third step."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(hang, seed=11)
        self.helper = subprocess.Popen(["sleep", "300"])
        Path(folder, str(self.helper.pid)).touch()

    def close(self) -> None:
        self.helper.kill()
        self.helper.wait()


class FailsForOne(Point):
    """Fails at the third step where it was reset with the seed `chosen`."""

    def __init__(self, chosen: int) -> None:
        super().__init__()
        self.chosen, self.mine = chosen, False

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.mine = self.mine or seed == self.chosen
        return super().reset(seed=seed)

    def step(self, action: Any) -> Any:
        if self.mine and self.steps == 2:
            raise ZeroDivisionError("the point fell off")
        return super().step(action)


class Parts(Point):
    """Observations of parts, actions of several numbers."""

    def __init__(self) -> None:
        super().__init__(length=4)
        parts = {"b": Box(0, 255, (2, 2, 3), np.uint8), "a": Discrete(9), "c": Tuple([Box(-9, 9, (), np.float64)])}
        self.observation_space = Dict(parts)
        self.action_space = MultiBinary(3)

    def seen(self) -> Any:
        picture = self.np_random.integers(0, 255, (2, 2, 3), np.uint8)
        return {"a": self.steps, "b": picture, "c": (np.float64(self.place),)}


def fail() -> None:
    raise ZeroDivisionError("the point fell off")


def leave() -> None:
    sys.exit(3)  # by name: wandb puts a function of its own into its place


def hang() -> None:
    time.sleep(1000)


class Noted(Point):
    """Has a file in a folder as long as it is open."""

    def __init__(self, folder: Path) -> None:
        super().__init__(5)
        descriptor, name = tempfile.mkstemp(dir=folder)
        os.close(descriptor)
        self.file = Path(name)

    def close(self) -> None:
        self.file.unlink()

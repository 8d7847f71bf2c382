"""The costs of environments: a step's time, and the memory of each; as a program it prints the first.

A program, since a simulator that cannot run ends its process.

python -m runner.envs.named.measure ENV    # the section of a configuration, as JSON
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

import numpy as np

from runner.config.schema import EnvConfig
from runner.envs.base import VectorEnv
from runner.envs.named.legal import legal
from runner.envs.task import task

FEW = 4
"""Environments that tell what each takes in memory; as many are made before them."""


def step_seconds(env: VectorEnv, seconds: float = 0.15) -> float:
    """Seconds that a step of one environment takes on one core, measured for about so many `seconds`.

    The least of many steps counts, which other work on the machine hardly touches.
    """
    count = min(env.environments, env.measured)
    # The first that are possible, or the middle of what is.
    numbers = np.full(len(env.actions.low), 0.0 if env.actions.discrete else 0.5)
    with env.of_each(count).opened(range(count), 1) as pool:
        observations = pool.reset()[0]
        least, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end or least == float("inf"):
            actions = legal(pool, observations, numbers)
            began = time.perf_counter()
            observations = pool.step(actions)[0]
            least = min(least, time.perf_counter() - began)
    return least / count


def resident_bytes(env: VectorEnv) -> float:
    """Memory that one environment takes, measured by making a few; 0 where the system does not tell."""
    few = env.of_each(count := min(env.environments, FEW))
    # The first ones load what all share, and keep it from being taken twice.
    with few.opened(range(count), 1) as first:
        first.reset()
        before = resident()
        with few.opened(range(count), 1) as pool:
            pool.reset()
            return max(0, resident() - before) / count


def resident() -> int:
    """Bytes of this process that are in memory."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


if __name__ == "__main__":
    print(step_seconds(task(EnvConfig.model_validate_json(sys.argv[1]))))

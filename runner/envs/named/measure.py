"""A program that prints what a step costs: of its own, since a simulator that cannot run ends its process.

python -m runner.envs.named.measure ENV    # the section of a configuration, as JSON
"""

from __future__ import annotations

import sys
import time

import numpy as np

from runner.config.schema import EnvConfig
from runner.envs.base import VectorEnv
from runner.envs.task import task


def step_seconds(env: VectorEnv, seconds: float = 0.15) -> float:
    """Seconds that a step of one environment takes on one core, measured for about so many `seconds`.

    The least of many steps counts, which other work on the machine hardly touches.
    """
    count = min(env.environments, env.measured)
    neutral = env.actions.low if env.actions.discrete else np.clip(0, env.actions.low, env.actions.high)
    with env.of_each(count).opened(range(count), 1) as pool:
        actions = np.tile(neutral, (pool.num_envs, 1)).reshape(pool.num_envs, *env.actions.shape)
        pool.reset()
        least, end = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < end or least == float("inf"):
            began = time.perf_counter()
            pool.step(actions)
            least = min(least, time.perf_counter() - began)
    return least / count


if __name__ == "__main__":
    print(step_seconds(task(EnvConfig.model_validate_json(sys.argv[1]))))

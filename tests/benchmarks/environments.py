"""Environments of Python: `launch --seeds 4` against gymnasium's AsyncVectorEnv, and against nothing but env.step.

    python -m tests.benchmarks.environments
    python -m tests.benchmarks.environments --microseconds 500 --seeds 1 --rounds 5

Every program in turn, several rounds; what is compared are medians over rounds. The work is PPO as in
configs/skrl/ppo.yaml with 64 environments a trial, each of which does so many Python operations a step as take about 50
microseconds on a core that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs" / "skrl" / "ppo.yaml"
NUM_ENVS = 64
CORES = len(os.sched_getaffinity(0))


class Busy(gymnasium.Env[Any, Any]):
    """Python that does so many rounds of arithmetic at each step."""

    def __init__(self, work: int = 0) -> None:
        self.observation_space = Box(-np.inf, np.inf, (8,), np.float32)
        self.action_space = Box(-1.0, 1.0, (2,), np.float32)
        self.work, self.steps, self.state = work, 0, [0.0] * 8

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps, self.state = 0, self.np_random.normal(size=8).tolist()
        return np.array(self.state, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        push = 0.1 * float(action[0])
        for number in range(self.work):
            place = number % 8
            self.state[place] = 0.99 * self.state[place] + push
        return np.array(self.state, np.float32), -abs(self.state[0]), False, self.steps >= 200, {}


def rate(work: int, seconds: float) -> float:
    """Steps per second of one environment on one core."""
    env, action = Busy(work), np.zeros(2, np.float32)
    env.reset(seed=0)
    began, steps = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        for _ in range(100):
            if env.step(action)[3]:
                env.reset()
        steps += 100
    return steps / spent


def calibrated(microseconds: float) -> int:
    """Work whose step takes about so long where nothing disturbs it."""
    best = {work: max(rate(work, 0.05) for _ in range(9)) for work in (100, 1100)}
    each = (1 / best[1100] - 1 / best[100]) / 1000
    return 100 + round((microseconds * 1e-6 - 1 / best[100]) / each)


def alone(work: int) -> float:
    """A loop over env.step on every core at once, summed."""
    program = f"from tests.benchmarks.environments import rate; print(rate({work}, 6.0))"
    pinned = [["taskset", "-c", str(core), sys.executable, "-c", program] for core in sorted(os.sched_getaffinity(0))]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) for command in pinned]
    return sum(float(one.communicate()[0]) for one in running)


def asynchronous(work: int, backend: str, timesteps: int) -> float:
    """Our Runner over gymnasium's AsyncVectorEnv, a process for each environment: one seed, as it takes one."""
    arguments = ["--asynchronous", backend, "--work", str(work), "--timesteps", str(timesteps)]
    command = [sys.executable, "-m", "tests.benchmarks.environments", *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY).stdout)


def train_asynchronously(work: int, backend: str, timesteps: int) -> float:
    from gymnasium.vector import AsyncVectorEnv

    from runner.config import load_config

    overrides: list[Any] = [
        (("trainer", "timesteps"), timesteps),
        (("agent", "experiment", "checkpoint_interval"), 0),
    ]
    config, _ = load_config(CONFIG, overrides)
    env = AsyncVectorEnv([lambda: Busy(work)] * NUM_ENVS)
    runner = import_module(f"runner.{backend}").Runner(env, config, seeds=[0])
    began = last = time.perf_counter()
    for report in runner.reports():
        last = time.perf_counter()
        if report.records[0] is None:
            began = last
    env.close()
    return NUM_ENVS * timesteps / (last - began)


def launched(work: int, backend: str, timesteps: int, seeds: int) -> float:
    """`launch` as a person types it: the sum of its trials' steps/s while training."""
    from launcher.ledger.ledger import Ledger

    settings = (f"env.work={work}", f"trainer.timesteps={timesteps}", "agent.experiment.checkpoint_interval=0")
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "launcher.cli.main", str(CONFIG), "--out", out, "--name", "run"]
        command += ["--env", "tests.benchmarks.environments:Busy", "--num-envs", str(NUM_ENVS)]
        command += ["--seeds", str(seeds), "--backend", backend, *(f"--set={setting}" for setting in settings)]
        path = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=path)
        with Ledger(Path(out) / "run", writer=False) as ledger:
            last = [ledger.records(row.id)[-1].record for row in ledger.trials()]
    return sum(record.env_steps / record.seconds for record in last)


def main() -> None:
    """Measure and print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--microseconds", type=float, default=50.0)
    parser.add_argument("--timesteps", type=int, default=1600)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--asynchronous", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.asynchronous:
        print(train_asynchronously(given.work, given.asynchronous, given.timesteps))
        return
    work = given.work or calibrated(given.microseconds)
    programs: dict[str, Any] = {"env.step alone, every core": lambda: alone(work)}
    for backend in ("torch", "jax"):
        programs[f"AsyncVectorEnv({NUM_ENVS}), {backend}"] = lambda b=backend: asynchronous(work, b, given.timesteps)
        programs[f"launch --seeds {given.seeds}, {backend}"] = lambda b=backend: launched(
            work, b, given.timesteps, given.seeds
        )
    found: dict[str, list[float]] = {name: [] for name in programs}
    for round_ in range(given.rounds):
        for name, program in programs.items():
            found[name].append(program())
            print(f"round {round_}: {name}: {found[name][-1]:,.0f} steps/s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    print(f"a step of {given.microseconds:.0f} µs ({work} rounds), {NUM_ENVS} environments a trial, {CORES} cores")
    print(f"{platform.platform()}, load {os.getloadavg()[0]:.1f}, python {platform.python_version()}")
    top = medians["env.step alone, every core"]
    for name, median in medians.items():
        rival = medians.get(f"AsyncVectorEnv({NUM_ENVS}), {name.rpartition(' ')[2]}")
        over = f"{median / rival:8.2f} x AsyncVectorEnv" if rival and name.startswith("launch") else ""
        print(f"{name:28}{median:10,.0f} steps/s{median / top:8.2f} of env.step alone{over}")


if __name__ == "__main__":
    main()

"""Checkpoints evaluated together against one after another, by the same runner and by stable-baselines3.

    python -m tests.benchmarks.evaluation DIR [--rivals /tmp/rivals/bin/python]

DIR is a launch of CartPole-v1 with 64 trials, such as `launch configs/classic/cartpole.yaml --seeds 64` makes. All play
100 episodes of the last checkpoints on two cores:

- together: as `launch eval` does, in two processes, each with half of them on the population axis;
- one after another: a loop with one runner that loads each, in as many environments as the configuration has;
- stable-baselines3: `evaluate_policy` of the same policies in as many environments.

What runs before the first round (processes, imports, compilation) is not measured; medians of rounds in turn.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from launcher.run.process import claim_cores, environment

EPISODES, ROUNDS, PROCESSES = 100, 3, 2
LAYERS = {"mlp_extractor.policy_net.0": "net.0", "mlp_extractor.policy_net.2": "net.1", "action_net": "head"}
"""Of stable-baselines3's policy → of ours."""
RIVAL = """
import sys, time, numpy, torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
torch.set_num_threads(2)
policies = numpy.load(sys.argv[1])
count, envs, episodes = (int(word) for word in sys.argv[2:])
env = make_vec_env("CartPole-v1", envs)
model = PPO("MlpPolicy", env, device="cpu", policy_kwargs={"net_arch": {"pi": [64, 64], "vf": [64, 64]}})
began, steps = time.perf_counter(), 0
for number in range(count):
    weights = {name: torch.from_numpy(policies[f"{number}/{name}"]) for name in policies["names"]}
    model.policy.load_state_dict(weights, strict=False)
    steps += sum(evaluate_policy(model, env, episodes, return_episode_rewards=True)[1])
print(time.perf_counter() - began, steps)
"""
_batch: Any = None
_core: Any = None


def runner_of(directory: Path, members: int, threads: int) -> Any:
    """A runner of the launch's configuration with so many members."""
    from runner.envs.envpool import EnvPoolTask
    from runner.jax import Runner
    from tests.launcher.builders import read_trials

    config = read_trials(directory)[0].config
    task = EnvPoolTask(str(config.env.id), config.env.num_envs or 0, config.env.arguments)
    configs = [config.model_copy(update={"seed": seed}) for seed in range(members)]
    return Runner(task, config, configs=configs, threads=threads)


def begin(directory: Path, members: int) -> None:
    """In a process: a core, and a runner for its part."""
    global _batch, _core
    _claims = claim_cores(1)
    os.environ |= environment(1, 0)
    _batch = runner_of(directory, members, threads=1)


def part(paths: Sequence[Path]) -> int:
    """In a process: evaluate its part; the steps of its episodes."""
    _batch.restore([path.read_bytes() for path in paths], only_act=True)
    return sum(episode.length for episode in _batch.evaluate(True, EPISODES, 0, EPISODES))


def save_for_rival(paths: Sequence[Path], file: str) -> None:
    """The policies as stable-baselines3 names their parameters."""
    from safetensors.numpy import load

    arrays: dict[str, Any] = {}
    for number, path in enumerate(paths):
        ours = load(path.read_bytes())
        for theirs, name in LAYERS.items():
            for kind in ("weight", "bias"):
                arrays[f"{number}/{theirs}.{kind}"] = ours[f"policy.{name}.{kind}"]
    names = [f"{theirs}.{kind}" for theirs in LAYERS for kind in ("weight", "bias")]
    np.savez(file, names=np.array(names), **arrays)


def main() -> None:
    """Measure in turn, print seconds, steps/s and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rivals", help="python of an environment with stable_baselines3")
    given = parser.parse_args()
    from tests.launcher.builders import read_trials

    folders = [given.directory / "trials" / trial.id / "checkpoints" for trial in read_trials(given.directory)]
    paths = [max(folder.glob("agent_*"), key=lambda path: int(path.stem.split("_")[1])) for folder in folders]
    members = math.ceil(len(paths) / PROCESSES)
    alone = runner_of(given.directory, 1, threads=PROCESSES)
    with (
        ProcessPoolExecutor(PROCESSES, get_context("spawn"), begin, (given.directory, members)) as pool,
        tempfile.NamedTemporaryFile(suffix=".npz") as policies,
    ):
        save_for_rival(paths, policies.name)

        def together() -> tuple[float, int]:
            began = time.perf_counter()
            steps = sum(pool.map(part, [paths[first : first + members] for first in range(0, len(paths), members)]))
            return time.perf_counter() - began, steps

        def one_by_one() -> tuple[float, int]:
            began, steps = time.perf_counter(), 0
            for path in paths:
                alone.agent.load(path)
                steps += sum(episode.length for episode in alone.evaluate(True, EPISODES, 0))
            return time.perf_counter() - began, steps

        def rival() -> tuple[float, int]:
            sizes = [str(size) for size in (len(paths), alone.config.env.num_envs, EPISODES)]
            command = [given.rivals, "-c", RIVAL, policies.name, *sizes]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, steps = done.stdout.split()[-2:]
            return float(seconds), int(steps)

        ways: dict[str, Callable[[], tuple[float, int]]] = {"together": together, "one after another": one_by_one}
        if given.rivals:
            ways["stable-baselines3"] = rival
        together(), one_by_one()
        rounds = [{name: way() for name, way in ways.items()} for _ in range(ROUNDS)]
    print(f"{len(paths)} checkpoints x {EPISODES} episodes, {os.cpu_count()} cores of {platform.machine()}")
    for name in ways:
        seconds, steps = statistics.median(r[name][0] for r in rounds), rounds[0][name][1]
        ratio = statistics.median(r[name][0] / r["together"][0] for r in rounds)
        print(f"{name:18} {seconds:7.2f} s  {steps:9,} steps  {steps / seconds:9,.0f} steps/s  {ratio:5.1f} x together")


if __name__ == "__main__":
    main()

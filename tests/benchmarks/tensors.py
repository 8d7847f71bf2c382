"""Training on an environment of 4,096 in torch tensors on the CPU: this program's Runner against skrl's, same YAML.

    python -m tests.benchmarks.tensors --against /tmp/rivals/bin/python   # a Python that has skrl 2.1.1; see rivals.py
    python -m tests.benchmarks.tensors --one torch --task ant             # one run: its env steps per second, as JSON

Each is a process of its own, in turn, several times; the table has medians and the ratio. The environment is
`tests.isaac_lab`'s, which costs little, so that what is compared is the training; the work is that of Isaac Lab's own
files for Cartpole and Ant. Building and importing do not count, everything that `run("train")` does counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from typing import Any

import numpy as np
from gymnasium.spaces import Box

from tests.benchmarks.rivals import skrl_config
from tests.isaac_lab import INFINITE, ManagerBasedRLEnv

TASKS: dict[str, dict[str, Any]] = {
    "cartpole": {"sizes": (4, 1), "layers": [32, 32], "learning_epochs": 8, "mini_batches": 8},
    "ant": {"sizes": (60, 8), "layers": [256, 128, 64], "learning_epochs": 4, "mini_batches": 2},
}


def steps_per_second(library: str, task: str, num_envs: int, timesteps: int) -> float:
    """Train once."""
    work = dict(TASKS[task])
    observed, actions = (Box(**INFINITE, shape=(size,)) for size in work.pop("sizes"))
    env: Any = ManagerBasedRLEnv(observed, None, actions, num_envs=num_envs, length=100)
    with tempfile.TemporaryDirectory() as directory:
        config = skrl_config(directory, timesteps, 42, discrete=False)
        for role in ("policy", "value"):
            config["models"][role]["network"][0]["layers"] = work["layers"]
        config["models"]["policy"] |= {"output": "ACTIONS", "clip_actions": False}
        config["agent"] |= {name: work[name] for name in ("learning_epochs", "mini_batches")}
        if library == "skrl":
            runner_module, wrappers = (import_module(f"skrl.{x}.torch") for x in ("utils.runner", "envs.wrappers"))
            runner = runner_module.Runner(wrappers.wrap_env(env, wrapper="isaaclab-single-agent"), config)
        else:
            runner = import_module(f"runner.{library}").Runner(env, config)
        began = time.perf_counter()
        runner.run("train")
        return num_envs * timesteps / (time.perf_counter() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", choices=("torch", "jax", "skrl"))
    parser.add_argument("--against", default=sys.executable)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--num-envs", type=int, default=4096)
    parser.add_argument("--timesteps", type=int, default=160)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(steps_per_second(given.one, given.task, given.num_envs, given.timesteps)))
        return
    for task in [given.task] if given.task else TASKS:
        found: dict[str, list[float]] = {"skrl": [], "torch": [], "jax": []}
        for _ in range(given.runs):
            for library, speeds in found.items():
                python = given.against if library == "skrl" else sys.executable
                command = [python, "-m", "tests.benchmarks.tensors", "--one", library, "--task", task]
                command += ["--num-envs", str(given.num_envs), "--timesteps", str(given.timesteps)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                speeds.append(json.loads(done.stdout.splitlines()[-1]))
        medians = {library: statistics.median(speeds) for library, speeds in found.items()}
        for library, speeds in found.items():
            ratios = np.array(speeds) / np.array(found["skrl"])
            print(
                f"{task:9} {library:6} {medians[library]:>10,.0f} env steps/s   x {np.median(ratios):.2f}", flush=True
            )


if __name__ == "__main__":
    main()

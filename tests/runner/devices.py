"""A short training in a process of its own, on the device that its environment shows it.

    CUDA_VISIBLE_DEVICES= JAX_PLATFORMS=cpu python -m tests.runner.devices torch Pendulum-v1 FOLDER

It writes FOLDER/parameters.npy, `[P, n]`, and the checkpoint of trial N, FOLDER/N.safetensors.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 16


def config(task: str, updates: int) -> dict[str, Any]:
    """Two minibatches, statistics, an adaptive rate: everything that an update has."""
    from tests.runner.builders import TASKS, plain_config

    changes = {
        "agent.rollouts": STEPS,
        "agent.learning_rate_scheduler": "KLAdaptiveLR",
        "agent.entropy_loss_scale": 0.01,
        "trainer.timesteps": STEPS * updates,
    }
    return plain_config(changes, TASKS[task][0])


def main() -> None:
    """Train as the command line says."""
    from runner.envs.envpool import EnvPoolTask
    from tests.runner.builders import TASKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend")
    parser.add_argument("task")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--until", type=int)
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--eager", action="store_true", help="no CUDA graphs")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="fail on any other")
    given = parser.parse_args()
    framework = import_module(f"runner.{given.backend}")
    if given.device is not None and framework.sees_gpu() != (given.device == "gpu"):
        raise SystemExit(f"{given.backend} trains on {framework.device_name()}, not on the {given.device}")
    if given.eager:
        import_module("runner.torch.accelerate").captured = lambda function: function
    runner = framework.Runner(
        EnvPoolTask(given.task, 32, TASKS[given.task][1]), config(given.task, given.updates), seeds=[1, 2], threads=1
    )
    if given.resume is not None:
        runner.restore([(given.resume / f"{trial}.safetensors").read_bytes() for trial in range(2)])
    for _ in runner.reports(until=given.until):
        pass
    given.folder.mkdir(parents=True, exist_ok=True)
    np.save(given.folder / "parameters.npy", np.stack([state.parameters for state in runner.states()]))
    for trial, (_, made) in enumerate(runner.checkpoints()):
        (given.folder / f"{trial}.safetensors").write_bytes(made())
    print(f"{given.backend} on {framework.device_name()}: timestep {runner.timestep}")


if __name__ == "__main__":
    main()

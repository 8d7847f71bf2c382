"""Recurrent policies: env steps per second of processor time, against Stable-Baselines3's RecurrentPPO and our own MLP.

    python -m tests.benchmarks.recurrent jax                     # a pack of 4 with an LSTM of 64, on one core
    python -m tests.benchmarks.recurrent torch --layers mlp      # an MLP of as many parameters
    PYTHONPATH=/tmp/rivals python -m tests.benchmarks.recurrent sb3

prints one JSON line. CartPole without velocities, 8 environments x 32 steps, 10 epochs of one minibatch, a layer of 64
and an LSTM of 64 that policy and value share (the rival's has no layer in front of it): on two cores eight seeds are
two such packs, or two such processes of the rival. Processor time is what a busy machine leaves comparable. The rival
is no dependency: `pip install --target /tmp/rivals sb3-contrib`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import time
from typing import Any

import numpy as np

ENVS, STEPS, EPOCHS, SEEDS = 8, 32, 10, 4
LAYERS: dict[str, list[Any]] = {"lstm": [64, {"lstm": 64}], "gru": [64, {"gru": 64}], "mlp": [64, 181, 116]}


def ours(backend: str, layers: str, updates: int) -> tuple[float, int]:
    """Seconds of processor time of so many updates of a pack after the first five, and their env steps."""
    from runner.envs.envpool import EnvPoolTask

    network = [{"name": "net", "input": "OBSERVATIONS[:, [0, 2]]", "layers": LAYERS[layers], "activations": "tanh"}]
    config = {
        "compile": False,
        "models": {
            "separate": False,
            "policy": {"class": "CategoricalMixin", "network": network, "output": "ACTIONS"},
            "value": {"class": "DeterministicMixin", "network": network, "output": "ONE"},
        },
        "agent": {
            "class": "PPO",
            "rollouts": STEPS,
            "learning_epochs": EPOCHS,
            "mini_batches": 1,
            "experiment": {"write_interval": STEPS, "checkpoint_interval": 0},
        },
        "trainer": {"timesteps": STEPS * (updates + 5)},
    }
    kind = importlib.import_module(f"runner.{backend}").Runner
    runner = kind(EnvPoolTask("CartPole-v1", ENVS, {}), config, seeds=range(SEEDS), threads=1)
    marks = [time.process_time() for _ in runner.reports()]
    return marks[-1] - marks[5], updates * STEPS * ENVS * SEEDS


def sb3(updates: int) -> tuple[float, int]:
    """The same of the rival, one seed."""
    import gymnasium
    import torch
    from sb3_contrib import RecurrentPPO  # type: ignore[import-not-found,unused-ignore]

    from tests.benchmarks import rivals

    torch.set_num_threads(1)
    env = rivals.sb3_vec_env(rivals.make_pool("CartPole-v1", ENVS, 0, 1))
    env.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    whole = env.step_wait, env.reset
    env.step_wait = lambda: (lambda seen, *rest: (seen[:, [0, 2]], *rest))(*whole[0]())
    env.reset = lambda: whole[1]()[:, [0, 2]]
    policy = {"net_arch": [], "lstm_hidden_size": 64, "shared_lstm": True, "enable_critic_lstm": False}
    size = {"n_steps": STEPS, "batch_size": STEPS * ENVS, "n_epochs": EPOCHS}
    model = RecurrentPPO("MlpLstmPolicy", env, policy_kwargs=policy, device="cpu", **size)
    model.learn(5 * STEPS * ENVS)
    began = time.process_time()
    model.learn(updates * STEPS * ENVS)
    return time.process_time() - began, updates * STEPS * ENVS


def main() -> None:
    """Measure one of them on one core."""
    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=["jax", "torch", "sb3"])
    parser.add_argument("--layers", choices=list(LAYERS), default="lstm")
    parser.add_argument("--updates", type=int, default=40)
    given = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds, steps = sb3(given.updates) if given.who == "sb3" else ours(given.who, given.layers, given.updates)
    print(json.dumps({**vars(given), "seconds": round(seconds, 2), "env steps per second": round(steps / seconds)}))


if __name__ == "__main__":
    main()

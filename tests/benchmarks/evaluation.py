"""Checkpoints evaluated together against one after another, by the same runner and by stable-baselines3.

    python -m tests.benchmarks.evaluation DIR [--rivals /tmp/rivals/bin/python]

DIR is a launch of CartPole-v1 with 64 trials, such as `launch configs/classic/cartpole.yaml --seeds 64` makes. All play
100 episodes of the last checkpoints on one core: stacked on the population axis in pools of `POOL` environments; in a
loop with one runner that loads each, as many environments as the configuration has; and by `evaluate_policy`, whose
policies are fresh ones of the same size, so that what is compared are steps/s of it.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

from launcher.process import claim_core, environment

EPISODES, ROUNDS = 100, 1
RIVAL = """
import time, torch, gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
torch.set_num_threads(1)
env = make_vec_env("CartPole-v1", 32)
model = PPO("MlpPolicy", env, device="cpu")
began = time.perf_counter()
steps = sum(sum(evaluate_policy(model, env, 100, return_episode_rewards=True)[1]) for _ in range(8))
print(steps / (time.perf_counter() - began))
"""


def main() -> None:
    """Measure in turn, print seconds, steps/s and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rivals", help="python of an environment with stable_baselines3")
    given = parser.parse_args()
    core = claim_core()
    os.environ |= environment(1, 0)
    from launcher.directory import read_trials
    from launcher.evaluating import POOL
    from runner.envs.envpool import EnvPoolTask
    from runner.jax import Runner

    trials = read_trials(given.directory)
    paths = [sorted((given.directory / "trials" / t.id / "checkpoints").iterdir())[-1] for t in trials]
    files = [path.read_bytes() for path in paths]
    config = trials[0].config
    task = EnvPoolTask(str(config.env.id), config.env.num_envs or 0, config.env.arguments)
    together = POOL // EPISODES
    batch = Runner(task, config, configs=[config.model_copy(update={"seed": i}) for i in range(together)], threads=1)
    alone = Runner(task, config, threads=1)

    def in_batches() -> int:
        steps = 0
        for first in range(0, len(files), together):
            some = files[first : first + together]
            batch.restore(some + some[:1] * (together - len(some)), only_act=True)
            steps += sum(e.length for e in batch.evaluate(True, EPISODES, 0, EPISODES) if e.member < len(some))
        return steps

    def one_by_one() -> int:
        steps = 0
        for path in paths:
            alone.agent.load(path)
            steps += sum(e.length for e in alone.evaluate(True, EPISODES, 0))
        return steps

    seconds: dict[str, list[float]] = {"together": [], "one after another": []}
    for number in range(ROUNDS + 1):
        for name, work in (("together", in_batches), ("one after another", one_by_one)):
            began = time.perf_counter()
            steps = work()
            if number:  # the first round compiles
                seconds[name].append(time.perf_counter() - began)
    print(f"{len(files)} checkpoints x {EPISODES} episodes, {steps:,} steps, one core of {platform.processor()}")
    for name, times in seconds.items():
        print(f"{name}: {statistics.median(times):.2f} s, {steps / statistics.median(times):,.0f} steps/s")
    ratios = [slow / fast for fast, slow in zip(*seconds.values(), strict=True)]
    print(f"together is {statistics.median(ratios):.1f} times as fast")
    if given.rivals:
        done = subprocess.run([given.rivals, "-c", RIVAL], capture_output=True, text=True, check=True)
        rate = float(done.stdout.split()[-1])
        times = steps / statistics.median(seconds["together"]) / rate
        print(f"stable-baselines3: {rate:,.0f} steps/s; together is {times:.0f} times as fast")
    if core is not None:
        core.close()


if __name__ == "__main__":
    main()

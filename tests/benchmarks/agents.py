"""Several agents: IPPO and MAPPO on MPE's simple_spread, against skrl's own over the same environment.

    PYTHONPATH=/tmp/rivals python -m tests.benchmarks.agents speed            # env steps/s, each in turn
    PYTHONPATH=/tmp/rivals python -m tests.benchmarks.agents processor        # the same per second of processor time
    PYTHONPATH=/tmp/rivals python -m tests.benchmarks.agents returns --task simple_speaker_listener_v4

The rival is no dependency: `pip install --target /tmp/rivals --no-deps skrl==2.1.1 mpe2 pettingzoo pygame-ce`. Both
libraries read the same file, with a network of [64, 64] for each agent, and skrl has its own wrapper of PettingZoo,
which takes one environment. `speed` and `processor` have skrl's own numbers of IPPO_CFG and MAPPO_CFG: `speed` runs
eight seeds of ours in one launch, with one and with 16 environments each, and of skrl as many processes as there are
cores, whose rates are summed; `processor` compares what one of two cores does, a pack of four seeds and one process of
skrl, in processor time, which a busy machine leaves comparable. `returns` has numbers with which both learn soon, and
one environment for both. Seeds take minutes; `--kept` is a file of those that are known, to which others are added.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("simple_spread_v3", "simple_speaker_listener_v4")
"""Of mpe2; speed is measured with the first."""
SEEDS, LAST = 8, 100
"""Seeds; episodes at the end of a training whose mean return is a seed's score."""
LEARNING = {
    "rollouts": 800,
    "learning_epochs": 10,
    "mini_batches": 4,
    "entropy_loss_scale": 0.01,
    "value_loss_scale": 0.5,
    "time_limit_bootstrap": True,
}
"""Numbers with which both learn soon."""
CORES = os.cpu_count() or 1


def configuration(algorithm: str, timesteps: int, numbers: Mapping[str, Any] = {}) -> dict[str, Any]:
    """A file that both libraries read: agent's numbers that are not here are skrl's defaults, and ours are the same."""

    def network(read: str) -> list[dict[str, Any]]:
        return [{"name": "net", "input": read, "layers": [64, 64], "activations": "tanh"}]

    scaler = {"observation_preprocessor": "RunningStandardScaler", "value_preprocessor": "RunningStandardScaler"}
    scaler |= {"state_preprocessor": "RunningStandardScaler"} if algorithm == "MAPPO" else {}
    read = "STATES" if algorithm == "MAPPO" else "OBSERVATIONS"
    return {
        "seed": 0,
        "models": {
            "separate": True,
            "policy": {"class": "CategoricalMixin", "network": network("OBSERVATIONS"), "output": "ACTIONS"},
            "value": {"class": "DeterministicMixin", "network": network(read), "output": "ONE"},
        },
        "memory": {"class": "RandomMemory", "memory_size": -1},
        "agent": {
            "class": algorithm,
            "rollouts": 16,  # which its Runner wants to be told
            # Without arguments of a schedule, skrl 2.1.1 takes its own empty default for agents' names.
            "learning_rate_scheduler": "KLAdaptiveLR",
            "learning_rate_scheduler_kwargs": {"kl_threshold": 0.008},
            **scaler,
            **numbers,
            "experiment": {"directory": "", "write_interval": 1000, "checkpoint_interval": 0},
        },
        "trainer": {"class": "SequentialTrainer", "timesteps": timesteps},
    }


class Counted:
    """A parallel environment that keeps the team's returns of its episodes in `returns`."""

    def __init__(self, env: Any) -> None:
        self.env, self.returns, self._so_far = env, list[float](), 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def step(self, actions: Any) -> Any:
        told = self.env.step(actions)
        self._so_far += sum(told[1].values())
        if not self.env.agents:
            self.returns.append(self._so_far)
            self._so_far = 0.0
        return told


def rival(algorithm: str, timesteps: int, seed: int, task: str | None) -> dict[str, Any]:
    """One seed of skrl's in this process: env steps per second while it trains, and its score on a task to learn."""
    import torch
    from skrl import config as settings  # type: ignore[import-not-found,unused-ignore]
    from skrl.envs.wrappers.torch import wrap_env  # type: ignore[import-not-found,unused-ignore]
    from skrl.utils.runner.torch import Runner  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)
    settings.torch.device = "cpu"
    settings.torch.key = seed
    config = configuration(algorithm, timesteps, LEARNING if task else {})
    config["seed"] = seed
    config["trainer"] |= {"disable_progressbar": True, "headless": True, "close_environment_at_exit": False}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        config["agent"]["experiment"]["directory"] = folder
        env = Counted(importlib.import_module(f"mpe2.{task or TASKS[0]}").parallel_env())
        runner = Runner(wrap_env(env, wrapper="pettingzoo"), config)
        began, busy = time.perf_counter(), time.process_time()
        runner.run("train")
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        runner.agent.writer.close()
    score = {"score": float(np.mean(env.returns[-LAST:]))} if task else {}
    return {"seed": seed, "steps_per_second": timesteps / seconds, "per_processor_second": timesteps / busy, **score}


def pack(algorithm: str, timesteps: int, num_envs: int) -> float:
    """A pack of half the seeds in this process: env steps per second of processor time after its first report."""
    from mpe2 import simple_spread_v3  # type: ignore[import-not-found,unused-ignore]

    from runner.envs.wrap import wrap_env
    from runner.jax import Runner

    config = configuration(algorithm, timesteps)
    config["agent"]["experiment"] |= {"write_interval": timesteps // 4}
    seeds = range(SEEDS // 2)
    runner = Runner(wrap_env(simple_spread_v3.parallel_env, num_envs), config, seeds, threads=1)
    marks = [(runner.timestep, time.process_time()) for _ in runner.reports()][1:]  # the first is before any step
    (first, began), (last, ended) = marks[0], marks[-1]
    return (last - first) * num_envs * len(seeds) / (ended - began)


def rivals(algorithm: str, timesteps: int, seeds: Sequence[int], task: str | None = None) -> Iterator[dict[str, Any]]:
    """Seeds of skrl's, one process for each core at a time."""
    for first in range(0, len(seeds), CORES):
        command = [sys.executable, "-m", "tests.benchmarks.agents", "one", "--algorithm", algorithm]
        command += [*(["--task", task] if task else []), "--timesteps", str(timesteps), "--seed"]
        some = [subprocess.Popen([*command, str(s)], stdout=subprocess.PIPE, text=True) for s in seeds[first:][:CORES]]
        for process in some:
            yield json.loads(process.communicate()[0].strip().splitlines()[-1])


def ours(algorithm: str, timesteps: int, num_envs: int, task: str | None = None) -> tuple[float, list[float]]:
    """A launch of eight seeds: the sum of their steps per second while they train, and their scores."""
    from launcher.ledger.ledger import Ledger
    from runner.training.tracking import SCORE

    with tempfile.TemporaryDirectory() as out:
        file = Path(out) / "agents.yaml"
        file.write_text(json.dumps(configuration(algorithm, timesteps, LEARNING if task else {})))
        command = [sys.executable, "-m", "launcher.cli.main", str(file), "--num-envs", str(num_envs)]
        command += ["--env", f"mpe2.{task or TASKS[0]}:parallel_env"]
        command += ["--seeds", str(SEEDS), "--out", out, "--name", "run"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with Ledger(Path(out) / "run", writer=False) as ledger:
            last = [ledger.records(row.id)[-1].record for row in ledger.trials()]
    return sum(one.env_steps / one.seconds for one in last), [one.values[SCORE] for one in last]


def speed(algorithm: str, timesteps: int, rounds: int) -> None:
    """Print rates and their ratios, each round in the same order."""
    table: dict[str, Callable[[], float]] = {
        f"skrl, {CORES} processes": lambda: sum(
            one["steps_per_second"] for one in rivals(algorithm, timesteps // 4, range(CORES))
        ),
        **{
            f"launch --seeds {SEEDS} --num-envs {envs}": lambda envs=envs: ours(algorithm, timesteps // envs, envs)[0]  # type: ignore[misc]
            for envs in (1, 16)
        },
    }
    found: dict[str, list[float]] = {name: [] for name in table}
    for _ in range(rounds):
        for name, run in table.items():
            found[name].append(run())
            print(f"{algorithm}: {name}: {found[name][-1]:,.0f} steps/s, load {os.getloadavg()[0]:.1f}", flush=True)
    base, *rest = (statistics.median(rates) for rates in found.values())
    print(f"{algorithm}: ratios {', '.join(f'{rate / base:.1f}' for rate in rest)}", flush=True)


def processor(algorithm: str, timesteps: int, rounds: int) -> None:
    """Print rates per second of processor time and their ratios."""
    for _ in range(rounds):
        base = next(rivals(algorithm, timesteps // 8, [0]))["per_processor_second"]
        rates = [pack(algorithm, timesteps // envs, envs) for envs in (1, 16)]
        told = ", ".join(
            f"{envs} x 4 {rate:,.0f} ({rate / base:.1f})" for envs, rate in zip((1, 16), rates, strict=True)
        )
        print(
            f"{algorithm}: skrl {base:,.0f}, ours {told} steps/s of a core, load {os.getloadavg()[0]:.1f}", flush=True
        )


def returns(algorithm: str, timesteps: int, task: str, kept: Path) -> None:
    """Print both libraries' scores after so many steps of one environment."""
    from launcher import stats

    table: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.exists() else {}
    own, theirs = (table.setdefault(f"{whose} {algorithm} {task} {timesteps}", {}) for whose in ("ours", "skrl"))
    if not own:
        own |= {str(seed): score for seed, score in enumerate(ours(algorithm, timesteps, 1, task)[1])}
    kept.write_text(json.dumps(table, indent=1))
    for one in rivals(algorithm, timesteps, [s for s in range(SEEDS) if str(s) not in theirs], task):
        theirs[str(one["seed"])] = one["score"]
        kept.write_text(json.dumps(table, indent=1))
    for name, found in (("skrl", theirs), ("ours", own)):
        scores = list(found.values())
        told = f"IQM {stats.interquartile_mean(scores):.2f} {stats.bootstrap_interval(scores)}"
        print(f"{algorithm}, {task}: {name}: {told}, seeds {[round(score, 2) for score in scores]}", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "processor", "returns", "one"])
    parser.add_argument("--algorithm", action="append", choices=["IPPO", "MAPPO"])
    parser.add_argument("--timesteps", type=int, default=16_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--task", choices=TASKS, help="of returns; default the first")
    parser.add_argument("--kept", type=Path, default=Path("skrl.json"))
    arguments = parser.parse_args()
    for algorithm in arguments.algorithm or ["IPPO", "MAPPO"]:
        if arguments.what == "one":
            print(json.dumps(rival(algorithm, arguments.timesteps, arguments.seed, arguments.task)))
        elif arguments.what == "speed":
            speed(algorithm, arguments.timesteps, arguments.rounds)
        elif arguments.what == "processor":
            processor(algorithm, arguments.timesteps, arguments.rounds)
        else:
            returns(algorithm, arguments.timesteps, arguments.task or TASKS[0], arguments.kept)


if __name__ == "__main__":
    main()

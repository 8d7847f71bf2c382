"""Successive halving here and by Ray Tune, one process per trial over the same Runner: env steps per second.

Both get the same trials on two cores, one after the other, each as a command of its own that starts Ray and ends it,
with no compiled program on the disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launcher.ledger.ledger import Ledger
from launcher.plan.experiment import Trial
from launcher.run.process import environment
from launcher.search import begin
from launcher.search.asha import rungs_of
from runner.config import resolve

FILE = Path(__file__).with_name("arlbench.yaml")
TASK = "Pendulum-v1"
CORES = 2


def trained(parameters: dict[str, Any]) -> None:
    """Train a trial in a process of its own, as Tune's function, with a report at every rung."""
    from ray import tune

    from runner.envs.envpool import EnvPoolTask
    from runner.jax import Runner
    from runner.training.tracking import SCORE

    config = resolve(parameters["config"])[0]
    runner = Runner(EnvPoolTask(TASK, config.env.num_envs or 0, {}), config, threads=1)
    rungs = rungs_of(config, 3, 4)
    for report in runner.reports():
        (record,) = report.records
        if record is not None and record.timestep in rungs:
            tune.report({"score": record.values[SCORE], "updates": record.timestep // config.agent.rollouts})


def by_tune(count: int, folder: Path) -> None:
    """Search by Tune's ASHAScheduler, and print the env steps that it took."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    trials = trials_of(count)
    config = trials[0].config
    first, *_, last = (at // config.agent.rollouts for at in rungs_of(config, 3, 4))
    ray.init(num_cpus=CORES, include_dashboard=False, runtime_env={"env_vars": environment(1, 0)})
    tuner = tune.Tuner(
        tune.with_resources(trained, {"cpu": 1}),
        param_space={"config": tune.grid_search([trial.config.dump() for trial in trials])},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            scheduler=ASHAScheduler(time_attr="updates", max_t=last, grace_period=first, reduction_factor=3),
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    updates = sum(int(result.metrics["updates"]) for result in tuner.fit())
    ray.shutdown()
    print(updates * config.agent.rollouts * (config.env.num_envs or 0))


def trials_of(count: int) -> tuple[Trial, ...]:
    """The trials of so many settings of three seeds."""
    flags: dict[Any, Any] = {("method",): "asha", ("trials",): count}
    return begin.read([FILE], [], {("env", "id"): TASK}, None, None, flags)[0].trials


def timed(words: list[str], folder: Path) -> tuple[str, float]:
    """What a command of Python prints, and its seconds."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(folder / "programs")}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *words], env=variables, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, time.perf_counter() - began


def compare(count: int) -> None:
    """Print both for so many settings of three seeds, and their ratio."""
    trials, rates = len(trials_of(count)), []
    for name in ("launch", "Tune"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if name == "launch":
                words = ["launcher", str(FILE), "--env", TASK, "--search", "asha", "--trials", str(count)]
                words += ["--workers", str(CORES), "--out", str(folder), "--name", "run"]
                _, seconds = timed(words, folder)
                with Ledger(folder / "run", writer=False) as ledger:
                    steps = sum(row.env_steps for row in ledger.progress())
            else:
                output, seconds = timed(["tests.benchmarks.tune", str(count), temporary], folder)
                steps = int(output.split()[-1])
        rates.append(steps / seconds)
        speed = f"{steps:,} env steps in {seconds:.0f} s, {rates[-1]:,.0f} steps/s"
        print(f"{name:6} {trials} trials: {speed} (load {os.getloadavg()[0]:.1f})", flush=True)
    print(f"ratio {rates[0] / rates[1]:.1f}")


if __name__ == "__main__":
    by_tune(int(sys.argv[1]), Path(sys.argv[2]))

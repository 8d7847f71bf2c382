"""Successive halving here and by Ray Tune, one process per trial over the same Runner: env steps per second.

    pip install --target FOLDER --no-deps pandas pyarrow tensorboardX
    PYTHONPATH=FOLDER python -m tests.benchmarks.tune 6       # settings, with 3 seeds each

Both get the same trials on two cores, one after the other. Tune is timed with Ray running already; launch from its
command to its end, with the start of Ray.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from launcher.ledger.ledger import Ledger
from launcher.plan.experiment import Trial
from launcher.search import begin
from launcher.search.asha import rungs_of
from runner.config import resolve

FILE = Path(__file__).with_name("arlbench.yaml")


def trials_of(count: int) -> list[Trial]:
    """The trials of so many settings."""
    flags: dict[Any, Any] = {("method",): "asha", ("trials",): count}
    return list(begin.read([FILE], [], {("env", "id"): "Pendulum-v1"}, None, None, flags)[0].trials)


def trained(parameters: dict[str, Any]) -> None:
    """Train a trial in a process of its own, as Tune's function, with a report at every rung."""
    from ray import tune

    from runner.envs.envpool import EnvPoolTask
    from runner.jax import Runner
    from runner.training.tracking import SCORE

    config = resolve(parameters["config"])[0]
    runner = Runner(EnvPoolTask("Pendulum-v1", config.env.num_envs or 0, {}), config, threads=1)
    rungs = rungs_of(config, 3, 4)
    for report in runner.reports():
        (record,) = report.records
        if record is not None and record.timestep in rungs:
            tune.report({"score": record.values[SCORE], "updates": record.timestep // config.agent.rollouts})


def by_tune(trials: list[Trial], folder: Path) -> tuple[int, float]:
    """Env steps and seconds of Tune's ASHAScheduler."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    config = trials[0].config
    first, *_, last = (at // config.agent.rollouts for at in rungs_of(config, 3, 4))
    scheduler = ASHAScheduler(time_attr="updates", max_t=last, grace_period=first, reduction_factor=3)
    tuner = tune.Tuner(
        tune.with_resources(trained, {"cpu": 1}),
        param_space={"config": tune.grid_search([trial.config.dump() for trial in trials])},
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=scheduler),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    )
    began = time.perf_counter()
    found = tuner.fit()
    seconds = time.perf_counter() - began
    updates = sum(int(result.metrics["updates"]) for result in found)
    return updates * config.agent.rollouts * (config.env.num_envs or 0), seconds


def by_launch(count: int, folder: Path) -> tuple[int, float]:
    """Env steps and seconds of `launch --search asha`."""
    from launcher.cli.main import main

    words = ["--env", "Pendulum-v1", "--search", "asha", "--trials", str(count), "--workers", "2"]
    began = time.perf_counter()
    main([str(FILE), *words, "--out", str(folder), "--name", "run"])
    seconds = time.perf_counter() - began
    with Ledger(folder / "run", writer=False) as ledger:
        return sum(row.env_steps for row in ledger.progress()), seconds


def compare(count: int) -> None:
    """Print both, and the ratio."""
    import ray

    trials = trials_of(count)
    with tempfile.TemporaryDirectory() as folder:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        theirs = by_tune(trials, Path(folder) / "tune")
        ray.shutdown()
        ours = by_launch(count, Path(folder) / "launch")
    for name, (steps, seconds) in (("launch", ours), ("Tune", theirs)):
        print(f"{name:6} {len(trials)} trials: {steps:,} env steps in {seconds:.0f} s, {steps / seconds:,.0f} steps/s")
    print(f"ratio {ours[0] / ours[1] / (theirs[0] / theirs[1]):.1f}; load {Path('/proc/loadavg').read_text().strip()}")


if __name__ == "__main__":
    compare(int(sys.argv[1]))

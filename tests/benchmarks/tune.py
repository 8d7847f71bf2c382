"""Successive halving here and by Ray Tune, one process per trial over the same Runner: env steps per second.

Both get the same trials on two cores, one after the other, each as a command of its own that starts Ray and ends it,
with no compiled program on the disk. Processor time is that of all their processes.
"""

from __future__ import annotations

import ctypes
import os
import resource
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
_SUBREAPER = 36
"""Linux's number of the setting by which a process is the parent of what its descendants leave behind."""


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


def timed(words: list[str], folder: Path) -> tuple[str, float, float]:
    """What a command prints, its seconds, and the processor time of all processes that it started."""
    variables = {**os.environ, "XDG_CACHE_HOME": str(folder / "programs")}
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    output = subprocess.run(words, env=variables, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds = time.perf_counter() - began
    try:
        while True:
            os.wait()  # for the processes of Ray, which follow
    except ChildProcessError:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return output, seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compare(count: int) -> None:
    """Print both for so many settings of three seeds, and their ratios."""
    trials, rates = len(trials_of(count)), []
    python = [sys.executable, "-m"]
    for name in ("launch", "Tune"):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            if name == "launch":
                words = ["launcher", str(FILE), "--env", TASK, "--search", "asha", "--trials", str(count)]
                words += ["--workers", str(CORES), "--out", str(folder), "--name", "run"]
                _, seconds, processor = timed([*python, *words], folder)
                with Ledger(folder / "run", writer=False) as ledger:
                    steps = sum(row.env_steps for row in ledger.progress())
            else:
                output, seconds, processor = timed([*python, "tests.benchmarks.tune", str(count), temporary], folder)
                steps = int(output.split()[-1])
        rates.append((steps / seconds, steps / processor))
        print(
            f"{name:6} {trials} trials: {steps:,} env steps in {seconds:.0f} s, {rates[-1][0]:,.0f} steps/s; in "
            f"{processor:.0f} s of processor time, {rates[-1][1]:,.0f} steps/s (load {os.getloadavg()[0]:.1f})",
            flush=True,
        )
    clock, processor = (ours / theirs for ours, theirs in zip(*rates, strict=True))
    print(f"ratio {clock:.1f} by the clock, {processor:.1f} by processor time")


if __name__ == "__main__":
    by_tune(int(sys.argv[1]), Path(sys.argv[2]))

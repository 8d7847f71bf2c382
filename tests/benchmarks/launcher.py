"""What the launcher adds to training: its start, its reports, and what packs of trials gain.

    python -m tests.benchmarks.launcher start
    python -m tests.benchmarks.launcher reporting
    python -m tests.benchmarks.launcher packs
    python -m tests.benchmarks.launcher address
    python -m tests.benchmarks.launcher cores

- `start`: from `launch` typed to the first update of two trials, for torch and JAX on CPU. "without the launcher" is a
  program that does only what has to be: start Ray as the launcher does, import in two actors, build a Runner in each
  and train to the first record. What the launcher takes beyond it is ours. The record is stored up to a second after
  the update, at the worker's next beat; the update's own time follows from the seconds that records carry.
- `reporting`: steps/s of the same pack in a Ray actor pinned to one core: a Runner whose reports are dropped, a worker
  that reports to an aggregator and saves ten times, and one that saves every 80 timesteps, as the file says.
- `packs`: a sweep of 8 learning rates x 4 seeds as one `launch`, and again with --trials-per-pack 1.
- `address`: steps/s of two trials in two workers, on a Ray of the launch's own and on a cluster of a head and two
  nodes with a core each.
- `cores`: one seed of HalfCheetah-v4 on all cores, as `launch` has it, and with --cores-per-worker 1; beside it what
  EnvPool alone gains from a second thread, which is the most that stepping can gain.

All in turn and several rounds; what is compared are medians. Round 0 fills the compiler's cache and does not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

# Read when ray is imported.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

CONFIGS = Path(__file__).parents[2] / "configs"
CARTPOLE = CONFIGS / "classic" / "cartpole.yaml"
ROLLOUTS = 32
"""Of that file."""
PENDULUM = CONFIGS / "skrl" / "ppo.yaml"
MEMBERS = 4
SWEEP = "agent.learning_rate=1e-4,2e-4,3e-4,4e-4,5e-4,6e-4,8e-4,1e-3"


def start_ray() -> None:
    """As the launcher does."""
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


WORKERS = ("--workers", "2")


def launch(*arguments: str, environment: Mapping[str, str] = os.environ) -> tuple[float, float, dict[str, Any]]:
    """Run `launch`: when it began, how long it took, and from its ledger what `read_ledger` says."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "launcher", *arguments, "--out", out, "--name", "run"]
        began = time.time()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return began, time.time() - began, read_ledger(Path(out) / "run")


def read_ledger(directory: Path) -> dict[str, Any]:
    """When the first attempt was opened, the first record stored and the first update done; seconds of training."""
    from launcher.ledger.ledger import Ledger

    with Ledger(directory, writer=False) as ledger:
        curves = [ledger.records(row.id) for row in ledger.trials()]
        opened = min(row.opened_at for row in ledger.attempts())
    # A record of a push waited for it; the youngest one of each push hardly.
    first = min(min(r.wall_time - r.record.seconds for r in curve) + curve[0].record.seconds for curve in curves)
    return {
        "opened": opened,
        "stored": min(curve[0].wall_time for curve in curves),
        "first": first,
        "steps_per_second": sum(curve[-1].record.env_steps / curve[-1].record.seconds for curve in curves),
    }


# Start


def with_launcher(backend: str) -> dict[str, float]:
    """Seconds from the start of the process until its attempts are open, and until the first record."""
    seeds = ("--seeds", "2", "--backend", backend, "--set", f"agent.experiment.write_interval={ROLLOUTS}")
    began, wall, found = launch(str(CARTPOLE), *seeds, *WORKERS)
    return {name: found[name] - began for name in ("opened", "first", "stored")} | {"wall": wall}


def without_launcher(backend: str) -> dict[str, float]:
    """The same with nothing but Ray, two actors and their Runners, in a process of its own."""
    began = time.time()
    arguments = [sys.executable, "-m", "tests.benchmarks.launcher", "bare", "--backend", backend]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True)
    moments = json.loads(done.stdout.splitlines()[-1])
    return {name: moment - began for name, moment in moments.items()}


def bare(backend: str) -> None:
    """Print when Ray was up, the actors had imported everything, and the first of them had its first record."""
    import ray

    from launcher.run.worker import Worker

    class Bare(Worker):
        def first(self) -> float:
            from runner.config import load_config
            from runner.envs.envpool import EnvPoolTask

            config = load_config(CARTPOLE, [(("agent", "experiment", "write_interval"), ROLLOUTS)])[0]
            task = EnvPoolTask(str(config.env.id), config.env.num_envs or 0, config.env.arguments)
            for report in self._backend.Runner(task, config, threads=1).reports():
                if report.records[0] is not None:
                    break
            return time.time()

    imported = time.time()
    start_ray()
    up = time.time()
    workers = [ray.remote(num_cpus=1)(Bare).remote(backend, 1, 0) for _ in range(2)]
    ray.get([worker.ready.remote() for worker in workers])
    ready = time.time()
    first = min(ray.get([worker.first.remote() for worker in workers]))
    print(json.dumps({"imported": imported, "up": up, "ready": ready, "first": first}))


def start(rounds: int) -> None:
    """Both, for both backends."""
    heads = ("import ray", "ray.init", "workers", "first update", "launch: open", "first update", "stored", "ours")
    print(f"{'seconds, medians':18}" + "".join(f"{head:>14}" for head in heads))
    for backend in ("jax", "torch"):
        found = in_turn(rounds, partial(without_launcher, backend), partial(with_launcher, backend))
        least, ours = ({name: statistics.median(r[name] for r in some) for name in some[0]} for some in found)
        beyond = statistics.median(b["first"] - a["first"] for a, b in zip(*found, strict=True))
        columns = (
            least["imported"],
            least["up"] - least["imported"],
            least["ready"] - least["up"],
            least["first"],
            ours["opened"],
            ours["first"],
            ours["stored"],
            beyond,
        )
        print(f"{backend:18}" + "".join(f"{seconds:14.2f}" for seconds in columns), flush=True)


def in_turn(rounds: int, *calls: Callable[[], dict[str, float]]) -> list[list[dict[str, float]]]:
    """Call each once a round; the results of each, without round 0."""
    found: list[list[dict[str, float]]] = [[] for _ in calls]
    for round_ in range(rounds + 1):
        for call, results in zip(calls, found, strict=True):
            result = call()
            print(f"round {round_}: " + ", ".join(f"{k} {v:,.2f}" for k, v in result.items()), file=sys.stderr)
            if round_:
                results.append(result)
    return found


# Reporting


def reporting(rounds: int, timesteps: int) -> None:
    """Steps/s of a worker, over those of a Runner in the same process that nobody listens to."""
    import ray

    from launcher.ledger.aggregator import start_aggregator
    from launcher.plan import directory as folder
    from launcher.plan.experiment import Trial
    from launcher.run.process import Job
    from launcher.run.worker import Worker
    from tests.launcher.builders import read_experiment

    class Both(Worker):
        def alone(self, job: Job) -> float:
            from runner.config import resolve
            from runner.envs.envpool import EnvPoolTask

            configs = [resolve(config)[0] for config in job.configs]
            env = configs[0].env
            task = EnvPoolTask(str(env.id), env.num_envs or 0, env.arguments)
            runner = self._backend.Runner(task, configs[0], configs=configs, threads=job.threads)
            rate = 0.0
            for report in runner.reports():
                record = report.records[0]
                if record is not None:
                    rate = record.env_steps / record.seconds
            return rate * len(configs)

    def trials(*settings: str) -> Sequence[Trial]:
        auto = ["agent.experiment.write_interval=auto", f"trainer.timesteps={timesteps}"]
        flags: dict[Any, Any] = {("env", "id"): "Pendulum-v1", ("env", "num_envs"): 64}
        return read_experiment([PENDULUM], [*auto, *settings], flags, str(MEMBERS)).trials

    def job(trials: Sequence[Trial], attempt: int, directory: Path) -> Job:
        configs = tuple(trial.config.dump() for trial in trials)
        return Job(attempt, tuple(trial.id for trial in trials), configs, None, directory / "log", 1)

    def alone(trials: Sequence[Trial]) -> dict[str, float]:
        return {"steps_per_second": ray.get(actor.alone.remote(job(trials, 0, Path())))}

    def reported(trials: Sequence[Trial]) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as parent:
            directory = Path(parent) / "launch"
            folder.create(directory, trials)
            aggregator = start_aggregator(directory)
            attempt = ray.get(aggregator.call.remote("open", [trial.id for trial in trials], "token")).number
            ray.get(actor.train.remote(job(trials, attempt, directory), aggregator))
            ray.kill(aggregator)
            return {"steps_per_second": read_ledger(directory)["steps_per_second"]}

    start_ray()
    actor = ray.remote(num_cpus=1)(Both).remote("jax", 1, 0)
    ray.get(actor.ready.remote())
    default, often = trials("agent.experiment.checkpoint_interval=auto"), trials()
    runner, worker, saver = in_turn(
        rounds, partial(alone, default), partial(reported, default), partial(reported, often)
    )
    ray.shutdown()
    compare("Runner alone", "worker that reports", [runner, worker], "steps_per_second")
    compare("Runner alone", "and saves as often as the file", [runner, saver], "steps_per_second")


def compare(first: str, second: str, found: Sequence[Sequence[dict[str, float]]], field: str) -> None:
    """Medians of a field, and the median of the rounds' ratios."""
    numbers = [[result[field] for result in results] for results in found]
    for name, some in zip((first, second), numbers, strict=True):
        print(f"{name:32}{statistics.median(some):14,.1f}{min(some):14,.1f}{max(some):14,.1f}")
    ratios = sorted(b / a for a, b in zip(*numbers, strict=True))
    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(f"{second} / {first}: {statistics.median(ratios):.3f}  ({shown})", flush=True)


# Packs


def packs(rounds: int, timesteps: int) -> None:
    """The time of a whole sweep, in packs and trial by trial."""

    def sweep(*flags: str) -> dict[str, float]:
        what = ("--env", "Pendulum-v1", "--num-envs", "64", "--seeds", "4", "--set", SWEEP)
        _, wall, found = launch(str(PENDULUM), *what, "--set", f"trainer.timesteps={timesteps}", *WORKERS, *flags)
        return {"wall_seconds": wall, "steps_per_second": found["steps_per_second"]}

    found = in_turn(rounds, sweep, lambda: sweep("--trials-per-pack", "1"))
    compare("in packs, seconds", "--trials-per-pack 1, seconds", found, "wall_seconds")


# Address


def address(rounds: int, timesteps: int) -> None:
    """The speed of training on Ray nodes that were there already, over that on a Ray of the launch's own."""
    from tests.launcher.raylets import raylets

    what = (
        str(CARTPOLE),
        "--seeds",
        "2",
        "--trials-per-pack",
        "1",
        "--set",
        f"trainer.timesteps={timesteps}",
        *WORKERS,
    )

    def local() -> dict[str, float]:
        return {"steps_per_second": launch(*what)[2]["steps_per_second"]}

    with raylets() as cluster:
        cluster.add_node("a")
        cluster.add_node("b")
        there = ("--address", cluster.address)

        def joined() -> dict[str, float]:
            _, _, found = launch(*what, *there, environment=cluster.environment)
            return {"steps_per_second": found["steps_per_second"]}

        found = in_turn(rounds, local, joined)
    compare("a Ray of its own", "two nodes of a cluster", found, "steps_per_second")


# Cores


def cores(rounds: int, timesteps: int, backend: str) -> None:
    """The speed of one trial on all cores over that on one, and the same of the environment alone."""
    from tests.benchmarks.throughput import in_process

    env, envs = "HalfCheetah-v4", "64"
    what = ("--env", env, "--num-envs", envs, "--backend", backend, "--set", f"trainer.timesteps={timesteps}")

    def trained(*flags: str) -> dict[str, float]:
        _, _, found = launch(str(PENDULUM), *what, *flags)
        return {"steps_per_second": found["steps_per_second"]}

    def alone(threads: int) -> dict[str, float]:
        arguments = ("environment", env, "--num-envs", envs, "--timesteps", "2000", "--threads", str(threads))
        return {"steps_per_second": in_process("tests.benchmarks.rivals", *arguments)["steps_per_second"]}

    threads = os.cpu_count() or 1
    calls = (partial(trained, "--cores-per-worker", "1"), trained, partial(alone, 1), partial(alone, threads))
    one, every, first, pool = in_turn(rounds, *calls)
    compare("launch --cores-per-worker 1", "launch", [one, every], "steps_per_second")
    compare("environment alone, 1 thread", f"environment alone, {threads} threads", [first, pool], "steps_per_second")


def main() -> None:
    """Measure one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "reporting", "packs", "address", "cores", "bare"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--timesteps", type=int, help="of each training")
    parser.add_argument("--backend", default="jax", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "bare":
        bare(arguments.backend)
        return
    print(import_module("tests.benchmarks.ledger").machine(), flush=True)
    if arguments.what == "start":
        start(arguments.rounds)
    elif arguments.what == "reporting":
        reporting(arguments.rounds, arguments.timesteps or 8000)
    elif arguments.what == "packs":
        packs(arguments.rounds, arguments.timesteps or 1600)
    elif arguments.what == "address":
        address(arguments.rounds, arguments.timesteps or 64000)
    else:
        cores(arguments.rounds, arguments.timesteps or 9600, arguments.backend)


if __name__ == "__main__":
    main()

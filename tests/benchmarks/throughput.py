"""Training speed against the environment alone and against other libraries: every program in turn, several rounds.

    python -m tests.benchmarks.throughput Pendulum-v1
    python -m tests.benchmarks.throughput HalfCheetah-v4 --timesteps 800 --rivals /tmp/rivals/bin/python

The work is PPO as in configs/skrl/ppo.yaml with 64 environments a trial, or with --work wide that of a network of
256 x 256 with rollouts of 64 steps, 5 epochs and 2 minibatches, in launches of 4 seeds. Each line is a process of its
own, so that nothing is warm but the compiler's cache (round 0 fills it and is not counted); the order within a round is
fixed, and what is compared are medians over rounds.

    python -m tests.benchmarks.throughput --pong /tmp/before     # a checkout of an older version

does the same for tests/benchmarks/pong.yaml, one seed on one core, in env steps per second of processor time: this
version in torch and JAX, the older one in torch, eager and compiled, and CleanRL's loop.

Rivals (skrl, stable_baselines3, rl_games) run where they are installed: in this environment, or in another one named by
--rivals (see rivals.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.benchmarks.rivals import Work

CONFIG = Path(__file__).parents[2] / "configs" / "skrl" / "ppo.yaml"
PONG = Path(__file__).with_name("pong.yaml")
NUM_ENVS = 64
RIVALS = {"skrl": "skrl", "skrl_jax": "flax", "stable_baselines3": "stable_baselines3", "rl_games": "rl_games"}
"""Name in rivals.py → a package that must be there."""
BACKENDS = {
    "torch eager": ("torch", {"compile": False}),
    "torch compiled": ("torch", {"compile": True}),
    "jax": ("jax", {}),
}
"""Label → backend and settings."""


def sizes(work: Work) -> dict[tuple[str, ...], Any]:
    """Settings of configs/skrl/ppo.yaml that make it this work."""
    return {
        **{("models", role, "hiddens"): list(work.units) for role in ("policy", "value")},
        ("agent", "rollouts"): work.rollouts,
        ("agent", "learning_epochs"): work.epochs,
        ("agent", "mini_batches"): work.mini_batches,
        ("agent", "experiment", "write_interval"): work.rollouts,
        ("agent", "experiment", "checkpoint_interval"): work.checkpoint_interval,
    }


def train(task: str, members: int, timesteps: int, label: str, work: Work) -> dict[str, float]:
    """One pack in this process: seconds until it trains, imports excluded, and steps per second while training."""
    from runner.config import load_config
    from runner.envs.envpool import EnvPoolTask

    backend, settings = BACKENDS[label]
    runner_class = import_module(f"runner.{backend}").Runner
    overrides = sizes(work) | {
        ("trainer", "timesteps"): timesteps,
        ("agent", "experiment", "checkpoint_interval"): 0,
        **{(name,): value for name, value in settings.items()},
    }
    config, _ = load_config(CONFIG, list(overrides.items()))
    start = began = time.perf_counter()
    runner = runner_class(EnvPoolTask(task, NUM_ENVS), config, seeds=range(members))
    for report in runner.reports():
        if report.records[0] is None:
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    return {"steps_per_second": members * NUM_ENVS * timesteps / seconds, "ready_seconds": began - start}


def pong(label: str, updates: int) -> dict[str, float]:
    """Env steps per second of processor time of one seed of PONG, its first update not counted."""
    from runner.config import load_config
    from runner.envs.envpool import EnvPoolTask

    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    backend, settings = BACKENDS[label]
    overrides: list[Any] = [
        (("trainer", "timesteps"), 128 * (updates + 1)),
        (("agent", "experiment", "write_interval"), 128),
        (("agent", "experiment", "checkpoint_interval"), 0),
        *(((name,), value) for name, value in settings.items()),
    ]
    config, _ = load_config(PONG, overrides)
    task = EnvPoolTask("Pong-v5", 8, {"stack_num": 4, "episodic_life": True, "reward_clip": True})
    runner = import_module(f"runner.{backend}").Runner(task, config, seeds=[0], threads=1)
    marks = [(report.records[0], time.process_time()) for report in runner.reports()]
    used = [mark for record, mark in marks if record is not None]
    return {"steps_per_second": 128 * 8 * (len(used) - 1) / (used[-1] - used[0])}


def pongs(before: str, rounds: int, updates: int) -> None:
    """Measure `pong` of this version and of the one in a checkout, and CleanRL's loop, in turn, and print medians."""
    one = [sys.executable, __file__, "--updates", str(updates), "--one-pong"]
    here = {"PYTHONPATH": str(Path(__file__).parents[2])}
    table = {label: ([*one, label], here) for label in ("torch eager", "jax")}
    table |= {
        f"before: {label}": ([*one, label], {"PYTHONPATH": before}) for label in ("torch eager", "torch compiled")
    }
    rival = [sys.executable, "-m", "tests.benchmarks.rivals", "cleanrl", "Pong-v5", "--num-envs", "8"]
    table["cleanrl"] = ([*rival, "--timesteps", str(128 * updates)], here)
    found: dict[str, list[float]] = {name: [] for name in table}
    for round_ in range(rounds):
        for name, (command, where) in table.items():
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | where)
            result = json.loads(done.stdout.strip().splitlines()[-1])
            used = result.get("processor_seconds")
            found[name].append(result["env_steps"] / used if used else result["steps_per_second"])
            load = f"load {os.getloadavg()[0]:.1f}"
            print(f"round {round_}: {name}: {found[name][-1]:,.0f} steps/s, {load}", file=sys.stderr, flush=True)
    for name, rates in found.items():
        ratio = statistics.median(a / b for a, b in zip(found["torch eager"], rates, strict=True))
        print(f"{name:24}{statistics.median(rates):8,.0f} steps/s of processor time; this version: {ratio:.2f} times")


def launch(task: str, timesteps: int, label: str, work: Work) -> dict[str, float]:
    """`launch --seeds N` as a person types it: its whole time, and the sum of its trials' steps/s while training."""
    from launcher.ledger.ledger import Ledger

    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "launcher.cli.main", str(CONFIG), "--env", task, "--num-envs", str(NUM_ENVS)]
        command += ["--seeds", str(work.seeds), "--out", out, "--name", "run", f"--set=trainer.timesteps={timesteps}"]
        command += [f"--set={'.'.join(path)}={value}" for path, value in sizes(work).items()]
        backend, settings = BACKENDS[label]
        command += ["--backend", backend, *(f"--set={name}={value}" for name, value in settings.items())]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - began
        with Ledger(Path(out) / "run", writer=False) as ledger:
            last = [ledger.records(row.id)[-1].record for row in ledger.trials()]
    return {"steps_per_second": sum(r.env_steps / r.seconds for r in last), "wall_seconds": wall}


def in_process(*arguments: str, python: str = sys.executable) -> dict[str, float]:
    """Run a module of this package in a process of its own and read the JSON line that it prints."""
    began = time.perf_counter()
    done = subprocess.run(
        [python, "-m", *arguments], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return {"wall_seconds": time.perf_counter() - began, **result}


def installed(python: str) -> list[str]:
    """Rivals that this interpreter can import."""
    probe = f"import importlib.util as u; print(*[n for n, package in {RIVALS!r}.items() if u.find_spec(package)])"
    return subprocess.run([python, "-c", probe], check=True, capture_output=True, text=True).stdout.split()


def programs(task: str, timesteps: int, rivals_python: str, name: str) -> dict[str, Callable[[], dict[str, float]]]:
    """Name → one measurement of the work of this name."""
    from tests.benchmarks.rivals import WORKS

    work = WORKS[name]
    common = (task, "--work", name, "--timesteps", str(timesteps))

    def ours(members: int, label: str) -> Callable[[], dict[str, float]]:
        return lambda: in_process("tests.benchmarks.throughput", *common, "--one", f"{members},{label}")

    def rival(library: str) -> Callable[[], dict[str, float]]:
        arguments = ("tests.benchmarks.rivals", library, *common, "--num-envs", str(NUM_ENVS))
        return lambda: in_process(*arguments, python=rivals_python)

    table: dict[str, Callable[[], dict[str, float]]] = {
        "environment alone": lambda: in_process(
            "tests.benchmarks.rivals", "environment", task, "--num-envs", str(NUM_ENVS), "--timesteps", "4000"
        )
    }
    table |= {library: rival(library) for library in installed(rivals_python)}
    for members in (1, work.seeds):
        table |= {f"runner P={members} {label}": ours(members, label) for label in BACKENDS}
    launches = {label: partial(launch, task, timesteps, label, work) for label in BACKENDS}
    table |= {f"launch --seeds {work.seeds} {label}": run for label, run in launches.items()}
    return table


def main() -> None:
    """Measure and print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="Pendulum-v1")
    parser.add_argument("--work", choices=("page", "wide"), default="page")
    parser.add_argument("--timesteps", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rivals", default=sys.executable, help="a Python that has rival libraries installed")
    parser.add_argument("--only", nargs="+", default=[""], help="programs with one of these in their names")
    parser.add_argument("--pong", metavar="DIR", help="measure tests/benchmarks/pong.yaml, against a checkout too")
    parser.add_argument("--updates", type=int, default=4, help="that are counted of pong.yaml")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--one-pong", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_pong:
        print(json.dumps(pong(arguments.one_pong, arguments.updates)))
        return
    if arguments.pong:
        pongs(arguments.pong, arguments.rounds, arguments.updates)
        return
    from tests.benchmarks.rivals import WORKS  # not above, where another version's may lie on the path

    if arguments.one:
        members, label = arguments.one.split(",")
        print(json.dumps(train(arguments.task, int(members), arguments.timesteps, label, WORKS[arguments.work])))
        return
    table = programs(arguments.task, arguments.timesteps, arguments.rivals, arguments.work)
    table = {name: run for name, run in table.items() if any(part in name for part in arguments.only)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in table}
    for round_ in range(arguments.rounds + 1):
        for name, run in table.items():
            result = run()
            print(f"round {round_}: {name}: {result['steps_per_second']:,.0f} steps/s", file=sys.stderr, flush=True)
            if round_:
                found[name].append(result)
    show(arguments.task, arguments.timesteps, arguments.rounds, WORKS[arguments.work].seeds, found)


def show(task: str, timesteps: int, rounds: int, seeds: int, found: dict[str, list[dict[str, float]]]) -> None:
    """Print medians, their spread, and ratios to the environment alone and to skrl."""

    def median(name: str, field: str) -> float | None:
        values = [r[field] for r in found.get(name, []) if field in r]
        return statistics.median(values) if values else None

    print(f"{task}, {NUM_ENVS} environments a trial, {timesteps} timesteps, medians of {rounds} rounds")
    machine = f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, python {platform.python_version()}")
    heads = (
        ("steps/s", 10),
        ("min", 10),
        ("max", 10),
        ("/ env", 8),
        ("/ skrl", 8),
        ("/ skrl jax", 11),
        ("ready", 9),
        ("whole process", 15),
        (f"/ {seeds} x skrl", 12),
    )
    print(" " * 28 + "".join(f"{head:>{width}}" for head, width in heads))
    alone, skrl = median("environment alone", "steps_per_second"), median("skrl", "steps_per_second")
    skrl_jax = median("skrl_jax", "steps_per_second")
    skrl_wall = median("skrl", "wall_seconds")
    for name, results in found.items():
        rates = [r["steps_per_second"] for r in results]
        rate, wall = statistics.median(rates), median(name, "wall_seconds")
        line = f"{name:28}{rate:10,.0f}{min(rates):10,.0f}{max(rates):10,.0f}"
        line += f"{rate / alone:8.2f}" if alone else f"{'-':>8}"
        line += f"{rate / skrl:8.2f}" if skrl else f"{'-':>8}"
        line += f"{rate / skrl_jax:11.2f}" if skrl_jax else f"{'-':>11}"
        ready = median(name, "ready_seconds")
        line += f"{ready:7.1f} s" if ready is not None else f"{'-':>9}"
        line += f"{wall:13.1f} s" if wall else f"{'-':>15}"
        line += f"{wall / (seeds * skrl_wall):12.2f}" if wall and skrl_wall and name.startswith("launch") else ""
        print(line)


if __name__ == "__main__":
    main()

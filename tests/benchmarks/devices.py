"""One trial on several processes of one core each, against one process of one core: `trainer.devices`, in turn.

    python -m tests.benchmarks.devices
    python -m tests.benchmarks.devices --backend torch --devices 4 --rounds 5

HalfCheetah-v4 with 128 environments, networks of 256-256, configs/skrl/ppo.yaml else, in minibatches of 2,048 rows.
Each process is pinned to a core of its own. Round 0 fills the compiler's cache and is not counted; what is compared are
medians. Beside the clock's ratio stands that of processor time, of the process that used the most: on a machine that
others use, too, it is what there is to gain where nobody does.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from launcher.run.process import of_program

CONFIG = Path(__file__).parents[2] / "configs" / "skrl" / "ppo.yaml"
TASK, ENVS, ROLLOUTS = "HalfCheetah-v4", 128, 64
LAYERS = [256, 256]


def train(backend: str, rank: int, size: int, address: str, updates: int) -> dict[str, float]:
    """Train as one of so many processes: seconds, and those of the processor, after the first update."""
    from runner.config import load_config
    from runner.envs.envpool import EnvPoolTask
    from runner.group import Group

    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    framework, group = import_module(f"runner.{backend}"), Group(rank, size, address)
    if size > 1:
        framework.join(group)
    settings: dict[tuple[str, ...], Any] = {
        ("trainer", "timesteps"): updates * ROLLOUTS,
        ("agent", "rollouts"): ROLLOUTS,
        ("agent", "mini_batches"): ENVS * ROLLOUTS // 2048,
        ("agent", "experiment", "write_interval"): ROLLOUTS,
        ("agent", "experiment", "checkpoint_interval"): 0,
        ("models", "separate"): True,
        ("models", "policy", "hiddens"): LAYERS,
        ("models", "value", "hiddens"): LAYERS,
    }
    config, _ = load_config(CONFIG, list(settings.items()))
    runner = framework.Runner(EnvPoolTask(TASK, ENVS), config, threads=1, group=group)
    began = used = 0.0
    for number, _ in enumerate(runner.reports()):
        if number == 1:  # the first update is done, and everything warm
            began, used = time.perf_counter(), time.process_time()
    return {"seconds": time.perf_counter() - began, "processor": time.process_time() - used}


def measure(backend: str, size: int, updates: int) -> dict[str, float]:
    """Env steps per second by the clock, and by the processor time of the busiest process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "tests.benchmarks.devices", "--updates", str(updates), "--one"]
    jobs = [json.dumps([backend, rank, size, address]) for rank in range(size)]
    running = [subprocess.Popen([*command, job], env=of_program(), stdout=subprocess.PIPE, text=True) for job in jobs]
    found = [json.loads(one.communicate()[0].strip().splitlines()[-1]) for one in running]
    steps = ENVS * ROLLOUTS * (updates - 1)
    return {name: steps / max(one[name] for one in found) for name in ("seconds", "processor")}


def main() -> None:
    """Measure in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=("torch", "jax"), action="append")
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(train(*json.loads(arguments.one), arguments.updates)))
        return
    print(f"{TASK}, {ENVS} environments, {os.cpu_count()} cores, medians of {arguments.rounds} rounds")
    for backend in arguments.backend or ("torch", "jax"):
        found: dict[int, list[dict[str, float]]] = {1: [], arguments.devices: []}
        for round_ in range(arguments.rounds + 1):
            for size, results in found.items():
                result = measure(backend, size, arguments.updates)
                load = f"load {os.getloadavg()[0]:.1f}"
                print(f"round {round_}: {backend} {size}: {result['seconds']:,.0f} steps/s, {load}", file=sys.stderr)
                results += [result] if round_ else []
        one, many = (statistics.median(r["seconds"] for r in results) for results in found.values())
        pairs = list(zip(*found.values(), strict=True))
        clock, processor = (statistics.median(m[name] / o[name] for o, m in pairs) for name in ("seconds", "processor"))
        print(
            f"{backend:6} 1: {one:,.0f} steps/s; {arguments.devices}: {many:,.0f} steps/s; ratio {clock:.2f} by the "
            f"clock, {processor:.2f} by processor time"
        )


if __name__ == "__main__":
    main()

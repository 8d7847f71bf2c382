"""A GPU in at most eight minutes: what is there, whether it is right, and how fast training is.

    python -m tests.benchmarks.gpu --out gpu.json

- a: versions and devices; b: EnvPool's XLA step on this GPU, each task in a process of its own, since it may end it;
- c, g: `pytest -m gpu`: a GPU against a CPU, graphs against single operations, noise, checkpoints on another device;
- d: steps/s of torch eager, compiled and as graphs, by members and task, beside EnvPool alone, and how the time is
  shared between environment, acting and updates;
- e: TF32 and bfloat16 on Pong; half-pools on and off; f: JAX with send and receive, and with EnvPool's XLA step.

Whatever does not fit into the time is listed as not run. Without a GPU nothing is measured and the exit status is 1;
`--rehearse` runs the same on the CPU, a moment each, to see that it works.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
SECONDS = 480
FILES = {
    "CartPole-v1": "configs/classic/cartpole.yaml", "HalfCheetah-v4": "configs/skrl/ppo.yaml",
    "Pong-v5": "tests/benchmarks/pong.yaml",
}  # fmt: skip
ENVS = {"CartPole-v1": 32, "HalfCheetah-v4": 64, "Pong-v5": 64}
BACKENDS = "torch", "jax"
PACKAGES = "torch", "jax", "jaxlib", "envpool", "numpy"
EAGER = {"compile": False}


class Item(NamedTuple):
    """One measurement: what is told of it, and how it is made."""

    name: str
    task: str
    members: int
    backend: str = "torch"
    mode: str = "graphs"
    settings: Mapping[str, Any] = EAGER


def items() -> list[Item]:
    """The measurements of d to f, those that bars are about first."""
    found = [
        Item("environment alone", "Pong-v5", 1, "environment"),
        Item("graphs", "Pong-v5", 1),
        Item("eager", "CartPole-v1", 1, mode="eager"),
        Item("graphs", "CartPole-v1", 1),
        Item("graphs", "CartPole-v1", 256),
    ]
    for task in ("HalfCheetah-v4", "CartPole-v1"):
        found.append(Item("environment alone", task, 1, "environment"))
        found += [Item(mode, task, members, mode=mode) for members in (1, 8, 32) for mode in ("eager", "graphs")]
    found += [Item("eager", "Pong-v5", 1, mode="eager"), Item("graphs", "Pong-v5", 8)]
    found += [
        Item("TF32", "Pong-v5", 1, settings={**EAGER, "agent.tf32": True}),
        Item("bfloat16", "Pong-v5", 1, settings={**EAGER, "agent.mixed_precision": True}),
        Item("one pool", "Pong-v5", 1, settings={**EAGER, "env.half_pools": False}),
        Item("one pool", "HalfCheetah-v4", 8, settings={**EAGER, "env.half_pools": False}),
    ]
    for task in ("CartPole-v1", "HalfCheetah-v4"):
        found += [Item("send and receive", task, 8, "jax"), Item("XLA step", task, 8, "jax", "xla")]
    found += [Item("compiled", task, 8, settings={"compile": True}) for task in ("CartPole-v1", "HalfCheetah-v4")]
    return [item for n, item in enumerate(found) if item not in found[:n]]


def measured(item: Item, seconds: float) -> dict[str, Any]:
    """Steps/s of all members in this process, and the shares of the time."""
    from runner.config import load_config
    from runner.envs.envpool import EnvPoolTask
    from runner.training import tracking

    if item.backend == "environment":
        return {"steps_per_second": alone(item.task, seconds)}
    framework = import_module(f"runner.{item.backend}")
    if item.mode == "eager":
        import_module("runner.torch.accelerate").captured = lambda function: function
    if item.mode == "xla":
        _step_by_xla()
    overrides = {
        "trainer.timesteps": 10**9,
        "agent.experiment.write_interval": 1,
        "agent.experiment.checkpoint_interval": 0,
    }
    named = [(tuple(name.split(".")), value) for name, value in (overrides | dict(item.settings)).items()]
    named += [(("env", "id"), item.task), (("env", "num_envs"), ENVS[item.task])]
    config, _ = load_config(ROOT / FILES[item.task], named)
    env = EnvPoolTask(item.task, ENVS[item.task], config.env.arguments)
    began, warm, steps, spent = time.perf_counter(), 0.0, 0, dict[str, float]()
    for number, report in enumerate(framework.Runner(env, config, seeds=range(item.members)).reports()):
        now = time.perf_counter()
        if number == 2:  # programs and graphs are made
            began, warm = now, now - began
        if number > 2:
            steps += config.agent.rollouts * ENVS[item.task] * item.members
            values = report.records[0].values if report.records[0] is not None else {}
            for name, value in values.items():
                if name.startswith(tracking.TIME):
                    spent[name] = spent.get(name, 0.0) + value
            if now - began > seconds:
                break
    elapsed = time.perf_counter() - began
    shares = {name.removeprefix(tracking.TIME): round(value / elapsed, 3) for name, value in spent.items()}
    return {
        "steps_per_second": steps / elapsed,
        "warm_seconds": warm,
        "device": framework.device_name(),
        "shares": shares,
    }


def _step_by_xla() -> None:
    """Let rollouts of JAX be as on a CPU, and all else as on a GPU."""
    from runner.jax import accelerate, rollout, stepping

    as_on_a_cpu = SimpleNamespace(**{**vars(accelerate), "sees_gpu": lambda: False})
    rollout.accelerate = stepping.accelerate = as_on_a_cpu  # type: ignore[assignment]


def alone(task: str, seconds: float) -> float:
    """Steps/s of EnvPool with every core and no policy."""
    import numpy as np

    from runner.cores import usable_cores
    from runner.envs.envpool import EnvPoolTask

    pool = EnvPoolTask(task, ENVS[task]).seeded(range(ENVS[task]), usable_cores())
    pool.reset()
    actions = np.zeros((ENVS[task], *pool.actions.shape), pool.actions.dtype)
    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        pool.step(actions)
        steps += ENVS[task]
    return steps / (time.perf_counter() - began)


def one(item: Item, seconds: float, left: float) -> dict[str, Any]:
    """`measured` in a process of its own, or why there is no number."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--one", json.dumps(item), "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=left)
    except subprocess.TimeoutExpired:
        return {"not run": "out of time"}
    try:
        return dict(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        return {"not run": f"exit status {done.returncode}: {said}"}


def there() -> dict[str, Any]:
    """Versions, GPUs, and which backends see one."""
    try:
        gpus = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip().splitlines()
    except OSError:
        gpus = []
    seen = {
        backend: _said(f"import runner.{backend} as framework; print(framework.device_name())") for backend in BACKENDS
    }
    versions = {name: _said(f"from importlib import metadata; print(metadata.version({name!r}))") for name in PACKAGES}
    return {"gpus": gpus, "devices": seen, "cores": os.cpu_count(), **versions}


def _said(program: str) -> str:
    """The last line that a program prints, or the end of its error."""
    try:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60)
    except subprocess.TimeoutExpired:
        return "no answer in a minute"
    return (done.stdout.strip().splitlines() or [done.stderr.strip()[-200:]])[-1]


def tested(left: float) -> str:
    """What `pytest -m gpu` says of each test, in several processes, which share the GPU; as far as there was time."""
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-n", "6", "--tb", "short"]
    try:
        done = subprocess.run([*command, "tests/runner/test_gpu.py"], capture_output=True, cwd=ROOT, timeout=left)
    except subprocess.TimeoutExpired as error:
        return f"{_end(error.stdout)}\nnot run: the rest, out of time"
    return _end(done.stdout or done.stderr)


def _end(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace").strip()[-8000:]


def bars(rates: Mapping[tuple[str, str, int], float]) -> dict[str, str]:
    """The ratios that were asked for, of the rates that there are."""
    wanted = {
        "Pong against EnvPool alone (0.85)": (("graphs", "Pong-v5", 1), ("environment alone", "Pong-v5", 1)),
        "CartPole, 256 members against one (50)": (("graphs", "CartPole-v1", 256), ("graphs", "CartPole-v1", 1)),
        "CartPole, graphs against eager (2)": (("graphs", "CartPole-v1", 1), ("eager", "CartPole-v1", 1)),
    }
    return {
        name: f"{rates[above] / rates[below]:.2f}" if above in rates and below in rates else "not measured"
        for name, (above, below) in wanted.items()
    }


def main() -> None:
    """Measure everything that there is time for, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, the first measurements, a moment each")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measured(Item(*given.one), given.seconds)))
        return
    end = time.monotonic() + SECONDS
    found: dict[str, Any] = {"there": there(), "measured": []}
    print(json.dumps(found["there"], indent=1), flush=True)
    has = any(device.startswith("gpu") for device in found["there"]["devices"].values())
    if not has and not given.rehearse:
        names = sorted({f"{item.task} {item.name} x {item.members}" for item in items()})
        print("no GPU: not run: pytest -m gpu;", "; ".join(names), file=sys.stderr)
        sys.exit(1)
    if has:
        found["tests"] = tested(150)
        print("pytest -m gpu:", found["tests"], flush=True)
    rates: dict[tuple[str, str, int], float] = {}
    for item in items()[: 4 if given.rehearse else None]:
        left = end - time.monotonic()
        seconds = 0.5 if given.rehearse else given.seconds
        result = one(item, seconds, left) if left > seconds else {"not run": "out of time"}
        found["measured"].append({**item._asdict(), **result})
        if rate := result.get("steps_per_second"):
            rates[item.name, item.task, item.members] = rate
        told = f"{rate:14,.0f} {result.get('shares', '')}" if rate else f"  not run: {result['not run']}"
        print(f"{item.task:16}{item.backend:12}{item.name:20}{item.members:4}{told}", flush=True)
        found["bars"] = bars(rates)
        # Each time anew, since whoever lends the GPU may end this.
        given.out.write_text(json.dumps(found, indent=1))
    print(*(f"{name}: {ratio}" for name, ratio in found["bars"].items()), sep="\n")
    if not has:
        print("a rehearsal on a CPU: these numbers say nothing")


if __name__ == "__main__":
    main()

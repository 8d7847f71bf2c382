"""A look at what there is to run on, before anything runs: every machine of a cluster must have what it needs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from launcher.plan.experiment import Placement
from launcher.plan.resources import Offer, Resources, gpu_note, look, place
from launcher.watch.tables import say, table
from runner.config import Config
from runner.errors import UserError

PACKAGES = ("ray", "torch", "jax", "envpool")
"""Packages whose versions decide whether training starts, and what it trains."""
ANSWER_SECONDS = 90.0
"""The time that a machine has to start a process and look."""
LEAST_FREE = 1_000_000_000
"""Bytes that a machine must have free: logs, compiled programs, what Ray spills."""


@dataclass(frozen=True)
class Machine:
    """The machine where a process runs, as it finds it: versions of packages, None where one is missing, bytes that are
    free on the disk of temporary files, and how many GPUs each backend sees, where they were asked for.
    """

    host: str
    versions: Mapping[str, str | None]
    free: int
    gpus: Mapping[str, int]


def inspect(backends: Collection[str] = ()) -> Machine:
    """Look at the machine of this process; `backends`, torch or jax, are those that are to see GPUs."""
    return Machine(
        platform.node(),
        {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        shutil.disk_usage(tempfile.gettempdir()).free,
        {name: _GPUS[name]() for name in backends},
    )


def _version(package: str) -> str | None:
    try:
        # What follows + names a build, such as +cpu: machines with and without GPUs differ in it.
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_gpus() -> int:
    return int(importlib.import_module("torch").cuda.device_count())


def _jax_gpus() -> int:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # this process only counts
    try:
        return len(importlib.import_module("jax").devices("gpu"))
    except RuntimeError:
        return 0


_GPUS: dict[str, Callable[[], int]] = {"torch": _torch_gpus, "jax": _jax_gpus}


def placed(console: Console, wanted: Resources, configs: Iterable[Config], devices: int = 1) -> tuple[Placement, Offer]:
    """The placement of these configurations on this machine, or on the cluster that was joined; and what is offered."""
    offer = look(wanted)
    placement = place(wanted, offer, devices)
    if (note := gpu_note(wanted)) is not None:
        say(console, note, "yellow")
    if offer.joined:
        check(console, {placement.backend(config) for config in configs}, placement.on_gpus)
    return placement, offer


def check(console: Console, backends: Collection[str], on_gpus: bool) -> None:
    """Look at every machine of the connected cluster that trials can run on, all at once; refuse those that are wrong.

    Prints a table where there are several machines or something is wrong. With real GPUs only machines that have some
    count.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = inspect()
    needed = "GPU" if on_gpus else "CPU"
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(needed, 0) > 0]
    if not on_gpus and [node["NodeID"] for node in nodes] == [ray.get_runtime_context().get_node_id()]:
        return  # this machine, of which Ray itself compares what matters
    look = ray.remote(num_cpus=0, num_gpus=0, max_retries=0, max_calls=1)(inspect)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked[look.options(scheduling_strategy=there).remote(tuple(backends) if on_gpus else ())] = node
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS) if asked else ([], [])
    found: list[tuple[Mapping[str, Any], Machine | None, list[str]]] = []
    for future, node in asked.items():
        machine: Machine | None = None
        wrong = [f"no answer within {ANSWER_SECONDS:.0f} s"]
        if future in answered:
            try:
                machine = ray.get(future)
                wrong = faults(machine, here, node["Resources"])
            except ray.exceptions.RayError as error:
                wrong = [f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}"]
        found.append((node, machine, wrong))
    if len(found) > 1 or any(wrong for _, _, wrong in found):
        headings = ("machine", "cores", "GPUs", "free", "python", *PACKAGES, "")
        console.print(table(headings, [_row(*one) for one in found], console.width))
    bad = [f"{_name(node, machine)}: {'; '.join(wrong)}" for node, machine, wrong in found if wrong]
    if bad:
        raise UserError("the cluster cannot train this: " + "\n  ".join(["", *bad]).rstrip())


def faults(machine: Machine, here: Machine, resources: Mapping[str, float]) -> list[str]:
    """Faults of a machine, compared with the one that launches; `resources` is what Ray offers there."""
    wrong = []
    for name, version in machine.versions.items():
        if version is None:
            wrong.append(f"{name} is not installed")
        elif version != here.versions[name]:
            wrong.append(f"{name} {version}, here {here.versions[name]}")
    for backend, seen in machine.gpus.items():
        promised = int(resources.get("GPU", 0))
        if seen < promised:
            wrong.append(f"Ray offers {promised} GPUs, {backend} sees {seen}: install a CUDA build of {backend}")
    if machine.free < LEAST_FREE:
        wrong.append(f"{machine.free / 1e9:.1f} GB free for temporary files, {LEAST_FREE / 1e9:.0f} GB needed")
    return wrong


def _name(node: Mapping[str, Any], machine: Machine | None) -> str:
    address = str(node["NodeManagerAddress"])
    return f"{machine.host} ({address})" if machine is not None else address


def _row(node: Mapping[str, Any], machine: Machine | None, wrong: Sequence[str]) -> list[str | Text]:
    offered = node["Resources"]
    seen = ["-"] * (2 + len(PACKAGES))
    if machine is not None:
        seen = [f"{machine.free / 1e9:,.0f} GB", *(version or "-" for version in machine.versions.values())]
    verdict = Text("wrong", "red") if wrong else "ok"
    return [_name(node, machine), f"{offered.get('CPU', 0):g}", f"{offered.get('GPU', 0):g}", *seen, verdict]

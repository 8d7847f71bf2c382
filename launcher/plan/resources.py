"""Resources that a person lets a launch use, the offer of machines, and so the placement of trials."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from launcher.plan.experiment import Placement
from launcher.plan.gpus import MASK, mask_note, visible_gpus
from runner.config import Config
from runner.config.numbers import as_whole
from runner.cores import usable_cores
from runner.errors import UserError

if TYPE_CHECKING:
    from cyclopts import Token

KEPT = ("workers", "trials_per_pack")
"""Flags that a resume keeps: any machine can do as they say."""


def _whole(_type: Any, tokens: Sequence[Token]) -> int:
    """A typed whole number, for cyclopts, as a file's are read; its own makes 2 of 1.5."""
    if (found := as_whole(tokens[0].value)) is None:
        raise ValueError(f'unable to convert "{tokens[0].value}" into int; allowed: a whole number.')
    return found


Whole = Annotated[int, Parameter(converter=_whole)]
"""A whole number of the command line."""


@dataclass(frozen=True)
class Resources:
    """Flags that say what to run on; None where the person leaves it to us."""

    workers: Annotated[Whole | None, Parameter(help="Worker processes; default one per core or GPU.")] = None
    cores_per_worker: Annotated[Whole | None, Parameter(help="CPU cores of a worker; default what is faster.")] = None
    gpus: Annotated[Whole | None, Parameter(help="GPUs to use; default all that Ray finds.")] = None
    workers_per_gpu: Annotated[Whole | None, Parameter(help="Worker processes that share a GPU; default 1.")] = None
    gpus_per_trial: Annotated[Whole | None, Parameter(show=False)] = None
    trials_per_pack: Annotated[
        Whole | None,
        Parameter(help="Members of one batched program at most; default 32."),
    ] = None
    logical_gpus: Annotated[bool, Parameter(name="--logical-gpus", show=False)] = False
    address: Annotated[
        str | None,
        Parameter(
            help="Ray cluster: auto, HOST:PORT or http://HOST:8265.",
            env_var="RAY_ADDRESS",
            show_env_var=False,
        ),
    ] = None

    def kept(self, before: Mapping[str, int | None]) -> dict[str, int]:
        """Those of the flags given before that hold on, since nothing was given now in their place."""
        free = [name for name in KEPT if getattr(self, name) is None]
        if self.workers_per_gpu is not None and "workers" in free:
            free.remove("workers")
        return {name: value for name in free if (value := before.get(name)) is not None}

    def check(self) -> None:
        """Refuse numbers that cannot be."""
        refuse_less(
            ("--workers", self.workers, 1),
            ("--cores-per-worker", self.cores_per_worker, 1),
            ("--gpus", self.gpus, 0),
            ("--workers-per-gpu", self.workers_per_gpu, 1),
            ("--gpus-per-trial", self.gpus_per_trial, 1),
            ("--trials-per-pack", self.trials_per_pack, 1),
        )
        if self.workers is not None and self.workers_per_gpu is not None:
            raise UserError("command line: --workers and --workers-per-gpu: give one; workers = GPUs x workers per GPU")

    def devices(self, configs: Iterable[Config]) -> int:
        """Processes that train a trial together: as the command line says, or else the configurations, which agree."""
        if self.gpus_per_trial is not None:
            return self.gpus_per_trial
        found = sorted({config.trainer.devices for config in configs})
        if len(found) > 1:
            raise UserError(
                f"trainer.devices: found {', '.join(map(str, found))}; allowed: one number for all trials of a launch, "
                "or --gpus-per-trial, which overrides them"
            )
        return found[0] if found else 1


def refuse_less(*given: tuple[str, int | None, int]) -> None:
    """Refuse numbers that are too small: of each a flag, its number, None without the flag, and the least allowed."""
    for flag, number, least in given:
        if number is not None and number < least:
            raise UserError(f"command line: {flag} {number}: allowed: {least} or more")


def gpu_note(wanted: Resources) -> str | None:
    """A sentence where a launch on this machine uses fewer GPUs than CUDA_VISIBLE_DEVICES names."""
    asked = wanted.address is not None or wanted.gpus is not None or wanted.logical_gpus
    return None if asked else mask_note()


@dataclass(frozen=True)
class Machine:
    """A machine: its address, and how many cores and GPUs are offered there."""

    address: str
    cores: int
    gpus: float = 0


@dataclass(frozen=True)
class Offer:
    """The machines to run on: this one, or those of a cluster; `where` says which in messages."""

    machines: tuple[Machine, ...]
    where: str = "on this machine"
    joined: bool = False

    @property
    def gpus(self) -> int:
        """GPUs of all machines."""
        return int(sum(machine.gpus for machine in self.machines))

    @property
    def cores(self) -> list[int]:
        """Cores of each machine that has any."""
        return [machine.cores for machine in self.machines if machine.cores]


def look(wanted: Resources) -> Offer:
    """The offer of this machine, which needs no Ray; with an address, of the cluster that this process has joined."""
    if wanted.address is None:
        gpus = (wanted.gpus or 0) if wanted.logical_gpus else visible_gpus()
        mask = f" ({MASK}={os.environ[MASK]})" if MASK in os.environ else ""
        return Offer((Machine("", usable_cores(), gpus),), f"on this machine{mask}")
    import ray

    nodes = [(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    machines = (Machine(address, int(has.get("CPU", 0)), has.get("GPU", 0)) for address, has in nodes)
    return Offer(tuple(machines), f"in the cluster {wanted.address}", joined=True)


def place(wanted: Resources, offer: Offer, devices: int = 1) -> Placement:
    """Decide how many workers run and on what; each is so many processes, on a device of its own each."""
    found, where = offer.gpus, offer.where
    if wanted.gpus and wanted.gpus > found:
        allowed = f"allowed: 0 to {found}" if found else "leave --gpus out to train on the CPU"
        raise UserError(
            f"command line: --gpus {wanted.gpus}: Ray finds {found} {where}; {allowed}, or add --logical-gpus to only "
            "count them (nothing then runs on a GPU)"
        )
    gpus = found if wanted.gpus is None and not wanted.logical_gpus else (wanted.gpus or 0)
    if not gpus:
        if wanted.workers_per_gpu is not None:
            raise UserError(f"command line: --workers-per-gpu: there is no GPU to share {where}; see --workers")
        each = _checked_cores(wanted, max(offer.cores, default=1), where)
        fit = fitting(offer.cores, each * devices)
        if devices > 1 and not fit and wanted.workers is None:
            raise _too_few(
                devices, max(offer.cores, default=1), "cores on a machine" if offer.joined else "cores", each, where
            )
        return Placement(wanted.workers or max(1, fit), 0, each, devices=devices)
    if devices > gpus:
        raise _too_few(devices, gpus, "GPUs", 1, where)
    if devices > 1 and wanted.workers_per_gpu not in (None, 1):
        raise UserError(
            f"command line: --workers-per-gpu {wanted.workers_per_gpu}: a trial has {devices} GPUs; allowed: 1"
        )
    most = gpus // devices
    if devices > 1 and (wanted.workers or 0) > most:
        raise UserError(
            f"command line: --workers {wanted.workers}: a trial has {devices} GPUs of its own, and there are {gpus} "
            f"{where}; allowed: 1 to {most}"
        )
    workers = wanted.workers or most * (wanted.workers_per_gpu or 1)
    share = 0 if wanted.logical_gpus else max(1, sum(offer.cores) // (workers * devices))
    if offer.joined and share:
        # What the poorest machine with GPUs can give to each worker on them.
        sharing = math.ceil(workers * devices / gpus)
        share = min(_cores_each(machine, sharing) for machine in offer.machines if machine.gpus)
    if wanted.cores_per_worker is not None:
        share = _checked_cores(wanted, share, f"for each worker {where}")
    return Placement(workers, gpus, share, wanted.logical_gpus, max(1, share), devices=devices)


def _too_few(devices: int, there: int, what: str, each: int, where: str) -> UserError:
    """The error of a trial on more devices than there are."""
    return UserError(
        f"trainer.devices (--gpus-per-trial) {devices}: there are {there} {what} {where}, and each process of a trial "
        f"needs {each}; allowed: 1 to {max(there // each, 1)}"
    )


def fitting(offered: Sequence[int], each: int) -> int:
    """Workers of `each` cores that machines with so many cores hold; no worker has cores of two machines."""
    return sum(cores // each for cores in offered)


def _checked_cores(wanted: Resources, most: int, where: str) -> int:
    """The cores of a worker that a person wants, else one."""
    each = wanted.cores_per_worker or 1
    if wanted.cores_per_worker is not None and each > most:
        allowed = f"allowed: 1 to {most}" if most else "leave --cores-per-worker out"
        raise UserError(f"command line: --cores-per-worker {each}: there are {most} {where}; {allowed}")
    return each


def _cores_each(machine: Machine, workers_per_gpu: int) -> int:
    share = int(machine.cores // (machine.gpus * workers_per_gpu))
    if share < 1:
        raise UserError(
            f"the cluster cannot train this: {machine.address} offers {machine.cores} cores to {machine.gpus:g} GPUs "
            f"with {workers_per_gpu} workers each, and a worker needs one (ray start --num-cpus)"
        )
    return share


def workers_now(wanted: Resources, placement: Placement, offer: Offer) -> int:
    """Workers for which an offer has cores or GPUs, of a launch that was placed when there may have been another."""
    if placement.gpus:
        return offer.gpus // placement.devices * (wanted.workers_per_gpu or 1)
    return fitting(offer.cores, min(placement.cpus * placement.devices, max(offer.cores, default=1)))

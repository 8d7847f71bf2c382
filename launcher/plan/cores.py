"""The cores of a CPU worker, where there are more of them than packs, and what it does with them.

More threads that step environments change no number, so a measurement may decide on them. More threads of arithmetic
may change last bits, so they follow from the configuration, the machine and the number of packs alone, are kept in the
plan, and stay through every resume.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from launcher.plan.experiment import Placement, Trial
from launcher.plan.resources import Offer, Resources, fitting
from launcher.run.process import of_program
from runner.cores import stepping_threads, worth_splitting
from runner.networks.parameters import Network
from runner.training.pack import static_key

if TYPE_CHECKING:
    from runner.envs.base import VectorEnv

Programs = dict[str, tuple["VectorEnv", Network]]
"""Static key of a configuration → its environment and its network."""
EPOCH_SECONDS = 0.5e-6
"""Time of a learning epoch for one env step besides the network's arithmetic: 0.2 µs in JAX, 1 µs in torch."""
OPERATIONS = 1e11
"""Floating-point operations in a second of one core."""
LOOK_SECONDS = 60.0
"""The longest look at an environment."""
MOST_THREADS = 16
"""Threads of arithmetic at most: matrices of a few megabytes do not keep more of them busy."""
SHOWN = 3
"""Configurations whose reasons are told."""


@dataclass(frozen=True)
class Program:
    """The program that a pack runs: so many environments, stepped together.

    On one core `step` seconds are a step of one environment, about `rest` seconds all other work for it; the
    arithmetic `splits` if it is so large that several threads are faster; `alone`, one core steps the environments.
    """

    env: str
    envs: int
    step: float
    rest: float
    splits: bool
    alone: bool = False


def share(offered: Sequence[int], packs: int) -> int:
    """The most cores that each of so many packs can have, on machines of so many cores; at least 1."""
    return next((each for each in range(max(offered, default=1), 1, -1) if fitting(offered, each) >= packs), 1)


def describe(pack: Sequence[Trial], network: Network, step: float) -> Program:
    """The program of a pack whose environment takes `step` seconds."""
    config = pack[0].config
    agent, envs = config.agent, len(pack) * (config.env.num_envs or 0)
    # Forward and backward take about six operations per parameter; that convolutions take more only makes cores seem
    # to help more than they do.
    operations = network.size * (2 + 6 * agent.learning_epochs)
    rest = agent.learning_epochs * EPOCH_SECONDS + operations / OPERATIONS
    return Program(str(config.env.id), envs, step, rest, worth_splitting(config, network.size, envs * agent.rollouts))


def idle(placement: Placement, packs: Sequence[Any], wanted: Resources) -> bool:
    """Cores would stand idle, and a person has not said how many are used."""
    given = wanted.workers is not None or wanted.cores_per_worker is not None
    counted = given or placement.gpus or placement.devices > 1
    return not counted and len(packs) < placement.workers


def measure(trials: Iterable[Trial]) -> None:
    """Measure their environments ahead of `settle`, which then need not wait for it."""
    for trial in trials:
        _step_seconds(trial.config.env.model_dump_json())


@functools.cache
def _step_seconds(env: str) -> float:
    """Seconds of an environment's step on one core; 0 where that cannot be measured, of which training will tell."""
    command = [sys.executable, "-P", "-m", "runner.envs.named.measure", env]
    try:
        done = subprocess.run(
            command, env=of_program(), capture_output=True, text=True, timeout=LOOK_SECONDS, check=True
        )
        return float(done.stdout.split()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return 0.0


def settle(
    placement: Placement,
    packs: Sequence[Sequence[Trial]],
    programs: Programs,
    wanted: Resources,
    offer: Offer,
    kept: int | None,
) -> Placement:
    """Give CPU workers several cores where cores would stand idle and that is faster.

    Who counted workers wanted to leave the other cores alone. `kept` is how many threads the arithmetic has had in this
    launch so far; None at its beginning.
    """
    given = wanted.cores_per_worker is not None
    most = share(offer.cores, len(packs)) if idle(placement, packs, wanted) else placement.cpus
    if most == 1:
        return replace(placement, threads=kept or 1)
    found = _look(packs, programs)
    threads = kept or (min(most, MOST_THREADS) if any(program.splits for program in found.values()) else 1)
    if given:
        return replace(placement, threads=threads, why="as --cores-per-worker says")
    stepping = {
        name: stepping_threads(1 if program.alone else most, program.envs, program.step, program.rest / threads)
        for name, program in found.items()
    }
    cpus = min(most, max(threads, *stepping.values()))
    return replace(
        placement, workers=fitting(offer.cores, cpus), cpus=cpus, threads=threads, stepping=stepping, why=_why(found)
    )


def spread(placement: Placement, batches: Sequence[Any], wanted: Resources, offer: Offer) -> Placement:
    """Let batches of evaluations have the cores that would stand idle; each steps with as many as help it."""
    if not idle(placement, batches, wanted):
        return placement
    each = share(offer.cores, len(batches))
    return replace(placement, workers=fitting(offer.cores, each), cpus=each)


def _look(packs: Sequence[Sequence[Trial]], programs: Programs) -> dict[str, Program]:
    """The program of each configuration."""
    found: dict[str, Program] = {}
    for pack in packs:
        env, network = programs[static_key(pack[0].config)]
        step = _step_seconds(pack[0].config.env.model_dump_json())
        program = replace(describe(pack, network, step), alone=not env.splits)
        found |= dict.fromkeys((trial.name for trial in pack), program)
    return found


def _why(found: Mapping[str, Program]) -> str:
    """The measurements, of every environment."""
    told = {
        f"a step of {program.env} {_told(program.step)} on one core, all else about "
        f"{1e6 * program.rest:,.1f} µs{', in arithmetic large enough to split' if program.splits else ''}"
        for program in found.values()
    }
    return "; ".join([*sorted(told)[:SHOWN], *(["…"] if len(told) > SHOWN else [])])


def _told(step: float) -> str:
    return f"takes {1e6 * step:,.1f} µs" if step else "could not be measured"

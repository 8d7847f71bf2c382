"""The time that a launch will take, from what earlier launches on this machine ran at.

Packs and the folder in which launches lie come in; a time goes out. Ledgers are only read.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, harmonic_mean, median
from typing import Any

from launcher.ledger.configurations import config_of
from launcher.ledger.ledger import Ledger, reading
from launcher.ledger.rows import Member
from launcher.ledger.storage import LEDGER
from launcher.plan.experiment import Placement, Trial
from launcher.plan.revision import hardware
from runner.config import Config
from runner.training.pack import static_key
from runner.training.tracking import STEPS_PER_SECOND

LAUNCHES = 20
"""Earlier launches that are looked at, the last ones."""
ATTEMPTS = 16
"""Attempts of one launch that are looked at, the last ones."""
CONFIGURATIONS = 32
"""Configurations that are read in all; each takes 10 ms."""
RECORDS = 200
"""Records of an attempt that are read."""
RATES = 5
"""Rates whose median counts, the newest ones: no launch that shared its cores with other work decides alone."""
_UNREADABLE = (OSError, ValueError, TypeError, LookupError, ArithmeticError)
"""No launch, or a damaged one; UserErrors are ValueErrors."""


@dataclass(frozen=True)
class Estimate:
    """Seconds from the first attempt's opening to the last one's end, if nothing dies; and what that stands on."""

    seconds: float
    source: str


@dataclass(frozen=True)
class _Rate:
    """The speed of a pack: env steps/s of all its members together, after `start_up` seconds without training."""

    directory: Path
    program: str
    members: int
    steps_per_second: float
    start_up: float


def estimate(
    packs: Sequence[Sequence[Trial]], begin: Mapping[str, int], placement: Placement, folder: Path
) -> Estimate | None:
    """The time that training `packs` will take here.

    A pack is taken to run at the rate of the measured pack nearest in size, by ratio, of those with its Static
    signature but for length and intervals; on torch that overlooks that `compile: auto` compiles long runs only.

    Packs get workers in their order; trials go on from the timestep in `begin`, or 0. What is no readable launch in
    `folder` is passed over. None if a pack is like none that was trained on this machine by workers of this kind.
    """
    programs = [_program(pack[0].config, placement) for pack in packs]
    rates = list(_rates(folder, set(programs), placement, len(packs)))
    used = [_nearest(rates, program, len(pack)) for program, pack in zip(programs, packs, strict=True)]
    free = [0.0] * placement.workers
    for pack, rate in zip(packs, used, strict=True):
        if rate is None:
            return None
        done = sum(begin.get(trial.id, 0) * (trial.config.env.num_envs or 0) for trial in pack)
        left = sum(trial.config.env_steps for trial in pack) - done
        heapq.heapreplace(free, free[0] + rate.start_up + left / rate.steps_per_second)
    found = [rate for rate in used if rate is not None]
    newest = min((rate.directory for rate in found), key=[rate.directory for rate in rates].index)
    return Estimate(max(free), f"{newest}: {fmean(rate.steps_per_second for rate in found):,.0f} steps/s a worker")


def _nearest(rates: Sequence[_Rate], program: str, members: int) -> _Rate | None:
    """The median of the newest rates of the size that is nearest; `rates` are newest first."""
    rates = [rate for rate in rates if rate.program == program]
    if not rates:
        return None
    nearest = min(rates, key=lambda rate: abs(math.log(rate.members / members)))
    equal = [rate for rate in rates if rate.members == nearest.members][:RATES]
    speed, start_up = median(rate.steps_per_second for rate in equal), median(rate.start_up for rate in equal)
    return replace(nearest, steps_per_second=speed, start_up=start_up)


def _program(config: Config, placement: Placement) -> str:
    """Canonical text of what speed depends on besides the size of the pack."""
    data = json.loads(static_key(config))
    del data["trainer"]["timesteps"], data["agent"]["experiment"]
    return json.dumps(data | {"backend": placement.backend(config)})


def _kind(placement: Placement, packs: int, machine: Mapping[str, Any]) -> tuple[object, ...]:
    """All that must be equal for workers to be equally fast: machine, device, cores, and how many share a device."""
    devices = placement.gpus if placement.on_gpus else machine["cores"]
    sharing = math.ceil(min(placement.workers, packs) / devices)
    parts = (machine["host"], machine["processor"], machine["cores"])
    return (*parts, placement.on_gpus, max(placement.cpus, 1), sharing, placement.devices)


def _rates(folder: Path, programs: set[str], placement: Placement, packs: int) -> Iterator[_Rate]:
    """The speeds of packs with one of `programs`, the newest launch first."""
    kind = _kind(placement, packs, hardware())
    attempts = ((directory, one) for directory in _launches(folder) for one in _attempts(directory, kind))
    for directory, (member, size, opened_at) in itertools.islice(attempts, CONFIGURATIONS):
        with contextlib.suppress(*_UNREADABLE), reading(directory) as ledger:
            config = config_of(ledger.configurations([member.trial])[member.trial], 0)
            program = _program(config, placement)
            speed = _speed(ledger, member, opened_at) if program in programs else None
            if speed is not None:
                yield _Rate(directory, program, size, size * speed[0], speed[1])


def _launches(folder: Path) -> list[Path]:
    """The launches in `folder`, the last one first."""
    started: dict[Path, float] = {}
    for path in folder.glob(f"*/{LEDGER}"):
        with contextlib.suppress(*_UNREADABLE), reading(path.parent) as ledger:
            started[path.parent] = float(ledger.revisions()[-1]["time"])
    return sorted(started, key=lambda directory: -started[directory])[:LAUNCHES]


def _attempts(directory: Path, kind: tuple[object, ...]) -> list[tuple[Member, int, float]]:
    """The last attempts, one of each configuration and size, since the last revision; none where that is of another
    kind. Of each a member, how many it has, and when it was opened in Unix seconds.
    """
    with contextlib.suppress(*_UNREADABLE), reading(directory) as ledger:
        last = ledger.revisions()[-1]
        host, since = last["hardware"]["host"], float(last["time"])
        if _kind(Placement(**last["placement"]), len(last["packs"]), last["hardware"]) != kind:
            return []
        names = {row.id: row.config for row in ledger.trials()}
        opened = {row.number: row.opened_at for row in ledger.attempts() if row.host == host and row.opened_at >= since}
        members = ledger.members()
        sizes = Counter(member.attempt for member in members)
        # What a trial's earlier attempts recorded may have been forgotten when it was rewound.
        owned = {member.trial: member for member in members}.values()
        one_each = {member.attempt: member for member in sorted(owned, key=lambda member: member.attempt)}
        distinct = {(names.get(m.trial), sizes[m.attempt]): m for m in one_each.values() if m.attempt in opened}
        newest = sorted(distinct.values(), key=lambda member: -member.attempt)[:ATTEMPTS]
        return [(one, sizes[one.attempt], opened[one.attempt]) for one in newest]
    return []


def _speed(ledger: Ledger, member: Member, opened_at: float) -> tuple[float, float] | None:
    """Env steps/s of a member in an attempt, and the seconds until it began to train; None if it has no records."""
    covered = {c.timestep: c.records for c in ledger.checkpoints(member.trial) if c.kind == "agent"}
    began = covered.get(member.timestep, 0)
    trained = sum(stored.record.seconds for stored in ledger.records(member.trial, began - 1, 1)) if began else 0.0
    records = ledger.records(member.trial, began, RECORDS)
    if not records:
        return None
    start_up = records[0].wall_time - (records[0].record.seconds - trained) - opened_at
    # At first caches and clocks are cold. All intervals have as many steps, so the harmonic mean counts slow ones for
    # the time that they took.
    speed = harmonic_mean([stored.record.values[STEPS_PER_SECOND] for stored in records[len(records) // 2 :]])
    return speed, max(start_up, 0.0)

"""The processor cores that this process may use, and how many of them are worth using."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from runner.config.schema import Config

WORTH_SPLITTING = 1e9
"""Floating-point operations of a minibatch from which several threads are faster than one."""

PASS_SECONDS, WAIT_SECONDS, WAKE_SECONDS = 0.35e-6, 60e-6, 10e-6
"""Seconds of several threads to hand on an environment, to meet at a step of the pool, to be woken one by one.

Measured with two threads on a virtual machine, where they cost the most.
"""
CLOSE = 1.05
"""Times the least time that is as good, with fewer cores."""


def stepping_threads(cores: int, envs: int, step: float, rest: float) -> int:
    """The fewest threads to step environments with that are about as fast as any number up to `cores`.

    `step` is the seconds of one environment's step on one core, `rest` those of all other work for it.
    """

    def seconds(threads: int) -> float:
        meeting = PASS_SECONDS + (WAIT_SECONDS + threads * WAKE_SECONDS) / envs if threads > 1 else 0.0
        return step / threads + meeting + rest

    counts = range(1, min(cores, envs) + 1)
    least = min(map(seconds, counts))
    return next(threads for threads in counts if seconds(threads) <= CLOSE * least)


def worth_splitting(config: Config, parameters: int, rows: int) -> bool:
    """The arithmetic of a minibatch is so large that several threads are faster than one.

    A function of the configuration, with one member's parameters and the rows of all members' rollout: the number of
    threads may change the last bits of what is trained.
    """
    # Forward and backward take about six operations per parameter and row.
    operations = 6 * parameters * rows / config.agent.mini_batches
    return operations > WORTH_SPLITTING or config.models.convolves


def usable_cores() -> int:
    """Number of cores in this process's affinity mask, or fewer where a container's quota is smaller."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return whole_cores(cores, cpu_quota())


def whole_cores(cores: int, quota: float) -> int:
    """Cores that can be kept busy: a process for a part of one would slow down all others."""
    return max(1, int(min(cores, quota)))


def cpu_quota(system: Path = Path("/")) -> float:
    """Seconds of processor time that this process may use in a second; infinite without a limit.

    Every control group up to the hierarchy's root may have a limit, and the smallest holds. /proc is below `system`.
    """
    return min((_quota(group) for group in _groups(system)), default=float("inf"))


def _groups(system: Path) -> Iterator[Path]:
    """Folders of the control groups that this process is in, versions 1 and 2, as far as they can be seen here."""
    with contextlib.suppress(OSError):
        own = dict(_memberships((system / "proc/self/cgroup").read_text()))
        for line in (system / "proc/self/mountinfo").read_text().splitlines():
            mount, _, kind = line.partition(" - ")
            root, place = (PurePosixPath(text.replace("\\040", " ")) for text in mount.split(" ")[3:5])
            version, _, options = kind.split(" ")[:3]
            controller = {"cgroup2": "", "cgroup": "cpu"}.get(version)
            if controller not in own or (controller and controller not in options.split(",")):
                continue
            # A container sees its own group as the root of the mount, whether or not it knows its path outside.
            inside = own[controller].relative_to(root) if own[controller].is_relative_to(root) else PurePosixPath()
            top = system / place.relative_to("/")
            yield from (top / part for part in (inside, *inside.parents))


def _memberships(table: str) -> Iterator[tuple[str, PurePosixPath]]:
    """Controllers and the group of each, of the lines of /proc/self/cgroup; version 2 has one group and no names."""
    for line in table.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, PurePosixPath(path)


def _quota(group: Path) -> float:
    """The limit of one group; infinite where it has none."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # of the other version, or «max»
            quota, period = map(int, " ".join((group / name).read_text() for name in names).split())
            if quota > 0 and period > 0:
                return quota / period
    return float("inf")

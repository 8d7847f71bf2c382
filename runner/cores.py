"""The processor cores that this process may use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def usable_cores() -> int:
    """Number of cores in this process's affinity mask, or fewer where a container's quota is smaller."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return whole_cores(cores, cpu_quota())


def whole_cores(cores: int, quota: float) -> int:
    """Cores that can be kept busy: a process for a part of one would slow down all others."""
    return max(1, int(min(cores, quota)))


def cpu_quota(system: Path = Path("/")) -> float:
    """Seconds of processor time that this process may use in a second; infinite without a limit.

    Every control group up to the hierarchy's root may have a limit, and the smallest holds.

    Args:
        system: where /proc and /sys are.
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

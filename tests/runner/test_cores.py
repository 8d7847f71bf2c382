"""Cores as affinity and the quotas of containers allow."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from runner import cores
from runner.cores import cpu_quota, stepping_threads, whole_cores, worth_splitting
from tests.runner.builders import make_config

V1 = "4:cpu,cpuacct:{}\n3:memory:/elsewhere\n1:name=systemd:/x\n"
V2 = "0::{}\n"
V1_MOUNT = "33 31 0:30 {} /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
V2_MOUNT = "41 31 0:38 {} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
OTHERS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def machine(folder: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A system's /proc and /sys."""
    content = {"proc/self/cgroup": groups, "proc/self/mountinfo": OTHERS + mounts} | files
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("path", "root", "files", "quota"),
    [
        # A container with a namespace of its own; a process of systemd; a pod whose limit is above it.
        ("/", "/", {"cpu.max": "150000 100000\n"}, 1.5),
        ("/user.slice/job", "/", {"user.slice/job/cpu.max": "400000 100000\n"}, 4),
        ("/pod/box", "/", {"pod/cpu.max": "200000 100000\n", "pod/box/cpu.max": "max 100000\n"}, 2),
        ("/pod/box", "/", {"pod/cpu.max": "800000 100000\n", "pod/box/cpu.max": "50000 100000\n"}, 0.5),
        # The same, seen from inside without a namespace.
        ("/docker/1f", "/docker/1f", {"cpu.max": "300000 100000\n"}, 3),
        ("/docker/1f/sub", "/docker/1f", {"sub/cpu.max": "100000 100000\n", "cpu.max": "300000 100000\n"}, 1),
        ("/docker/1f", "/other", {"cpu.max": "300000 100000\n"}, 3),
        ("/", "/", {"cpu.max": "max 100000\n"}, math.inf),
        ("/", "/", {}, math.inf),
    ],
)
def test_the_smallest_quota_above_a_process_of_cgroup_2_holds(
    tmp_path: Path, path: str, root: str, files: dict[str, str], quota: float
) -> None:
    limits = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert cpu_quota(machine(tmp_path, V2.format(path), V2_MOUNT.format(root), limits)) == quota


@pytest.mark.parametrize(
    ("path", "root", "limits", "quota"),
    [
        ("/", "/", {"": 250_000}, 2.5),
        ("/docker/1f", "/docker/1f", {"": 200_000}, 2),
        ("/slurm/job", "/", {"": -1, "slurm": 400_000, "slurm/job": -1}, 4),
        ("/slurm/job", "/", {"": -1}, math.inf),
    ],
)
def test_the_smallest_quota_above_a_process_of_cgroup_1_holds(
    tmp_path: Path, path: str, root: str, limits: dict[str, int], quota: float
) -> None:
    files = {}
    for group, limit in limits.items():
        files[f"sys/fs/cgroup/cpu/{group}/cpu.cfs_quota_us"] = f"{limit}\n"
        files[f"sys/fs/cgroup/cpu/{group}/cpu.cfs_period_us"] = "100000\n"
    assert cpu_quota(machine(tmp_path, V1.format(path), V1_MOUNT.format(root), files)) == quota


def test_where_both_versions_are_mounted_either_may_limit(tmp_path: Path) -> None:
    unified = V2_MOUNT.format("/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    files = {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "600000", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "200000"}
    made = machine(tmp_path, V1.format("/") + V2.format("/"), V1_MOUNT.format("/") + unified, files)
    assert cpu_quota(made) == 3


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf


@pytest.mark.parametrize(
    ("affinity", "quota", "whole"), [(8, math.inf, 8), (8, 2, 2), (8, 1.5, 1), (8, 0.5, 1), (2, 3.5, 2), (1, 0.1, 1)]
)
def test_a_part_of_a_core_is_none_and_there_is_always_one(affinity: int, quota: float, whole: int) -> None:
    assert whole_cores(affinity, quota) == whole


def test_usable_cores_are_those_of_affinity_within_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cores.usable_cores()
    assert before >= 1
    monkeypatch.setattr(cores, "cpu_quota", lambda: 1.9)
    assert cores.usable_cores() == 1


US = 1e-6


@pytest.mark.parametrize(
    ("cores", "envs", "step", "rest", "threads"),
    [
        (2, 64, 20 * US, 5 * US, 2),  # HalfCheetah-v4
        (2, 64, 1.5 * US, 1.5 * US, 1),  # Pendulum-v1
        (2, 32, 1.4 * US, 4 * US, 1),  # CartPole-v1
        (2, 8, 250 * US, 5000 * US, 1),  # Pong-v5, whose network takes nearly all of the time
        (2, 8, 250 * US, 250 * US, 2),
        (64, 8, 250 * US, 0.0, 8),
        (64, 2, 250 * US, 0.0, 2),  # no more than environments
        (1, 64, 20 * US, 0.0, 1),
        (64, 1, 20 * US, 0.0, 1),
    ],
)
def test_as_many_threads_step_as_help(cores: int, envs: int, step: float, rest: float, threads: int) -> None:
    assert stepping_threads(cores, envs, step, rest) == threads


def test_more_cores_are_not_taken_for_little() -> None:
    taken = [stepping_threads(cores, 64, 20 * US, 5 * US) for cores in (1, 2, 4, 8, 64)]
    assert taken[:3] == [1, 2, 4] and taken[3] == taken[4] < 8


@pytest.mark.parametrize(
    ("parameters", "rows", "mini_batches", "worth"),
    [(2_000, 1_024, 1, False), (500_000, 4_096, 1, True), (500_000, 4_096, 64, False)],
)
def test_large_minibatches_are_worth_several_threads(
    parameters: int, rows: int, mini_batches: int, worth: bool
) -> None:
    config = make_config({"agent.mini_batches": mini_batches})
    assert worth_splitting(config, parameters, rows) == worth

"""Cores of a worker, on this machine and on a cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import ray

from launcher.plan.experiment import Placement
from launcher.plan.resources import Resources, place, workers_now
from runner.errors import UserError

pytestmark = pytest.mark.usefixtures("no_ray")


def cluster_of(monkeypatch: pytest.MonkeyPatch, *machines: tuple[int, int]) -> Resources:
    """A cluster with so many cores and GPUs on each machine."""
    nodes: list[dict[str, Any]] = [
        {"Alive": True, "NodeManagerAddress": f"10.0.0.{number}", "Resources": {"CPU": cpus, "GPU": gpus}}
        for number, (cpus, gpus) in enumerate(machines)
    ]
    total = {key: sum(node["Resources"][key] for node in nodes) for key in ("CPU", "GPU")}
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(ray, "cluster_resources", lambda: total)
    return Resources(address="auto")


@pytest.mark.parametrize(
    ("machines", "cores"),
    [(((16, 0), (8, 1)), 8), (((8, 0), (8, 1), (8, 1)), 8), (((64, 1), (4, 1)), 4), (((32, 8), (64, 8)), 4)],
)
def test_a_worker_asks_for_no_more_cores_than_every_machine_with_gpus_has(
    monkeypatch: pytest.MonkeyPatch, machines: tuple[tuple[int, int], ...], cores: int
) -> None:
    assert place(cluster_of(monkeypatch, *machines)).cpus == cores


def test_a_machine_without_a_core_for_each_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"10\.0\.0\.1 offers 2 cores to 4 GPUs with 1 workers each"):
        place(cluster_of(monkeypatch, (8, 1), (2, 4)))


@pytest.mark.parametrize(
    ("machines", "each", "workers"),
    [(((16, 0), (8, 0)), None, 24), (((16, 0), (7, 0)), 4, 5), (((2, 0), (64, 0)), 32, 2), (((0, 0), (4, 0)), None, 4)],
)
def test_no_worker_has_cores_of_two_machines(
    monkeypatch: pytest.MonkeyPatch, machines: tuple[tuple[int, int], ...], each: int | None, workers: int
) -> None:
    wanted = replace(cluster_of(monkeypatch, *machines), cores_per_worker=each)
    placement = place(wanted)
    assert (placement.workers, placement.cpus) == (workers, each or 1)
    assert workers_now(wanted, placement) == workers


def test_workers_of_many_cores_fit_into_what_is_left_of_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = cluster_of(monkeypatch, (64, 0), (4, 0))
    assert workers_now(wanted, Placement(2, 0, 32)) == 2
    cluster_of(monkeypatch, (4, 0), (2, 0))  # the large machine is gone
    assert workers_now(wanted, Placement(2, 0, 32)) == 1


def test_more_cores_than_a_machine_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.plan.resources.usable_cores", lambda: 4)
    assert place(Resources(cores_per_worker=4)) == Placement(1, 0, 4)
    with pytest.raises(UserError, match=r"--cores-per-worker 5: there are 4 on this machine; allowed: 1 to 4"):
        place(Resources(cores_per_worker=5))
    with pytest.raises(UserError, match=r"--cores-per-worker 9: .* allowed: 1 to 8"):
        place(replace(cluster_of(monkeypatch, (8, 0), (8, 0)), cores_per_worker=9))
    with pytest.raises(UserError, match=r"--cores-per-worker 5: there are 4 for each worker .* allowed: 1 to 4"):
        place(replace(cluster_of(monkeypatch, (8, 1), (4, 1)), cores_per_worker=5))
    with pytest.raises(UserError, match="leave --cores-per-worker out"):
        place(Resources(gpus=2, logical_gpus=True, cores_per_worker=1))
    with pytest.raises(UserError, match="--cores-per-worker 0: allowed: 1 or more"):
        Resources(cores_per_worker=0).check()
    assert place(replace(cluster_of(monkeypatch, (8, 1), (4, 1)), cores_per_worker=2)).cpus == 2

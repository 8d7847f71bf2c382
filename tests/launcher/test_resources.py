"""Cores of a worker on a cluster's GPUs."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from launcher.resources import Resources, place
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

"""Cores of a worker, on this machine and on a cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import ray

from launcher.plan.experiment import Placement
from launcher.plan.resources import Machine, Offer, Resources, look, place, workers_now
from runner.errors import UserError
from tests.runner.builders import make_config

pytestmark = pytest.mark.usefixtures("no_ray")


WANTED = Resources(address="auto")


def cluster_of(*machines: tuple[int, int]) -> Offer:
    """A cluster with so many cores and GPUs on each machine."""
    found = (Machine(f"10.0.0.{number}", cores, gpus) for number, (cores, gpus) in enumerate(machines))
    return Offer(tuple(found), "in the cluster auto", joined=True)


def here(cores: int, gpus: int = 0) -> Offer:
    return Offer((Machine("", cores, gpus),))


def test_a_cluster_offers_what_its_living_machines_have(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes: list[dict[str, Any]] = [
        {"Alive": alive, "NodeManagerAddress": f"10.0.0.{number}", "Resources": resources}
        for number, (alive, resources) in enumerate(
            [(True, {"CPU": 16.0}), (False, {"CPU": 8.0, "GPU": 1.0}), (True, {"CPU": 7.0, "GPU": 2.0}), (True, {})]
        )
    ]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    offer = look(WANTED)
    assert (offer.cores, offer.gpus, offer.where, offer.joined) == ([16, 7], 2, "in the cluster auto", True)
    assert [machine.address for machine in offer.machines if machine.gpus] == ["10.0.0.2"]


def test_this_machine_offers_its_cores_and_what_is_only_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launcher.plan.resources.usable_cores", lambda: 4)
    monkeypatch.setattr("launcher.plan.resources.visible_gpus", lambda: 1)
    assert (look(Resources()).cores, look(Resources()).gpus, look(Resources()).joined) == ([4], 1, False)
    assert look(Resources(gpus=3, logical_gpus=True)).gpus == 3
    assert look(Resources(logical_gpus=True)).gpus == 0


@pytest.mark.parametrize(
    ("machines", "cores"),
    [(((16, 0), (8, 1)), 8), (((8, 0), (8, 1), (8, 1)), 8), (((64, 1), (4, 1)), 4), (((32, 8), (64, 8)), 4)],
)
def test_a_worker_asks_for_no_more_cores_than_every_machine_with_gpus_has(
    machines: tuple[tuple[int, int], ...], cores: int
) -> None:
    assert place(WANTED, cluster_of(*machines)).cpus == cores


def test_a_machine_without_a_core_for_each_worker_is_named() -> None:
    with pytest.raises(UserError, match=r"10\.0\.0\.1 offers 2 cores to 4 GPUs with 1 workers each"):
        place(WANTED, cluster_of((8, 1), (2, 4)))


@pytest.mark.parametrize(
    ("machines", "each", "workers"),
    [(((16, 0), (8, 0)), None, 24), (((16, 0), (7, 0)), 4, 5), (((2, 0), (64, 0)), 32, 2), (((0, 0), (4, 0)), None, 4)],
)
def test_no_worker_has_cores_of_two_machines(
    machines: tuple[tuple[int, int], ...], each: int | None, workers: int
) -> None:
    wanted, offer = replace(WANTED, cores_per_worker=each), cluster_of(*machines)
    placement = place(wanted, offer)
    assert (placement.workers, placement.cpus) == (workers, each or 1)
    assert workers_now(wanted, placement, offer) == workers


def test_workers_of_many_cores_fit_into_what_is_left_of_a_cluster() -> None:
    large = Placement(2, 0, 32)
    assert workers_now(WANTED, large, cluster_of((64, 0), (4, 0))) == 2
    assert workers_now(WANTED, large, cluster_of((4, 0), (2, 0))) == 1, "the large machine is gone"


def test_more_cores_than_a_machine_has_are_refused() -> None:
    assert place(Resources(cores_per_worker=4), here(4)) == Placement(1, 0, 4)
    with pytest.raises(UserError, match=r"--cores-per-worker 5: there are 4 on this machine; allowed: 1 to 4"):
        place(Resources(cores_per_worker=5), here(4))
    with pytest.raises(UserError, match=r"--cores-per-worker 9: .* allowed: 1 to 8"):
        place(replace(WANTED, cores_per_worker=9), cluster_of((8, 0), (8, 0)))
    with pytest.raises(UserError, match=r"--cores-per-worker 5: there are 4 for each worker .* allowed: 1 to 4"):
        place(replace(WANTED, cores_per_worker=5), cluster_of((8, 1), (4, 1)))
    with pytest.raises(UserError, match="leave --cores-per-worker out"):
        place(Resources(gpus=2, logical_gpus=True, cores_per_worker=1), here(4, 2))
    with pytest.raises(UserError, match="--cores-per-worker 0: allowed: 1 or more"):
        Resources(cores_per_worker=0).check()
    assert place(replace(WANTED, cores_per_worker=2), cluster_of((8, 1), (4, 1))).cpus == 2


def test_a_trial_on_several_devices_has_them_on_one_machine_of_cores() -> None:
    assert place(Resources(), here(8), 2) == Placement(4, 0, 1, devices=2)
    assert place(WANTED, cluster_of((5, 0), (3, 0)), 2).workers == 3
    assert place(Resources(cores_per_worker=2), here(8), 2) == Placement(2, 0, 2, devices=2)
    assert place(Resources(), here(16, 5), 2) == Placement(2, 5, 4, threads=4, devices=2)
    placed = place(WANTED, cluster_of((16, 4)), 4)
    assert (placed.workers, placed.cpus, placed.devices) == (1, 4, 4)
    assert workers_now(WANTED, placed, cluster_of((16, 4), (16, 4))) == 2
    assert place(Resources(workers=1), here(2), 4) == Placement(1, 0, 1, devices=4)  # a person may want to


@pytest.mark.parametrize(
    ("wanted", "offer", "words"),
    [
        (
            Resources(),
            here(2),
            "4: there are 2 cores on this machine, and each process of a trial needs 1; allowed: 1 to 2",
        ),
        (Resources(), here(8, 2), "4: there are 2 GPUs on this machine, .*; allowed: 1 to 2"),
        (Resources(gpus=2), here(8, 4), "4: there are 2 GPUs"),
        (
            Resources(workers_per_gpu=2),
            here(8, 4),
            "--workers-per-gpu 2: a trial has 4 GPUs; allowed: 1",
        ),
        (
            Resources(workers=2),  # two processes of a trial on one GPU are what NCCL refuses
            here(8, 4),
            "--workers 2: a trial has 4 GPUs of its own, and there are 4 on this machine; allowed: 1 to 1",
        ),
    ],
)
def test_more_devices_than_there_are_are_refused(wanted: Resources, offer: Offer, words: str) -> None:
    with pytest.raises(UserError, match=words):
        place(wanted, offer, 4)


def test_configurations_of_a_launch_have_one_number_of_devices() -> None:
    configs = [make_config({"trainer.devices": count}) for count in (1, 2)]
    assert Resources().devices(configs[1:]) == 2 and Resources(gpus_per_trial=4).devices(configs) == 4
    with pytest.raises(UserError, match=r"trainer\.devices: found 1, 2; allowed: one number for all trials"):
        Resources().devices(configs)


def test_a_resume_keeps_what_any_machine_can_do() -> None:
    before = {"workers": 2, "trials_per_pack": None}
    assert Resources().kept(before) == Resources(gpus=1, cores_per_worker=2).kept(before) == {"workers": 2}
    assert Resources(workers=1).kept(before) == Resources(workers_per_gpu=1).kept(before) == Resources().kept({}) == {}
    assert Resources(workers=1).kept({"trials_per_pack": 8}) == {"trials_per_pack": 8}

"""How many cores a worker has, for situations of packs, cores, environments and arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from launcher.ledger.ledger import Ledger
from launcher.plan import cores, directory
from launcher.plan.cores import Programs, settle, share, spread
from launcher.plan.experiment import Placement, Trial, form_packs
from launcher.plan.resources import Machine, Offer, Resources, fitting
from launcher.run.session import check_environments
from runner.envs.envpool import EnvPoolTask
from tests.launcher.builders import read_experiment

PPO = Path(__file__).parents[3] / "configs" / "skrl" / "ppo.yaml"
LARGE = "models.policy.hiddens=[1024,1024]"
CHEAP, COSTLY = 1.5e-6, 20e-6
PENDULUM, CHEETAH = "Pendulum-v1", "HalfCheetah-v4"
MEASURED = cores._step_seconds


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pendulum is cheap and HalfCheetah is not."""

    def seconds(env: str) -> float:
        return CHEAP if PENDULUM in env else COSTLY

    monkeypatch.setattr(cores, "_step_seconds", seconds)


def offer_of(*offered: int) -> Offer:
    """Machines of so many cores."""
    return Offer(tuple(Machine("", each) for each in offered))


def trials(*settings: str, env: str = CHEETAH, seeds: str = "1", num_envs: int = 64) -> list[Trial]:
    flags = {("env", "id"): env, ("env", "num_envs"): num_envs}
    return list(read_experiment([PPO], settings, flags, seeds).trials)


def settled(
    offered: Sequence[int], members: Sequence[Trial], wanted: Resources | None = None, kept: int | None = None
) -> Placement:
    """As a launch decides it."""
    wanted = wanted or Resources()
    each = wanted.cores_per_worker or 1
    before = Placement(wanted.workers or fitting(offered, each), 0, each)
    packs = form_packs([(trial, 0) for trial in members], before.workers)
    return settle(before, packs, _programs(members), wanted, offer_of(*offered), kept)


def _programs(members: Sequence[Trial]) -> Programs:
    return check_environments(members)


@pytest.mark.parametrize(
    ("offered", "packs", "each"),
    [
        ([2], 1, 2),
        ([2], 2, 1),
        ([2], 5, 1),
        ([64], 8, 8),
        ([64], 7, 9),
        ([64], 33, 1),
        ([64, 4], 2, 32),
        ([64, 4], 17, 4),
        ([8, 8, 8], 3, 8),
        ([8, 8, 8], 4, 4),
        ([1, 1], 1, 1),
        ([], 1, 1),
    ],
)
def test_every_pack_gets_as_many_cores_of_one_machine_as_every_other(offered: list[int], packs: int, each: int) -> None:
    assert share(offered, packs) == each


@pytest.mark.parametrize(
    ("offered", "seeds", "env", "workers", "cpus"),
    [
        ([2], "1", CHEETAH, 1, 2),
        ([2], "1", PENDULUM, 2, 1),  # cheap: no core helps
        ([2], "2", CHEETAH, 2, 1),  # a pack for every core
        ([2], "8", CHEETAH, 2, 1),
        ([64], "8", CHEETAH, 9, 7),  # eight packs of one seed; an eighth core of each would help little
        ([64], "16", CHEETAH, 16, 4),
        ([64], "64", CHEETAH, 64, 1),
        ([64, 4], "2", CHEETAH, 9, 7),  # the small machine holds none, and none waits for it
        ([1], "1", CHEETAH, 1, 1),
    ],
)
def test_cores_that_would_stand_idle_step_environments_where_that_is_faster(
    offered: list[int], seeds: str, env: str, workers: int, cpus: int
) -> None:
    placement = settled(offered, trials(env=env, seeds=seeds))
    assert (placement.workers, placement.cpus, placement.threads) == (workers, cpus, 1)


def test_the_plan_says_what_was_measured() -> None:
    why = settled([4], trials()).why
    assert why == "a step of HalfCheetah-v4 takes 20.0 µs on one core, all else about 4.9 µs"
    assert settled([4], trials(seeds="4")).why == ""


def test_configurations_of_one_launch_step_with_threads_of_their_own() -> None:
    members = [*trials(env=PENDULUM), *trials(env=CHEETAH)]
    members = [replace(trial, name=str(trial.config.env.id)) for trial in members]
    placement = settled([4], members)
    assert placement.cpus == 2
    assert [placement.threads_of([trial]) for trial in members] == [1, 2]
    assert Placement(1, 0, 3).threads_of(members) == 3


def test_large_arithmetic_has_the_cores_too_whatever_the_environment_costs() -> None:
    large = trials(LARGE, env=PENDULUM, num_envs=256)
    placement = settled([4], large)
    assert (placement.cpus, placement.threads) == (4, 4) and placement.threads_of(large) < 4
    assert placement.why.endswith("in arithmetic large enough to split")
    assert settled([64], large).threads == cores.MOST_THREADS


@pytest.mark.parametrize("kept", [1, 3])
def test_a_resume_computes_with_as_many_threads_as_before(kept: int) -> None:
    for offered in ([4], [2], [1]):
        for members in (trials(LARGE, num_envs=256), trials(), trials(seeds="4")):
            placement = settled(offered, members, kept=kept)
            assert placement.threads == kept and placement.cpus <= offered[0]


def test_who_counts_workers_or_their_cores_is_obeyed() -> None:
    three = settled([8], trials(env=PENDULUM), Resources(cores_per_worker=3))
    assert (three.workers, three.cpus, three.threads, three.why) == (2, 3, 1, "as --cores-per-worker says")
    assert settled([8], trials(LARGE, num_envs=256), Resources(cores_per_worker=3)).threads == 3
    one = settled([8], trials(), Resources(workers=1))
    assert (one.workers, one.cpus) == (1, 1)
    both = settled([8], trials(), Resources(workers=1, cores_per_worker=4))
    assert (both.workers, both.cpus) == (1, 4)


def test_evaluations_have_the_cores_that_would_stand_idle() -> None:
    placement, eight = Placement(8, 0, 1), offer_of(8)
    assert [spread(placement, range(batches), Resources(), eight).cpus for batches in (1, 3, 8, 20)] == [8, 2, 1, 1]
    assert spread(placement, range(3), Resources(), eight).workers == 4
    for untouched in (Resources(workers=8), Resources(cores_per_worker=1)):
        assert spread(placement, [0], untouched, eight) == placement
    assert spread(Placement(1, 1, 8), [0], Resources(), eight).cpus == 8


def test_the_plan_of_a_launch_keeps_the_threads_of_its_arithmetic(tmp_path: Path) -> None:
    assert directory.arithmetic_threads(tmp_path) is None

    with Ledger(tmp_path):
        pass
    assert directory.arithmetic_threads(tmp_path) is None

    def written(placement: dict[str, Any]) -> int | None:
        directory.add_revision(tmp_path, {"placement": placement})
        return directory.arithmetic_threads(tmp_path)

    assert written(asdict(Placement(1, 0, 4, threads=4))) == 4
    assert written({"workers": 1, "gpus": 0, "cpus": 1, "logical": False}) == 1, "of a version that had one"
    assert written(asdict(Placement(1, 1, 4, threads=4))) is None


def test_what_a_step_costs_is_measured_in_a_process_of_its_own() -> None:
    cheap = MEASURED('{"id": "CartPole-v1", "num_envs": 8}')
    assert 0 < cheap < 1e-2
    assert MEASURED('{"id": "CartPole-v1", "num_envs": 8, "no_such": 1}') == 0.0


def test_an_environment_that_cannot_be_measured_leaves_a_worker_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_step_seconds", lambda *_: 0.0)
    placement = settled([4], trials())
    assert placement.cpus == 1 and "HalfCheetah-v4 could not be measured" in placement.why


def test_cores_do_not_step_many_environments_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same environment, if several processes may step it and if they may not."""
    members = trials(env=CHEETAH, seeds="1")
    assert settled([2], members).cpus == 2
    monkeypatch.setattr(EnvPoolTask, "splits", False)
    assert settled([2], members).cpus == 1

"""Names, identities, seeds, sweeps and packs."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from launcher.plan.experiment import (
    LARGEST_LAUNCH,
    LARGEST_PACK,
    Placement,
    Trial,
    form_packs,
    parse_seeds,
    slug,
)
from runner.errors import UserError
from runner.training.pack import static_key
from tests.launcher.builders import read_experiment

ROOT = Path(__file__).parents[3]
CARTPOLE = ROOT / "configs" / "classic" / "cartpole.yaml"
IDENTITIES: dict[str, str] = json.loads((ROOT / "tests" / "fixtures" / "identities.json").read_text())
"""Configuration file → its first trial's id, and the beginning of the digest of what a pack has in common."""


def trials(*settings: str, seeds: str | None = None, files: tuple[Path, ...] = (CARTPOLE,)) -> list[Trial]:
    return list(read_experiment(files, settings, {}, seeds).trials)


def one(*settings: str) -> Trial:
    (trial,) = trials(*settings)
    return trial


def pack(members: list[Trial], workers: int, timestep: int = 0) -> list[list[Trial]]:
    return form_packs([(trial, timestep) for trial in members], workers)


# Identity


@pytest.mark.parametrize(
    "setting",
    [
        "trainer.timesteps=999999",
        "agent.experiment.write_interval=1",
        "agent.experiment.checkpoint_interval=0",
        "agent.experiment.directory=elsewhere",
        "agent.experiment.experiment_name=other",
    ],
)
def test_id_stays_when_length_logging_or_output_change(setting: str) -> None:
    assert one(setting).id == one().id


@pytest.mark.parametrize(
    "setting",
    [
        "seed=1",
        "env.num_envs=16",
        "env.max_episode_steps=100",
        "env.id=Acrobot-v1",
        "agent.learning_rate=1e-5",
        "agent.rollouts=64",
        "agent.value_loss=max",
        "agent.learning_rate_scheduler=cosine",
        "models.policy.network.0.layers=[8]",
        "agent.observation_statistics=frozen",
    ],
)
def test_id_changes_with_anything_that_is_trained(setting: str) -> None:
    assert one(setting).id != one().id


def test_id_is_known_for_good() -> None:
    # A launch of an earlier version could not be told from a new one if this changed unnoticed.
    trial = one("seed=7")
    assert trial.id.startswith("cartpole_s7_") and len(trial.id) == len("cartpole_s7_") + 8
    assert one("seed=7").id == trial.id


@pytest.mark.parametrize("file", IDENTITIES)
def test_files_keep_the_trials_and_packs_that_they_have(file: str) -> None:
    first = trials(files=(ROOT / file,))[0]
    assert f"{first.id} {hashlib.sha256(static_key(first.config).encode()).hexdigest()[:16]}" == IDENTITIES[file]


def test_env_steps_are_those_of_whole_updates() -> None:
    assert one("trainer.timesteps=100", "agent.rollouts=32", "env.num_envs=5").config.env_steps == 3 * 32 * 5


# Seeds


@pytest.mark.parametrize(
    ("text", "base", "expected"),
    [
        (None, 5, [5]),
        ("3", 5, [5, 6, 7]),
        (" 2 ", 0, [0, 1]),
        ("0-3", 5, [0, 1, 2, 3]),
        ("4-4", 0, [4]),
        ("3,5,7", 0, [3, 5, 7]),
        ("7, 0-2 ,9", 0, [7, 0, 1, 2, 9]),
        ("010", 0, list(range(10))),
        ("010,0o10,07-0x9,1_0-1_1", 0, None),  # ten is given twice
        ("010,0x1-0o3,1_1", 0, [10, 1, 2, 3, 11]),
        ("3,", 0, None),
        ("0", 0, None),
        ("-1", 0, None),
        ("1--3", 0, None),
        ("7-3", 0, None),
        ("1.5", 0, None),
        ("3,3", 0, None),
        ("0-4,2", 0, None),
        (str(LARGEST_LAUNCH + 1), 0, None),
        (f"0-{LARGEST_LAUNCH}", 0, None),
        (f"0-{LARGEST_LAUNCH - 1},{LARGEST_LAUNCH}", 0, None),
        ("2", 2**63 - 1, None),
    ],
)
def test_seeds(text: str | None, base: int, expected: list[int] | None) -> None:
    if expected is None:
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(text, base)
    else:
        assert parse_seeds(text, base) == expected


def test_seed_null_is_drawn() -> None:
    assert len({parse_seeds(None, None)[0] for _ in range(5)}) > 1
    first, second = parse_seeds("2", None)
    assert second == first + 1


# Sweeps and names


def test_sweep_is_the_product_of_files_settings_and_seeds() -> None:
    found = trials("agent.learning_rate=1e-3,3e-4", "agent.gae_lambda=0.9,0.95,1", seeds="2")
    assert len(found) == 12
    names = [f"cartpole_learning_rate={lr}_gae_lambda={gae}" for lr in ("0.001", "0.0003") for gae in (0.9, 0.95, 1)]
    assert [(t.name, t.config.seed) for t in found] == [*itertools.product(names, (0, 1))]
    assert {(t.config.agent.learning_rate, t.config.agent.gae_lambda) for t in found} == {
        *itertools.product((1e-3, 3e-4), (0.9, 0.95, 1.0))
    }


def test_a_list_is_one_value() -> None:
    (trial,) = trials("models.policy.network.0.layers=[8,8]")
    assert trial.name == "cartpole"
    assert [t.name for t in trials("models.policy.network.0.layers=[8],[8,8]")] == [
        "cartpole_layers=8",
        "cartpole_layers=8-8",
    ]


def test_names_of_files(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/c.yaml", "b/c.yaml", "b/d.yaml", "x/b/c.yaml")]
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(CARTPOLE.read_text().replace("num_envs: 32", f"num_envs: {32 + number}"))
    assert [t.name for t in trials(files=tuple(paths))] == ["a_c", "b_c", "d", "b_c_2"]
    paths[3].write_text(paths[1].read_text())
    with pytest.raises(UserError, match=r"b_c_s0_.* is asked for twice"):
        trials(files=tuple(paths))


def test_configurations_never_share_a_name() -> None:
    rounded = trials("agent.learning_rate=0.001,0.0010000001,0.0010000002", seeds="2")
    assert [t.name for t in rounded[::2]] == [
        "cartpole_learning_rate=0.001",
        "cartpole_learning_rate=0.001_2",
        "cartpole_learning_rate=0.001_3",
    ]
    long = [f"agent.{key}=0.5,0.6" for key in ("learning_rate", "discount_factor", "gae_lambda", "ratio_clip")]
    cut = trials(*long, "agent.grad_norm_clip=0.5,0.6")
    assert len({t.name for t in cut}) == len({t.id for t in cut}) == 32
    assert max(len(t.name) for t in cut) < 90


def test_more_trials_than_a_launch_takes() -> None:
    with pytest.raises(UserError, match="--seeds"):
        trials(seeds="0-100000")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a b/c", "a-b-c"), ("../x", "x"), ("..", "run"), ("é", "run"), ("lr=1e-3", "lr=1e-3"), ("x" * 99, "x" * 80)],
)
def test_slug(text: str, expected: str) -> None:
    assert slug(text) == expected


# Packs


def seeds_of(packs: list[list[Trial]]) -> list[list[int | None]]:
    return [[trial.config.seed for trial in pack] for pack in packs]


@pytest.mark.parametrize(
    ("count", "workers", "sizes"),
    [(8, 2, [4, 4]), (7, 2, [4, 3]), (10, 4, [3, 3, 2, 2]), (3, 8, [1, 1, 1]), (1, 1, [1]), (5, 1, [5])],
)
def test_packs_are_dealt_evenly(count: int, workers: int, sizes: list[int]) -> None:
    packs = pack(trials(seeds=str(count)), workers)
    assert [len(members) for members in packs] == sizes
    assert sorted(itertools.chain(*seeds_of(packs))) == list(range(count))
    for seeds in seeds_of(packs):  # neighbours stay together
        assert seeds == list(range(seeds[0], seeds[0] + len(seeds)))


def test_large_packs_are_divided() -> None:
    packs = pack(trials(seeds=str(2 * LARGEST_PACK + 1)), 1)
    assert [len(members) for members in packs] == [22, 22, 21]


@pytest.mark.parametrize(
    "setting",
    [
        "agent.learning_rate=1e-3,3e-4",
        "agent.discount_factor=0.9,0.99",
        "agent.gae_lambda=0.9,0.99",
        "agent.ratio_clip=0.1,0.2",
        "agent.value_clip=0,0.2",
        "agent.entropy_loss_scale=0,0.01",
        "agent.value_loss_scale=0.5,1",
        "agent.grad_norm_clip=0,1",
        "agent.kl_threshold=0,0.1",
        "agent.rewards_shaper_scale=0.1,1",
        "agent.learning_rate_scheduler_kwargs.kl_threshold=0.008,0.01",
        "seed=1,2",
    ],
)
def test_settings_that_are_only_numbers_share_a_pack(setting: str) -> None:
    adaptive = ["agent.learning_rate_scheduler=KLAdaptiveLR"] if "kwargs" in setting else []
    assert [len(members) for members in pack(trials(*adaptive, setting), 1)] == [2]


@pytest.mark.parametrize(
    "setting",
    [
        "models.policy.network.0.layers=[8],[8,8]",
        "env.num_envs=8,16",
        "env.id=CartPole-v1,Acrobot-v1",
        "env.max_episode_steps=100,200",
        "agent.rollouts=16,32",
        "agent.learning_epochs=1,2",
        "agent.mini_batches=1,2",
        "trainer.timesteps=3200,6400",
        "agent.learning_rate_scheduler=KLAdaptiveLR,linear",
        "agent.experiment.write_interval=32,64",
    ],
)
def test_settings_that_change_the_program_do_not(setting: str) -> None:
    assert [len(members) for members in pack(trials(setting), 1)] == [1, 1]


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("largest", [None, 7, 2])
def test_seeds_of_a_setting_stay_together_where_a_pack_can_hold_them(workers: int, largest: int | None) -> None:
    members = trials("agent.learning_rate=1e-4,2e-4,3e-4,4e-4,5e-4", seeds="3")
    packs = form_packs([(trial, 0) for trial in members], workers, largest, whole=True)
    assert sorted(trial.id for pack in packs for trial in pack) == sorted(trial.id for trial in members)
    assert max(map(len, packs)) <= (largest or 32)
    assert len(packs) == {None: workers, 7: max(3, workers), 2: max(8, workers)}[largest]
    homes = {
        name: sum(any(trial.name == name for trial in pack) for pack in packs) for name in {t.name for t in members}
    }
    assert set(homes.values()) == {1} or largest == 2


def test_trials_from_different_checkpoints_do_not_share_a_pack() -> None:
    members = trials(seeds="4")
    packs = form_packs(zip(members, (0, 128, 128, 0), strict=True), 1)
    assert sorted(seeds_of(packs)) == [[0, 3], [1, 2]]


@pytest.mark.parametrize(
    ("begins", "workers", "expected"),
    [
        ([0, 0, 0, 32, 32, 32], 2, [[0, 1, 2], [3, 4, 5]]),
        ([0, 0, 0, 0, 32, 32], 3, [[0, 1], [2, 3], [4, 5]]),
        ([0, 0, 0, 0, 0, 32], 1, [[0, 1, 2, 3, 4], [5]]),
        ([0, 32, 64], 8, [[0], [1], [2]]),
    ],
)
def test_packs_that_were_interrupted_stay_whole(begins: list[int], workers: int, expected: list[list[int]]) -> None:
    assert sorted(seeds_of(form_packs(zip(trials(seeds="6"), begins, strict=False), workers))) == expected


def test_longest_work_comes_first() -> None:
    found: Any = trials("env.num_envs=8,64,16")
    assert [members[0].config.env.num_envs for members in pack(found, 3)] == [64, 16, 8]


@pytest.mark.parametrize(
    ("placement", "backend"),
    [
        (Placement(2, 0, 1), "jax"),
        (Placement(2, 2, 0, logical=True), "jax"),
        (Placement(2, 2, 1), "torch"),
    ],
)
def test_a_backend_that_is_named_is_used_and_another_is_chosen_by_the_machine(
    placement: Placement, backend: str
) -> None:
    def chosen(*settings: str) -> str:
        (trial,) = read_experiment([CARTPOLE], settings, {}, None).trials
        return placement.backend(trial.config)

    assert chosen() == chosen("backend=auto") == backend
    assert chosen("backend=torch") == "torch" and chosen("backend=jax") == "jax"


def test_convolutions_are_for_torch_on_cpus() -> None:
    (trial,) = read_experiment([CARTPOLE.parents[1] / "atari" / "pong.yaml"], [], {}, None).trials
    assert Placement(2, 0, 1).backend(trial.config) == "torch"

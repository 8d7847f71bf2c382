"""Several processes that train one trial: what is refused, how the parts fit, and that k x N/k is 1 x N."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runner.draws import environment_seeds
from runner.envs.gymnasium import GymnasiumVector
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.group import Group, refuse
from runner.training.episodes import Episodes, Gathered
from runner.training.pack import identity, static_key
from tests.runner.builders import make_config, make_env, runner_class
from tests.runner.together import trained

LOOP: dict[str, Any] = {"agent.rollouts": 8, "agent.mini_batches": 3, "agent.learning_epochs": 2}
RECURRENT = {
    f"models.{role}.network": [
        {"name": "net", "input": "OBSERVATIONS", "layers": [8, {"lstm": 4}], "activations": "tanh"}
    ]
    for role in ("policy", "value")
}


@pytest.mark.parametrize(
    ("envs", "size", "changes", "words"),
    [
        (
            10,
            4,
            {},
            "env.num_envs 10 cannot be shared evenly by 4 processes; .* a multiple of 4, such as 8 or 12",
        ),
        (3, 4, {}, "such as 4"),
        (4, 4, {"agent.mini_batches": 16}, "a minibatch has 2 rows .* fewer than there are processes; allowed: 1 to 2"),
    ],
)
def test_what_processes_cannot_share_is_refused(envs: int, size: int, changes: dict[str, Any], words: str) -> None:
    config = make_config({"env.num_envs": envs, **changes}, "CategoricalMixin")
    with pytest.raises(UserError, match=f"trainer.devices {size}: .*{words}"):
        refuse(make_env("CartPole-v1", envs), config, size)


def test_environments_that_are_made_already_are_refused() -> None:
    import gymnasium

    env = wrap_env(gymnasium.make_vec("CartPole-v1", num_envs=4, vectorization_mode="sync"))
    assert isinstance(env, GymnasiumVector)
    config = make_config({"env.num_envs": 4}, "CategoricalMixin")
    with pytest.raises(UserError, match="each process needs environments of its own; allowed: 1"):
        refuse(env, config, 2)


def test_a_process_has_a_place_only_where_one_was_given() -> None:
    given = {"WORLD_SIZE": "4", "RANK": "3"}
    assert Group.of_variables(4, given) == Group(3, 4)
    jax = {"JAX_WORLD_SIZE": "2", "JAX_RANK": "1", "JAX_COORDINATOR_ADDR": "127.0.0.1:7000"}
    assert Group.of_variables(2, jax) == Group(1, 2, "127.0.0.1:7000")
    for variables, found in (({}, "this process is alone"), (given, "this is one of 4 processes")):
        with pytest.raises(UserError, match=f"trainer.devices 2: {found}; allowed: `launch`, .* `torchrun"):
            Group.of_variables(2, variables)


def test_a_runner_alone_does_not_train_what_several_processes_are_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "JAX_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    config = make_config({"trainer.devices": 2}, "CategoricalMixin")
    runner = runner_class("torch")(make_env("CartPole-v1", 4), config)
    assert len(runner.evaluate(episodes=1)) == 1
    with pytest.raises(UserError, match=r"trainer\.devices 2: this process is alone"):
        runner.run("train")


def test_a_trial_is_the_same_on_any_number_of_devices() -> None:
    one, four = (make_config({"trainer.devices": count}) for count in (1, 4))
    assert identity(one) == identity(four) and "devices" not in static_key(one)
    assert static_key(one) != static_key(four)


def test_parts_are_all_environments_once_and_in_order() -> None:
    seeds = environment_seeds(3, 8)
    assert [seed for rank in range(4) for seed in seeds[Group(rank, 4).own(8)]] == seeds


def test_episodes_of_all_processes_are_counted_as_those_of_one() -> None:
    rng, members, envs, processes = np.random.default_rng(0), 2, 6, 3
    one = Episodes(members, envs)
    rewards = rng.normal(size=(50, members * envs)).astype(np.float32)
    ended = rng.random(rewards.shape) < 0.1
    valid = rng.random(rewards.shape) < 0.9
    infos = [
        {"episode_rewards": 2 * row, "episode_ends": end & (row > 0)} for row, end in zip(rewards, ended, strict=True)
    ]

    def part(x: np.ndarray, rank: int) -> np.ndarray:
        mine = x.reshape(-1, members, envs)[:, :, Group(rank, processes).own(envs)]
        return mine.reshape(len(mine), -1)

    def steps(rank: int) -> tuple[Any, ...]:
        info = [{name: part(x[None], rank)[0] for name, x in one.items()} for one in infos]
        return part(rewards, rank), part(ended, rank), part(valid, rank), info

    given: list[np.ndarray] = []

    def noted(array: np.ndarray) -> np.ndarray:
        given.append(array)
        return np.stack([array] * processes)

    for rank in range(processes):
        Gathered(members, envs // processes, processes, noted).add(*steps(rank))
    every = Gathered(members, envs // processes, processes, lambda own: np.stack(given))
    one.add(rewards, ended, valid, infos)
    every.add(*steps(0))
    assert one.scores() == every.scores() and one.drain() == every.drain()


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("backend", "sizes", "task", "seeds", "changes"),
    [
        ("torch", (2, 4), "CartPole-v1", [1, 2], {**LOOP, "agent.advantage_normalization": "minibatch"}),
        ("torch", (2,), "Pendulum-v1", [1], {**LOOP, **RECURRENT, "agent.sequence_length": 4, "agent.class": "RPO"}),
        ("jax", (2, 4), "Pendulum-v1", [1, 2], {**LOOP, "agent.learning_rate_scheduler": "KLAdaptiveLR"}),
        ("jax", (2,), "Pendulum-v1", [1], {**LOOP, **RECURRENT, "agent.sequence_length": 4, "agent.class": "RPO"}),
    ],
)
def test_processes_train_together_what_one_trains(
    tmp_path: Path, backend: str, sizes: tuple[int, ...], task: str, seeds: list[int], changes: dict[str, Any]
) -> None:
    alone, said = trained(tmp_path, backend, 1, task, 8, seeds, **changes)
    for size in sizes:
        together, told = trained(tmp_path, backend, size, task, 8, seeds, apart=size == 2, **changes)
        for one, other in zip(alone, together, strict=True):
            scale = np.abs(one.parameters).max()
            np.testing.assert_allclose(other.parameters, one.parameters, rtol=0, atol=1e-6 * scale)
            for ours, theirs in zip(
                (one.observation_statistics, one.value_statistics),
                (other.observation_statistics, other.value_statistics),
                strict=True,
            ):
                assert ours is not None and theirs is not None and ours.count == theirs.count
                np.testing.assert_allclose(theirs.mean, ours.mean, rtol=1e-6, atol=1e-6)
                np.testing.assert_allclose(theirs.variance, ours.variance, rtol=1e-6, atol=1e-6)
        _same_records(said, told)


def _same_records(ones: list[Any], others: list[Any]) -> None:
    """Reports at the same places with the same tags, whose numbers differ by rounding."""
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one[1:] == other[1:]
        for record, its in zip(one[0], other[0], strict=True):
            assert (record is None) == (its is None)
            if record is not None:
                assert record[:3] == its[:3] and record[3].keys() == its[3].keys()
                numbers = ([float(x) for x in told[3].values()] for told in (record, its))
                np.testing.assert_allclose(*numbers, rtol=1e-4, atol=1e-5)

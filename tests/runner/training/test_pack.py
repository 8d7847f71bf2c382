"""Packs, identities, parameter layout, random streams, episode counts."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from scipy import stats

from runner import draws
from runner.envs.spaces import layout
from runner.errors import UserError
from runner.networks.parameters import LOG_STD
from runner.training.episodes import Episodes
from runner.training.pack import Hyper, Pack, identity, static_key
from runner.training.tracking import (
    LENGTH_MAX,
    LENGTH_MEAN,
    RETURN_MAX,
    RETURN_MEAN,
    RETURN_MIN,
    REWARD_MAX,
    REWARD_MEAN,
)
from tests.runner.builders import make_config, make_network

HYPER: dict[str, Any] = {
    "agent.learning_rate": 1e-2,
    "agent.adam_epsilon": 1e-5,
    "agent.discount_factor": 0.5,
    "agent.gae_lambda": 0.5,
    "agent.ratio_clip": 0.4,
    "agent.value_clip": 0.4,
    "agent.entropy_loss_scale": 0.4,
    "agent.value_loss_scale": 0.4,
    "agent.grad_norm_clip": 0.4,
    "agent.kl_threshold": 0.4,
    "agent.rewards_shaper_scale": 0.4,
    "agent.alpha": 0.4,
    "agent.learning_rate_scheduler_kwargs.kl_threshold": 0.4,
    "agent.learning_rate_scheduler_kwargs.min_lr": 1e-5,
    "agent.learning_rate_scheduler_kwargs.max_lr": 0.4,
    "agent.learning_rate_scheduler_kwargs.kl_factor": 3.0,
    "agent.learning_rate_scheduler_kwargs.lr_factor": 3.0,
}
STATIC: dict[str, Any] = {
    "agent.rollouts": 4,
    "agent.mini_batches": 1,
    "agent.learning_epochs": 1,
    "agent.value_loss": "max",
    "agent.time_limit_bootstrap": False,
    "agent.observation_statistics": "frozen",
    "agent.experiment.write_interval": 4,
    "models.separate": True,
    "models.policy.initial_log_std": -1.0,
    "models.policy.network.0.layers": [4],
    "trainer.timesteps": 16,
    "env.id": "Pendulum-v1",
    "env.num_envs": 4,
    "env.max_episode_steps": 4,
    "compile": True,
}
OUTPUT = {"agent.experiment.directory": "elsewhere", "agent.experiment.experiment_name": "name"}


def test_members_may_differ_in_hyper_numbers_and_seeds_only() -> None:
    assert len(HYPER) == len(Hyper._fields) - 1  # one key has two learning rates
    base = make_config()
    for name, value in {**HYPER, **OUTPUT, "seed": 77}.items():
        assert static_key(make_config({name: value})) == static_key(base), name
    keys = {static_key(make_config({name: value})) for name, value in STATIC.items()}
    assert len(keys) == len(STATIC) and static_key(base) not in keys
    with pytest.raises(UserError, match="one Static signature"):
        Pack.of([base, make_config({"agent.rollouts": 4})])


def test_a_packs_numbers_are_its_members_numbers() -> None:
    pack = Pack.of([make_config({"seed": 5}), make_config({"seed": 6, **HYPER})])
    assert pack.size == 2 and pack.seeds == [5, 6]
    for name, value in HYPER.items():
        column = name.removeprefix("agent.").replace("learning_rate_scheduler_kwargs.", "scheduler_")
        assert getattr(pack.hyper, column).tolist()[1] == value
        assert getattr(pack.hyper, column)[0] != value


def test_a_list_of_learning_rates_is_the_policys_and_the_values() -> None:
    pack = Pack.of([make_config({"seed": 5}), make_config({"seed": 6, "agent.learning_rate": [0.25, 0.5]})])
    assert pack.hyper.learning_rate.tolist() == [1e-3, 0.25]
    assert pack.hyper.value_learning_rate.tolist() == [1e-3, 0.5]


def test_a_trials_identity_leaves_out_length_logging_and_output_keys() -> None:
    base = identity(make_config())
    for name, value in {
        **OUTPUT,
        "trainer.timesteps": 800,
        "agent.experiment.write_interval": 3,
        "agent.experiment.checkpoint_interval": 3,
    }.items():
        assert identity(make_config({name: value})) == base, name
    for name, value in {**HYPER, "seed": 77, "agent.rollouts": 4, "env.id": "CartPole-v1"}.items():
        assert identity(make_config({name: value})) != base, name


@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("policy", ["GaussianMixin", "CategoricalMixin"])
def test_splitting_and_joining_a_row_of_parameters_is_the_identity(separate: bool, policy: str) -> None:
    network = make_network(make_config({"models.separate": separate}, policy), 5, 3)
    row = np.random.default_rng(0).normal(size=network.size).astype(np.float32)
    np.testing.assert_array_equal(network.join(network.split(row)), row)
    layers = 2 * (5 * 8 + 8 + 8 * 8 + 8) if separate else 5 * 8 + 8 + 8 * 8 + 8
    assert network.size == layers + 8 * 3 + 3 + 8 + 1 + (3 if policy == "GaussianMixin" else 0)


INITIAL = "models.policy.initial_log_std"


def test_initial_parameters_are_torchs_distribution_from_the_members_own_seed() -> None:
    network = make_network(make_config({"models.policy.network.0.layers": [400, 100], INITIAL: -0.7}), 50, 3)
    first, again, other = (network.split(network.initial(seed)) for seed in (1, 1, 2))
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        assert name == LOG_STD or not np.array_equal(value, other[name])
    assert first[LOG_STD].tolist() == pytest.approx([-0.7] * 3)
    for layer, inputs in (("policy.net.0", 50), ("policy.net.1", 400), ("policy.head", 100), ("value.head", 100)):
        bound = inputs**-0.5
        weight, bias = first[f"{layer}.weight"], first[f"{layer}.bias"]
        assert np.abs(weight).max() <= bound and np.abs(bias).max() <= bound
        if weight.size > 1000:
            assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_orthogonal_weights_keep_lengths_and_heads_are_small() -> None:
    layers = {
        "models.policy.network.0.layers": [{"conv2d": [6, 3]}, "flatten", 40],
        "models.initialization": "orthogonal",
        INITIAL: [-0.7, 0.1, 0.2],
    }
    network = make_network(make_config(layers), layout(Box(0, 255, (2, 5, 5), np.uint8)), 3)
    first, again, other = (network.split(network.initial(seed)) for seed in (1, 1, 2))
    gains = {"policy.head.weight": 0.01, "value.head.weight": 1.0}
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
        if name.endswith("bias"):
            assert not value.any()
        elif name != LOG_STD:
            assert not np.array_equal(value, other[name])
            matrix = value.reshape(len(value), -1) / gains.get(name, 2**0.5)
            few = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            np.testing.assert_allclose(few @ few.T, np.eye(len(few)), atol=1e-5)
    np.testing.assert_array_equal(first[LOG_STD], np.float32([-0.7, 0.1, 0.2]))


def test_streams_differ_by_seed_purpose_and_draw_and_repeat() -> None:
    firsts = [g.random() for p in ("update", "act") for d in range(50) for g in draws.generators(range(10), p, d)]
    assert len(set(firsts)) == len(firsts) == 1000
    (again,) = draws.generators([3], "act", 4)
    assert again.random() == firsts[(50 + 4) * 10 + 3]


def test_a_member_draws_the_same_noise_and_permutations_in_any_company() -> None:
    for gaussian in (True, False):
        together, alone = draws.generators([5, 6, 7], "update", 2), draws.generators([6], "update", 2)
        noise = draws.noise(together, 4, 3, 2, gaussian)
        assert noise.shape == (4, 3, 3, 2) and noise.dtype == np.float32
        np.testing.assert_array_equal(noise[:, 1:2], draws.noise(alone, 4, 3, 2, gaussian))
        orders = draws.orders(together, 5, 12)
        np.testing.assert_array_equal(orders[:, 1:2], draws.orders(alone, 5, 12))
        assert (np.sort(orders, axis=2) == np.arange(12)).all()
        assert len({tuple(row) for epoch in orders for row in epoch}) == 15


def test_noise_is_standard_normal_or_gumbel() -> None:
    (rng,) = draws.generators([0], "update", 0)
    assert stats.kstest(draws.noise([rng], 100, 100, 2, True).ravel(), "norm").pvalue > 1e-3
    assert stats.kstest(draws.noise([rng], 100, 100, 2, False).ravel(), "gumbel_r").pvalue > 1e-3


def test_episodes_are_counted_without_reset_rows_and_with_the_scores_own_rewards() -> None:
    episodes = Episodes(members=2, envs=2)
    yes, no = np.ones(4, bool), np.zeros(4, bool)

    def step(rewards: list[float], ended: list[int], valid: np.ndarray = yes, **info: Any) -> None:
        flags = no.copy()
        flags[ended] = True
        episodes.add(np.array([rewards], np.float32), flags[None], valid[None], [info])

    step([1, 2, 3, 4], [])
    step([1, 2, 3, 4], [0, 3])
    step([1e6, 2, 3, 1e6], [], valid=np.array([False, True, True, False]))
    step([5, 2, 3, 4], [0, 1])
    first, second = episodes.drain()
    assert (first[RETURN_MAX], first[RETURN_MIN], first[RETURN_MEAN]) == (8, 2, 5)
    assert (first[LENGTH_MAX], first[LENGTH_MEAN]) == (4, pytest.approx(7 / 3))
    assert (second[RETURN_MEAN], second[LENGTH_MEAN], second[REWARD_MAX]) == (8, 2, 4)
    assert first[REWARD_MEAN] == pytest.approx((1 + 1 + 5 + 2 * 4) / 7)
    step([1, 1, 1, 1], [2], episode_rewards=np.full(4, 100.0), episode_ends=np.array([0, 0, 1, 0], bool))
    first, second = episodes.drain()
    assert RETURN_MEAN not in first and second[RETURN_MEAN] == 12 + 100
    assert episodes.scores() == [pytest.approx(5), pytest.approx((8 + 112) / 2)]


def test_rewards_take_no_more_memory_the_longer_nothing_is_reported() -> None:
    episodes = Episodes(members=1, envs=1000)
    rewards, ended, valid = np.ones((8, 1000), np.float32), np.zeros((8, 1000), bool), np.ones((8, 1000), bool)
    sizes = []
    for _ in range(3):
        episodes.add(rewards, ended, valid, [{}] * 8)
        sizes.append(len(pickle.dumps(episodes)))
    assert len(set(sizes)) == 1
    assert episodes.drain()[0][REWARD_MEAN] == 1

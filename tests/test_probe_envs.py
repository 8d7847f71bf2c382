"""The probe environments do what their docstrings say, in both auto-reset modes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv

from tests import oracle, probe_envs
from tests.probe_envs import POISON, PROBES, PoisonReset, make_vector


def record(env: VectorEnv[Any, Any, Any], actions: Any, steps: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Steps with ``actions(observation)``: observations [T+1, N], rewards, terminated, truncated [T, N]."""
    observation, _ = env.reset(seed=seed)
    observations: list[Any] = [observation[:, 0]]
    rows: list[tuple[Any, ...]] = []
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(actions(observation))
        observations.append(observation[:, 0].copy())
        rows.append((reward.copy(), terminated.copy(), truncated.copy()))
    rewards, terminated, truncated = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "observations": np.array(observations),
        "rewards": rewards,
        "terminated": terminated,
        "truncated": truncated,
    }


def best(observation: np.ndarray) -> np.ndarray:
    """The discrete action of the observation's sign."""
    return (observation[:, 0] > 0).astype(np.int64)


@pytest.mark.parametrize("discrete", [True, False], ids=["discrete", "box"])
@pytest.mark.parametrize("name", sorted(PROBES))
def test_gymnasium_accepts_them(name: str, discrete: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises a Box of ±1, and a registered spec
        check_env(PROBES[name](discrete), skip_render_check=True)


@pytest.mark.parametrize("discrete", [True, False], ids=["discrete", "box"])
def test_constant_reward(discrete: bool) -> None:
    env = PROBES["ConstantReward"](discrete)
    assert env.reset(seed=0)[0].tolist() == [0.0]
    assert env.step(env.action_space.sample())[1:4] == (1.0, True, False)


def test_observation_reward() -> None:
    env = PROBES["ObservationReward"]()
    seen = set()
    for seed in range(20):
        (observation,), _ = env.reset(seed=seed)
        assert env.step(0)[1:4] == (observation, True, False)
        seen.add(float(observation))
    assert seen == {-1.0, 1.0}


def test_two_steps() -> None:
    env = PROBES["TwoSteps"]()
    assert env.reset(seed=0)[0].tolist() == [0.0]
    observation, *first = env.step(0)
    assert observation.tolist() == [1.0]
    assert first[:3] == [0.0, False, False]
    assert env.step(0)[1:4] == (1.0, True, False)
    assert env.reset()[0].tolist() == [0.0]


def test_two_steps_values_solve_gae() -> None:
    """With V(0) = γ and V(1) = 1 every advantage is 0, whatever λ is: these are the true values."""
    data = record(make_vector(PROBES["TwoSteps"], 2), lambda o: np.zeros(2, np.int64), 9)
    advantages, _ = oracle.gae(
        rewards=data["rewards"],
        values=np.where(data["observations"] == 0.0, 0.9, 1.0),
        terminated=data["terminated"],
        truncated=data["truncated"],
        discount_factor=0.9,
        gae_lambda=0.7,
    )
    valid = oracle.valid_rows(data["terminated"] | data["truncated"], np.zeros(2))
    assert valid.sum() == 12  # steps 0 1 (dummy) 3 4 (dummy) 6 7 (dummy), twice
    np.testing.assert_allclose(advantages[valid], 0.0, atol=1e-12)


@pytest.mark.parametrize("name", ["ActionReward", "ActionObservationReward"])
def test_action_decides_the_reward(name: str) -> None:
    for seed in range(6):
        env, box = PROBES[name](), PROBES[name](discrete=False)
        observation = env.reset(seed=seed)[0]
        sign = 1.0 if name == "ActionReward" else float(observation[0])
        right = int(sign > 0)
        assert env.step(right)[1:4] == (1.0, True, False)
        env.reset(seed=seed)
        assert env.step(1 - right)[1] == -1.0
        assert box.reset(seed=seed)[0].tolist() == observation.tolist()
        # 1 − (2 − ½)² = −1.25 for target ½, 1 − (2 + ½)² = −5.25 for −½
        assert box.step(np.array([2.0], np.float32))[1] == (-1.25 if sign > 0 else -5.25)
        box.reset(seed=seed)
        assert box.step(np.array([0.5 * sign], np.float32))[1] == 1.0


def test_gaussian_value() -> None:
    a = np.random.default_rng(0).normal(0.2, 0.3, 200_000)
    sampled = np.mean(1.0 - (a - 0.5) ** 2)  # 1 − .09 − .09
    assert probe_envs.gaussian_value(0.2, 0.3, 0.5) == pytest.approx(0.82)
    assert sampled == pytest.approx(0.82, abs=2e-3)


def test_truncation_rows() -> None:
    data = record(make_vector(PROBES["Truncation"], 1, length=3), lambda o: np.zeros(1, np.int64), 8)
    assert data["rewards"][:, 0].tolist() == [1, 1, 1, 0, 1, 1, 1, 0]
    assert data["truncated"][:, 0].tolist() == [False, False, True, False, False, False, True, False]
    assert not data["terminated"].any()
    assert not data["observations"].any()


def test_truncation_value_by_hand() -> None:
    # γ ½, two steps, λ 1: returns 1.5 and 1, mean 1.25. λ 0: V = mean(1 + ½V, 1), so ¾V = 1
    value = probe_envs.truncation_value
    assert value(0.5, 2, time_limit_bootstrap=False) == pytest.approx(1.25)
    assert value(0.5, 2, time_limit_bootstrap=False, gae_lambda=0.0) == pytest.approx(4 / 3)
    for gae_lambda in (0.0, 0.6, 1.0):
        assert value(0.9, 7, gae_lambda=gae_lambda) == pytest.approx(10.0)


@pytest.mark.parametrize("bootstrap", [True, False])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.95, 1.0])
def test_truncation_value_is_the_fixed_point(gae_lambda: float, bootstrap: bool) -> None:
    """Mean return over whole episodes equals V, and only when reset rows are left out."""
    expected = probe_envs.truncation_value(0.9, 4, time_limit_bootstrap=bootstrap, gae_lambda=gae_lambda)
    assert expected == pytest.approx(10.0) if bootstrap else expected < 5.0
    data = record(make_vector(PROBES["Truncation"], 1, length=4), lambda o: np.zeros(1, np.int64), 14)
    _, returns = oracle.gae(
        rewards=data["rewards"],
        values=np.full((15, 1), expected),
        terminated=data["terminated"],
        truncated=data["truncated"],
        discount_factor=0.9,
        gae_lambda=gae_lambda,
        time_limit_bootstrap=bootstrap,
    )
    valid = oracle.valid_rows(data["terminated"] | data["truncated"], np.zeros(1))
    assert returns[valid].mean() == pytest.approx(expected)
    assert returns.mean() != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_vector_form(mode: AutoresetMode) -> None:
    env = make_vector(PROBES["TwoSteps"], 3, autoreset_mode=mode)
    assert env.metadata["autoreset_mode"] == mode
    data = record(env, lambda o: np.zeros(3, np.int64), 5)
    if mode == AutoresetMode.NEXT_STEP:  # 0 → 1 → 1 (final) → reset row → 1 → 1 (final)
        assert data["observations"][:, 0].tolist() == [0, 1, 1, 0, 1, 1]
        assert data["rewards"][:, 0].tolist() == [0, 1, 0, 0, 1]
        assert data["terminated"][:, 0].tolist() == [False, True, False, False, True]
    else:  # the ending step already shows the new episode
        assert data["observations"][:, 0].tolist() == [0, 1, 0, 1, 0, 1]
        assert data["rewards"][:, 0].tolist() == [0, 1, 0, 1, 0]


def test_same_step_shows_the_final_observation_in_info() -> None:
    env = make_vector(PROBES["TwoSteps"], 2, autoreset_mode=AutoresetMode.SAME_STEP)
    env.reset(seed=0)
    env.step(np.zeros(2, np.int64))
    info = env.step(np.zeros(2, np.int64))[4]
    assert [o.tolist() for o in info["final_obs"]] == [[1.0], [1.0]]


# ---------------------------------------------------------------------------------------------- poison


def test_poison_reset_rows() -> None:
    env = PoisonReset(4, length=2, stagger=3)
    assert env.lengths.tolist() == [2, 3, 4, 2]
    data = record(env, best, 6)
    assert data["rewards"][:, 0].tolist() == [1, 1, POISON, 1, 1, POISON]
    assert data["rewards"][:, 1].tolist() == [1, 1, 1, POISON, 1, 1]
    assert data["terminated"][:, 0].tolist() == [False, True, False, False, True, False]
    assert not data["truncated"].any()
    valid = oracle.valid_rows(data["terminated"], np.zeros(4))
    assert np.array_equal(data["rewards"] == POISON, ~valid)
    assert env.dummy.tolist() == (~valid[-1]).tolist()
    assert set(np.unique(data["observations"])) == {-1.0, 1.0}


def test_poison_reset_rewards_the_right_action() -> None:
    env = PoisonReset(64, length=10_000)
    (observation, _), wrong = env.reset(seed=1), 1
    assert (env.step(best(observation))[1] == 1.0).all()
    observation = env.state
    assert (env.step(wrong - best(observation))[1] == 0.0).all()
    box = PoisonReset(64, length=10_000, discrete=False)
    observation, _ = box.reset(seed=1)
    assert (box.step(0.5 * observation)[1] == 1.0).all()
    assert box.step(box.action_space.sample())[1].max() < 1.0


def test_poison_reset_repeats_and_seeds_each_environment() -> None:
    first, again = (record(PoisonReset(3), best, 12, seed=7) for _ in range(2))
    for name in first:
        assert np.array_equal(first[name], again[name])
    env = PoisonReset(1, length=4)
    alone = [env.reset(seed=[8])[0][0, 0]] + [env.step(np.array([0]))[0][0, 0] for _ in range(12)]
    assert alone == first["observations"][:, 1].tolist()  # environment 1 of seed 7, length 3 + 1


def test_poison_options() -> None:
    data = record(PoisonReset(3, poison_observation=True), best, 12)
    final = np.vstack([np.zeros((1, 3), bool), data["terminated"]])
    assert np.array_equal(data["observations"] == POISON, final)

    data = record(PoisonReset(3, truncate=True, poison_observation=True), best, 12)
    assert data["truncated"].sum() > 6
    assert not data["terminated"].any()
    assert np.abs(data["observations"]).max() == 1.0

    env = PoisonReset(1, length=2, stagger=1, poison_info=True)
    _, info = env.reset(seed=0)
    elapsed, rewards = [int(info["elapsed_step"][0])], [float(info["reward"][0])]
    for _ in range(5):
        info = env.step(np.zeros(1, np.int64))[4]
        elapsed.append(int(info["elapsed_step"][0]))
        rewards.append(float(info["reward"][0]))
    assert elapsed == [0, 1, 2, 2, 1, 2]  # the reset row does not show 0
    assert rewards[3] == POISON
    assert max(rewards[:3] + rewards[4:]) <= 1.0
    assert PoisonReset(1).reset()[1] == {}


@pytest.mark.parametrize("poison_observation", [False, True])
def test_poison_ruins_returns_unless_masked(poison_observation: bool) -> None:
    data = record(PoisonReset(4, poison_observation=poison_observation), best, 20)
    advantages, returns = oracle.gae(
        rewards=data["rewards"],
        values=data["observations"],  # a value that follows the (poisoned) observation
        terminated=data["terminated"],
        truncated=data["truncated"],
        discount_factor=0.9,
        gae_lambda=0.95,
    )
    valid = oracle.valid_rows(data["terminated"], np.zeros(4))
    for masked in (advantages[valid], returns[valid]):
        assert np.abs(masked).max() < 20.0
    assert np.abs(returns).max() >= 0.9 * POISON

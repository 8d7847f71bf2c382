"""L5: rows that are not experience are not used, whatever stands in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from runner.envs.base import Step, VectorEnv
from runner.envs.wrap import wrap_env
from runner.training.tracking import LENGTH_MAX, RETURN_MAX, REWARD_MAX, REWARD_MEAN
from tests import probe_envs
from tests.probe_envs import PoisonReset
from tests.records import untimed
from tests.runner.builders import TASKS, both, fingerprint, make_config, make_env, plain_config, runner_class

NO_STATISTICS = {"agent.observation_preprocessor": None, "agent.value_preprocessor": None}
CASES: dict[str, dict[str, Any]] = {
    "statistics, two minibatches": {},
    "statistics, one minibatch": {"agent.mini_batches": 1},
    "frozen": {"agent.observation_statistics": "frozen", "agent.mini_batches": 3},
    "no statistics": NO_STATISTICS,
    "normalised per minibatch": {"agent.advantage_normalization": "minibatch", **NO_STATISTICS},
    "entropy, adaptive": {"agent.entropy_loss_scale": 0.1, "agent.learning_rate_scheduler": "KLAdaptiveLR"},
    "one row a minibatch": {"agent.mini_batches": 24, "trainer.timesteps": 24, "agent.learning_epochs": 1},
}


class Poisoned(VectorEnv):
    """Writes into the rows that nothing may use: rewards after an end, observations after a termination."""

    def __init__(self, inner: VectorEnv, reward: float = 0.0, observation: float | None = None) -> None:
        super().__init__(inner.num_envs, inner.observation_space, inner.action_space)
        self.inner, self.reward, self.observation = inner, reward, observation
        self.poisoned = 0
        self._ended = np.zeros(inner.num_envs, bool)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        self._ended[:] = False
        return self.inner.reset()

    def step(self, actions: Any) -> Step:
        observations, rewards, terminated, truncated, info = self.inner.step(actions)
        rewards = np.where(self._ended, np.float32(self.reward), rewards)
        self.poisoned += int(self._ended.sum())
        if self.observation is not None:
            observations = np.where(terminated[:, None], np.float32(self.observation), observations)
        self._ended = terminated | truncated
        return observations, rewards, terminated, truncated, info

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        self.inner = self.inner.seeded(seeds, threads)
        self.num_envs = self.inner.num_envs
        self._ended = np.zeros(self.num_envs, bool)
        return self


def outcome(backend: str, env: VectorEnv, policy: str, changes: dict[str, Any]) -> tuple[str, list[Any]]:
    """Fingerprint of the member and its records after four updates."""
    runner = runner_class(backend)(env, plain_config({"trainer.timesteps": 32, **changes}, policy), threads=1)
    records = [report.records[0] for report in runner.reports()]
    said = [{k: repr(v) for k, v in untimed(r.values).items()} for r in records if r]
    return fingerprint(runner.states()[0]), said


@pytest.mark.parametrize(("backend", "case"), both(CASES, jax=["statistics, two minibatches", "no statistics"]))
def test_what_stands_in_a_reset_row_changes_nothing(backend: str, case: str) -> None:
    def env() -> VectorEnv:
        return make_env("CartPole-v1", 3, {"max_episode_steps": 20})

    clean = outcome(backend, env(), "CategoricalMixin", CASES[case])
    assert '"diverged": "False"' in clean[0]
    for observation in (1e6, float("nan"), float("inf")) if case == "no statistics" else (1e6, float("nan")):
        poisoned = Poisoned(env(), 1e6, observation)
        assert outcome(backend, poisoned, "CategoricalMixin", CASES[case]) == clean, observation
        assert poisoned.poisoned > 2


@pytest.mark.parametrize("observation", [1e6, float("nan")], ids=str)
def test_a_gaussian_policy_meets_no_reset_row_either(observation: float) -> None:
    def env() -> VectorEnv:
        return wrap_env(PoisonReset(4, discrete=False))

    changes = {**NO_STATISTICS, "models.policy.clip_actions": True}
    clean = outcome("torch", env(), "GaussianMixin", changes)
    poisoned = Poisoned(env(), 1e6, observation)
    assert outcome("torch", poisoned, "GaussianMixin", changes) == clean
    assert poisoned.poisoned > 10


LENGTHS = [(task, length) for length in (8, 4, 7) for task in TASKS]


@pytest.mark.parametrize(("backend", "case"), both(LENGTHS, jax=[("CartPole-v1", 8)]))
def test_the_flag_is_carried_from_one_rollout_to_the_next(backend: str, case: tuple[str, int]) -> None:
    """With episodes of 8 steps and rollouts of 8, the reset row is the first of the next rollout."""
    task, length = case
    policy = TASKS[task][0]
    envs, updates = 3, 4
    env = Poisoned(make_env(task, envs, {"max_episode_steps": length}), 1e6)
    clean = outcome(backend, make_env(task, envs, {"max_episode_steps": length}), policy, {})
    assert outcome(backend, env, policy, {}) == clean
    config = plain_config({"trainer.timesteps": 8 * updates}, policy)
    runner = runner_class(backend)(make_env(task, envs, {"max_episode_steps": length}), config, threads=1)
    list(runner.reports())
    resets = sum(t % (length + 1) == length for t in range(8 * updates))
    statistics = runner.states()[0].value_statistics
    assert statistics is not None
    assert resets > 0 and statistics.count == 1 + envs * (8 * updates - resets)


@pytest.mark.parametrize("poison_observation", [False, True])
@pytest.mark.parametrize("truncate", [False, True])
def test_returns_and_statistics_of_the_poisoned_probe_are_clean(
    truncate: bool, poison_observation: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> tuple[str, list[Any]]:
        env = PoisonReset(
            6, length=8, stagger=3, truncate=truncate, poison_observation=poison_observation, poison_info=True
        )
        return outcome("torch", wrap_env(env), "CategoricalMixin", {"trainer.timesteps": 64})

    poisoned = run()
    for record in poisoned[1]:
        assert float(record[REWARD_MAX]) <= 1.0 and 0.0 <= float(record[REWARD_MEAN]) <= 1.0
        assert float(record.get(RETURN_MAX, 0)) <= 10 and float(record.get(LENGTH_MAX, 8)) in (8, 9, 10)
    assert sum(RETURN_MAX in record for record in poisoned[1]) >= 6
    monkeypatch.setattr(probe_envs, "POISON", 0.5)
    assert run() == poisoned


def test_evaluation_counts_no_reset_row(backend: str) -> None:
    env = wrap_env(PoisonReset(5, length=4, stagger=3, poison_info=True))
    runner = runner_class(backend)(env, make_config(policy="CategoricalMixin"))
    episodes = runner.evaluate()
    assert [e.length for e in episodes] == [4, 5, 6, 4, 5]
    assert all(0 <= e.ret <= e.length for e in episodes)

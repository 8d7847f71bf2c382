"""Environments whose values are known exactly are learned to these values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest

from runner.api import Runner
from runner.envs.wrap import wrap_env
from tests.probe_envs import PROBES, PoisonReset, make_vector, truncation_value
from tests.runner.builders import both, plain_config, runner_class
from tests.runner.builders import values as values_of

GAMMA = 0.9
UPDATES = 40
SETTINGS: dict[str, Any] = {
    "agent.rollouts": 8,
    "agent.learning_epochs": 4,
    "agent.mini_batches": 1,
    "agent.learning_rate": 3e-2,
    "agent.learning_rate_scheduler": "linear",
    "agent.discount_factor": GAMMA,
    "agent.value_clip": 0.0,
    "agent.observation_preprocessor": None,
    "agent.experiment.write_interval": 0,
    "trainer.timesteps": 8 * UPDATES,
}


@pytest.fixture(autouse=True)
def unchecked() -> Iterator[None]:
    """Shape checks, which other tests make, take most of the time here."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def learned(backend: str, env: Any, discrete: bool = True, **changes: Any) -> Runner:
    policy = "CategoricalMixin" if discrete else "GaussianMixin"
    runner = runner_class(backend)(env, plain_config({**SETTINGS, **changes}, policy))
    for _ in runner.reports():
        pass
    return runner


def values(runner: Runner, *observations: float) -> list[float]:
    """V in reward units."""
    return values_of(runner, np.array(observations)[:, None]).tolist()


def acts(runner: Runner, *observations: float) -> list[float]:
    """The most probable actions."""
    rows = np.array(observations, np.float32).reshape(-1, 1)
    return runner.agent.act(rows, deterministic=True).reshape(-1).tolist()


KNOWN: dict[str, tuple[list[float], list[float]]] = {
    "ConstantReward": ([0.0], [1.0]),
    "ObservationReward": ([-1.0, 1.0], [-1.0, 1.0]),
    "TwoSteps": ([0.0, 1.0], [GAMMA, 1.0]),
    "ActionReward": ([0.0], [1.0]),
    "ActionObservationReward": ([-1.0, 1.0], [1.0, 1.0]),
    "Truncation": ([0.0], [1 / (1 - GAMMA)]),
}


@pytest.mark.parametrize(("backend", "probe"), both(KNOWN, jax=["TwoSteps", "ActionObservationReward", "Truncation"]))
def test_probes_reach_their_known_values(backend: str, probe: str) -> None:
    observations, expected = KNOWN[probe]
    runner = learned(backend, make_vector(PROBES[probe], 8))
    assert values(runner, *observations) == pytest.approx(expected, abs=0.1 * max(1, abs(expected[0])))
    if probe == "ActionReward":
        assert acts(runner, 0.0) == [1]
    if probe == "ActionObservationReward":
        assert acts(runner, -1.0, 1.0) == [0, 1]


def test_a_truncation_that_counts_as_termination_is_worth_less() -> None:
    """Rollouts of 12 steps: two whole episodes of 5, each with its reset row, so that no return is cut."""
    changes = {"agent.time_limit_bootstrap": False, "agent.rollouts": 12, "trainer.timesteps": 12 * UPDATES}
    runner = learned("torch", make_vector(PROBES["Truncation"], 8), **changes)
    expected = truncation_value(GAMMA, 5, time_limit_bootstrap=False, gae_lambda=0.95)
    assert expected < 5
    assert values(runner, 0.0) == pytest.approx([expected], abs=0.2)


def test_gaussian_policies_find_the_best_number() -> None:
    """The reward is 1 − (a − 0.5·observation)²."""
    runner = learned("torch", make_vector(PROBES["ActionObservationReward"], 8, discrete=False), discrete=False)
    assert acts(runner, -1.0, 1.0) == pytest.approx([-0.5, 0.5], abs=0.15)
    assert all(0.4 < v <= 1.05 for v in values(runner, -1.0, 1.0))


def test_poisoned_reset_rows_do_not_keep_a_policy_from_the_best_return(backend: str) -> None:
    env = wrap_env(PoisonReset(8, length=3, poison_info=True, poison_observation=True))
    runner = learned(backend, env)
    assert acts(runner, -1.0, 1.0) == [0, 1]
    assert all(episode.ret == episode.length for episode in runner.evaluate())
    bound = 1 / (1 - GAMMA)
    assert all(1 < v < 1.1 * bound for v in values(runner, -1.0, 1.0))

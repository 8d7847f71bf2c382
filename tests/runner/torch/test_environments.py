"""Every kind of EnvPool environment is trained for one iteration by the policy that fits it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import runner.torch
from runner.torch import Runner
from tests.runner.builders import make_config, make_env

POLICIES = {
    "CartPole-v1": "CategoricalMixin",
    "Acrobot-v1": "CategoricalMixin",
    "LunarLander-v3": "CategoricalMixin",
    "MiniGrid-Empty-5x5-v0": "CategoricalMixin",
    "Pendulum-v1": "GaussianMixin",
    "HalfCheetah-v4": "GaussianMixin",
    "HalfCheetah-v5": "GaussianMixin",
    "Ant-v4": "GaussianMixin",
    "CheetahRun-v1": "GaussianMixin",
}


@pytest.mark.parametrize("task", POLICIES)
def test_one_iteration_of_a_pack_runs(task: str) -> None:
    gaussian = POLICIES[task] == "GaussianMixin"
    config = make_config({"models.policy.clip_actions": gaussian}, POLICIES[task])
    runner = Runner(make_env(task, 2), config, seeds=[1, 2], threads=1)
    before = [state.parameters for state in runner.states()]
    reports = list(runner.reports())
    for state, old in zip(runner.states(), before, strict=True):
        assert np.isfinite(state.parameters).all() and not np.array_equal(state.parameters, old)
        assert not state.counters.diverged and state.counters.env_steps == 16
        assert state.observation_statistics is not None
        assert len(state.observation_statistics.mean) == runner.env.observation_size
    assert all(record is not None for record in reports[-1].records)


def test_the_real_torch_is_imported_here_and_ours_beside_it() -> None:
    assert Path(torch.__file__).parent.name == "torch" and "site-packages" in torch.__file__
    assert hasattr(torch, "Tensor") and not hasattr(torch, "Runner")
    assert Path(runner.torch.__file__).parent == Path(__file__).parents[3] / "runner/torch"

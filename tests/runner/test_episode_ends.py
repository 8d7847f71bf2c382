"""A whole run learns from every auto-reset mode."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from runner.training.tracking import LENGTH_MAX, LENGTH_MIN, RETURN_MAX, RETURN_MIN
from tests.runner.builders import make_config, runner_class

ENVS, LIMIT = 3, 10


@pytest.mark.parametrize("mode", AutoresetMode)
def test_a_whole_run_learns_from_every_auto_reset_mode(backend: str, mode: AutoresetMode) -> None:
    makers = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)] * ENVS
    env = SyncVectorEnv(makers, autoreset_mode=mode)
    runner = runner_class(backend)(env, make_config({"trainer.timesteps": 24}, "CategoricalMixin"))
    records = [r.records[0] for r in runner.reports() if r.records[0]]
    assert [r.env_steps for r in records] == [24, 48, 72]
    for record in records[1:]:
        # A step of the pole is worth 1.
        assert record.values[RETURN_MAX] == record.values[LENGTH_MAX] <= LIMIT
        assert record.values[RETURN_MIN] == record.values[LENGTH_MIN] > 2
    (state,) = runner.states()
    assert np.isfinite(state.parameters).all()
    assert state.value_statistics is not None
    rows = state.value_statistics.count - 1
    assert rows == 72 if mode is not AutoresetMode.NEXT_STEP else 48 < rows < 72
    episodes = runner.evaluate()
    assert all(e.ret == e.length <= LIMIT for e in episodes) and len(episodes) == ENVS

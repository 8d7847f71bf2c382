"""Isaac Lab's environments of several agents as rows, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from runner.envs.agents.tensors import TensorAgents
from runner.envs.base import ABSENT
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from tests.isaac_lab import DirectMARLEnv

NUMBERS = Box(-np.inf, np.inf, (2,), np.float32)
ONE = Box(-1, 1, (1,), np.float32)


def lab(unlike: bool = False, state: bool = False) -> DirectMARLEnv:
    """Three environments of agents a and b."""
    observations: dict[str, Any] = {"a": NUMBERS, "b": NUMBERS}
    actions: dict[str, Any] = {"a": ONE, "b": ONE}
    if unlike:
        observations["b"], actions = Box(-np.inf, np.inf, (1,), np.float32), {"a": Discrete(2), "b": Discrete(3)}
    return DirectMARLEnv(observations, actions, Box(-np.inf, np.inf, (2,)) if state else None)


@pytest.mark.parametrize("share", [False, True, [["b"], ["a"]]])
def test_equals_the_environment_itself(share: Any) -> None:
    env, alone = wrap_env(lab()).arranged(share, False), lab()
    assert isinstance(env, TensorAgents) and env.environments == 3 and env.num_envs == 6
    rng, agents = np.random.default_rng(0), env.agents
    with env.opened([4, 5, 6]) as opened:
        observations, info = opened.reset()
        seen = alone.reset(seed=4)[0]
        there = np.ones((3, 2), bool)
        for _ in range(25):
            assert np.array_equal(agents.of_rows(~info[ABSENT], 3), there)
            assert np.array_equal(agents.of_rows(observations, 3)[:, 1], seen["b"].numpy())
            actions = rng.uniform(-0.2, 1, (3, 2, 1)).astype(np.float32)
            observations, *columns, info = opened.step(agents.rows_of(actions, 3))
            before = {name: x.clone() for name, x in seen.items()}
            given = {name: torch.from_numpy(actions[:, k].copy()) for k, name in enumerate("ab")}
            seen, rewards, terminated, truncated, _ = alone.step(given)
            told = [np.stack([x[name].numpy() for name in "ab"], 1) for x in (rewards, terminated, truncated)]
            for column, own in zip(columns, told, strict=True):
                assert np.array_equal(agents.of_rows(column, 3), np.where(there, own, 0))
            ended, over = told[1] | told[2], told[1].all(1) | told[2].all(1)
            rows, final = info.get("final_observations", (np.zeros(0, int), np.zeros((0, 2))))
            assert len(rows) == (ended & there).sum()
            known = {int(row): last for row, last in zip(rows, final, strict=True)}
            places = agents.of_rows(np.arange(6), 3)
            for number, k in np.argwhere(ended & there):
                last = (before if over[number] else seen)["ab"[k]][number].numpy()
                assert np.array_equal(known[places[number, k]], last)
            there = ~ended | over[:, None]
    assert over.dtype == bool


def test_the_shared_state_and_spaces_that_differ() -> None:
    env = wrap_env(lab(unlike=True, state=True)).arranged(False, True)
    with env.opened([1, 2, 3]) as opened:
        observations, _ = opened.reset()
        opened.step(np.array([1, 1, 1, 2, 2, 2]))
    position = lab().reset(seed=1)[0]
    a, b = (position[name][:, 0].numpy() for name in "ab")
    assert np.array_equal(observations[:3, 0], a) and np.array_equal(observations[:3, 1], a)
    assert np.array_equal(observations[3:, 0], b) and not observations[3:, 1].any()
    assert observations[:3, 2:5].tolist() == [[1, 1, 0]] * 3 and observations[3:, 2:5].tolist() == [[1, 1, 1]] * 3
    assert np.array_equal(observations[:3, 5:], np.stack([a, b], 1)) and np.array_equal(
        *np.split(observations[:, 5:], 2)
    )


def test_without_a_state_it_is_all_observations() -> None:
    env = wrap_env(lab()).arranged(True, True)
    with env.opened([1, 2, 3]) as opened:
        observations, _ = opened.reset()
    assert np.array_equal(observations[0, 2:], np.concatenate((observations[0, :2], observations[1, :2])))


def test_a_pack_cannot_be_made_of_one() -> None:
    with pytest.raises(UserError, match="has 3 environments and cannot be rebuilt with 6"):
        wrap_env(lab()).seeded(range(6))


def test_a_function_that_makes_many_is_refused() -> None:
    with pytest.raises(UserError, match="makes many environments of several agents in one"):
        wrap_env(lab)

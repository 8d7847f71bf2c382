"""An environment that was made in Python says how a configuration would make it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import envpool
import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.wrappers import RescaleAction

from runner.checkpoints import spaces
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.export import export
from tests.isaac_lab import ManagerBasedRLEnv
from tests.point import Point
from tests.runner.builders import plain_config, runner_class

SPACES = (
    Box(-np.inf, np.inf, (3,)),
    Box(np.array([-1.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64),
    Box(0, 255, (2, 2, 3), np.uint8),
    Box(-1, 1, ()),
    Discrete(3, start=-1),
    MultiDiscrete([3, 2], start=[1, 0]),
    MultiBinary([2, 2]),
    Dict({"a": MultiBinary(3), "b": Tuple([Discrete(2), Box(-1, 1, (2,))])}),
)


def pool(task: str, **arguments: Any) -> Any:
    return envpool.make(task, env_type="gymnasium", num_envs=2, **arguments)


def test_pools_and_what_gymnasium_made_have_names() -> None:
    made: list[tuple[Any, dict[str, Any]]] = [
        (pool("CartPole-v1", max_episode_steps=9), {"id": "CartPole-v1", "max_episode_steps": 9}),
        (pool("HalfCheetah-v4"), {"id": "HalfCheetah-v4"}),
        (gymnasium.make("CartPole-v1", max_episode_steps=7), {"id": "gymnasium:CartPole-v1", "max_episode_steps": 7}),
        (gymnasium.make_vec("CartPole-v1", num_envs=2), {"id": "gymnasium:CartPole-v1"}),
        (RescaleAction(gymnasium.make("Pendulum-v1"), -1.0, 1.0), {}),
        (ManagerBasedRLEnv(SPACES[0]), {}),
    ]
    for env, expected in made:
        assert wrap_env(env).named == expected


class Tabled(Point):
    """One with a table among its arguments."""

    def __init__(self, table: Any = None) -> None:
        super().__init__()


def test_an_array_among_the_arguments_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    monkeypatch.setattr(gymnasium, "registry", gymnasium.envs.registration.registry)
    for name, known in (("Given-v0", {}), ("Known-v0", {"table": np.zeros(3)})):
        gymnasium.register(name, Tabled, kwargs=known)
        runner = runner_class("torch")(gymnasium.make(name, table=np.arange(3.0)), plain_config())
        assert runner.config.env.id is None
    assert wrap_env(gymnasium.make("Known-v0", table=None)).named == {"id": "gymnasium:Known-v0", "table": None}


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_spaces_are_what_was_written(space: Any) -> None:
    assert spaces.from_data(spaces.to_data(space)) == space


def test_what_is_no_space_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of space 'Sphere'"):
        spaces.from_data({"Sphere": []})


def test_checkpoints_know_their_environment_by_name_or_by_its_spaces(tmp_path: Path) -> None:
    runner = runner_class("torch")(pool("Pendulum-v1", max_episode_steps=9), plain_config())
    assert runner.config.env.id == "Pendulum-v1" and runner.config.env.arguments == {"max_episode_steps": 9}
    runner.agent.save(tmp_path / "named.safetensors")
    other = runner_class("torch")(ManagerBasedRLEnv(SPACES[0], Box(-1, 1, (5,))), plain_config())
    assert other.config.env.id is None
    other.agent.save(tmp_path / "nameless.safetensors")
    for name in ("named", "nameless"):
        assert export(tmp_path / f"{name}.safetensors")[0].is_file()


def test_a_name_that_is_given_stays() -> None:
    config = {**plain_config(), "env": {"id": "Pendulum-v0"}}
    with pytest.raises(UserError, match="Pendulum-v0"):
        runner_class("torch")(pool("Pendulum-v1"), config)

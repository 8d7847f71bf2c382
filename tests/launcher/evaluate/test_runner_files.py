"""`launch eval` takes what a Runner in Python wrote."""

from __future__ import annotations

import json
from pathlib import Path

import envpool
import pytest
from gymnasium.spaces import Box
from safetensors import safe_open
from safetensors.numpy import save_file

from launcher.evaluate.batches import Terms, find
from runner.envs.named import imports
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.export import export
from runner.torch import Runner
from tests.isaac_lab import ManagerBasedRLEnv
from tests.point import Point
from tests.runner.builders import plain_config


def terms(env: str | None = None) -> Terms:
    return Terms(5, 0, True, env, None)


def test_a_directory_of_a_runner_is_its_checkpoints(tmp_path: Path) -> None:
    experiment = {"directory": str(tmp_path), "experiment_name": "x", "checkpoint_interval": 8, "write_interval": 8}
    config = plain_config({"trainer.timesteps": 24, "agent.experiment": experiment})
    Runner(envpool.make("Pendulum-v1", env_type="gymnasium", num_envs=2, max_episode_steps=5), config).run("train")
    assert [c.timestep for c in find([tmp_path / "x"], "last", terms())] == [24]
    assert [c.timestep for c in find([tmp_path / "x"], "every", terms())] == [8, 16, 24]
    (best,) = find([tmp_path / "x"], "best", terms())
    assert best.path.name == "best_agent.safetensors" and best.config.env.id == "Pendulum-v1"


def test_what_had_no_name_is_asked_for_one(tmp_path: Path) -> None:
    file = tmp_path / "agent.safetensors"
    Runner(ManagerBasedRLEnv(Box(-1, 1, (3,)), None, Box(-1, 1, (1,))), plain_config()).agent.save(file)
    with pytest.raises(UserError, match="its environment had no name; say which to play in: --env ID"):
        find([file], "last", terms())
    assert [c.config.env.id for c in find([file], "last", terms("Pendulum-v1"))] == ["Pendulum-v1"]


def test_a_named_class_is_found_by_its_name(tmp_path: Path) -> None:
    """By whoever allows its import; no file does."""
    file = tmp_path / "agent.safetensors"
    Runner(wrap_env(Point, num_envs=2), plain_config()).agent.save(file)
    with imports.scope():
        imports.allow(["tests"])
        (found,) = find([file], "last", terms())
    assert (found.config.env.id, found.config.env.num_envs) == ("tests.point:Point", 2)
    with pytest.raises(UserError, match="tests: imported only where the command line says so"):
        find([file], "last", terms())


def test_an_environment_without_a_name_is_given_for_its_export(tmp_path: Path) -> None:
    """Files of before have no spaces; another environment must have the same."""
    file = tmp_path / "agent.safetensors"
    Runner(envpool.make("Pendulum-v1", env_type="gymnasium", num_envs=2), plain_config()).agent.save(file)
    with safe_open(file, "np") as saved:
        header, tensors = saved.metadata(), {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    header["config"] = json.dumps(json.loads(header["config"]) | {"env": {"num_envs": 2}})
    save_file(tensors, file, header)
    with pytest.raises(UserError, match="its environment had no name"):
        export(file)
    assert export(file, env="Pendulum-v1")[0].is_file()
    with pytest.raises(UserError):
        export(file, env="HalfCheetah-v4")

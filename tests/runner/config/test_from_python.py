"""Configurations that a Python program puts together, and numbers that it gives."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from runner.config import Config, resolve
from runner.errors import UserError
from runner.torch import Runner, wrap_env
from tests.probe_envs import TwoSteps
from tests.runner.builders import plain_config


class Settings(dict[str, Any]):
    """A mapping of somebody's own."""


def test_a_configuration_from_python_may_hold_numpys_numbers_tuples_and_paths() -> None:
    wanted, given = plain_config(), plain_config()
    wanted["seed"] = 3
    wanted["agent"] = {
        "rollouts": 4,
        "learning_rate": [1e-3, 2e-3],
        "entropy_loss_scale": 0.25,
        "kl_threshold": 0.5,
        "mixed_precision": True,
        "experiment": {"directory": "a/b", "write_interval": 5, "wandb_kwargs": {"tags": [1, 2], "5": None}},
    }
    given["seed"] = np.int64(3)
    given["agent"] = OrderedDict(
        rollouts=np.array(4),
        learning_rate=(1e-3, np.float64(2e-3)),
        entropy_loss_scale=np.float32(0.25),
        kl_threshold=np.array(0.5),
        mixed_precision=np.bool_(True),
        experiment=Settings(
            directory=Path("a/b"),
            write_interval=np.uint8(5),
            wandb_kwargs=MappingProxyType({"tags": np.arange(1, 3), 5: None}),
        ),
    )
    model = given["models"]["policy"]["network"] = tuple(given["models"]["policy"].get("network", ()))
    before = repr(given)
    assert resolve(given)[0] == resolve(wanted)[0]
    assert repr(given) == before and model is given["models"]["policy"]["network"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("seed", object(), "configuration: seed: found <object object at"),
        ("agent.learning_rate", len, "agent.learning_rate: found <built-in function len>, of type builtin_function_or"),
        ("agent.learning_rate", torch.tensor(0.1), "found tensor(0.1000), of type torch.Tensor; allowed: "),
        ("agent.learning_rate_scheduler", Config, "found <class 'runner.config.schema.Config'>, of type pydantic"),
        ("models.policy.network", [{"name": "net", "layers": {8}}], "network.0.layers: found {8}, of type set"),
        ("agent.experiment", {"directory": b"runs"}, "agent.experiment.directory: found b'runs', of type bytes"),
        ("seed", np.array([1, None], object), "seed: found [1, None]; allowed: whole number"),
    ],
)  # fmt: skip
def test_what_no_file_can_hold_is_refused_with_its_key_and_type(key: str, value: object, expected: str) -> None:
    data = plain_config()
    *path, last = key.split(".")
    section: Any = data
    for part in path:
        section = section.setdefault(part, {})
    section[last] = value
    with pytest.raises(UserError) as caught:
        resolve(data)
    assert expected in str(caught.value)


def test_a_block_that_contains_itself_is_refused() -> None:
    data = plain_config()
    data["agent"] = {"experiment": {}}
    data["agent"]["experiment"]["wandb_kwargs"] = data["agent"]
    with pytest.raises(UserError, match=r"agent\.experiment\.wandb_kwargs: nested too deeply; does it contain itself"):
        resolve(data)


@pytest.mark.parametrize("data", [None, "cfg.yaml", [1]])
def test_a_configuration_that_is_no_mapping(data: Any) -> None:
    with pytest.raises(UserError, match="allowed: a mapping, such as load_cfg_from_yaml gives"):
        resolve(data)


@pytest.mark.parametrize("number", [-1, 0, 1.5, "2", True])
def test_numbers_from_python_are_whole_ones(number: Any) -> None:
    config = plain_config({}, "CategoricalMixin")
    runner = Runner(wrap_env(TwoSteps), config)
    for name, give in {
        "wrap_env: num_envs": lambda: wrap_env(TwoSteps, number),
        "threads": lambda: Runner(wrap_env(TwoSteps), config, threads=number),
        "evaluate: episodes": lambda: runner.evaluate(episodes=number),
        "evaluate: at_once": lambda: runner.evaluate(at_once=number),
        "evaluate: seed": lambda: runner.evaluate(seed=number or -1),
    }.items():
        with pytest.raises(UserError, match=f"^{name}: found .*; allowed: a whole number of"):
            give()

"""Small configurations, environments and states that the runner's tests share."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from gymnasium.spaces import Box, Discrete

from runner.api import Runner
from runner.config import Config, resolve
from runner.config.network.expressions import Binary, Call, Number
from runner.config.overrides import apply
from runner.draws import environment_seeds
from runner.envs.base import VectorEnv
from runner.envs.envpool import EnvPoolTask
from runner.envs.spaces import ActionSpace, Layout
from runner.networks.parameters import Network
from runner.training.state import MemberState, Moments
from runner.training.tracking import Record, Report
from tests import oracle
from tests.records import untimed

SCALER = "RunningStandardScaler"
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    # Short episodes, so that a rollout of a few steps meets ends and reset rows.
    "CartPole-v1": ("CategoricalMixin", {"max_episode_steps": 9}),
    "Pendulum-v1": ("GaussianMixin", {"max_episode_steps": 5}),
    "HalfCheetah-v4": ("GaussianMixin", {"max_episode_steps": 6}),
}

Case = TypeVar("Case")


def runner_class(backend: str) -> type[Runner]:
    """`runner.torch.Runner` or `runner.jax.Runner`."""
    found: type[Runner] = importlib.import_module(f"runner.{backend}").Runner
    return found


def both(cases: Iterable[Case], jax: Iterable[Case]) -> list[tuple[str, Case]]:
    """(backend, case): every case on torch; on JAX, which compiles each for seconds, those that are named."""
    return [("torch", case) for case in cases] + [("jax", case) for case in jax]


def plain_config(changes: dict[str, Any] | None = None, policy: str = "GaussianMixin") -> dict[str, Any]:
    """A tiny canonical configuration, `changes` by dotted key."""
    layers = [{"name": "net", "input": "OBSERVATIONS", "layers": [8, 8], "activations": "tanh"}]
    data: dict[str, Any] = {
        "seed": 1,
        "compile": False,
        "models": {
            "separate": False,
            "policy": {"class": policy, "network": layers, "output": "ACTIONS"},
            "value": {"class": "DeterministicMixin", "network": layers, "output": "ONE"},
        },
        "agent": {
            "class": "PPO",
            "rollouts": 8,
            "learning_epochs": 2,
            "mini_batches": 2,
            "learning_rate": 1e-3,
            "observation_preprocessor": SCALER,
            "value_preprocessor": SCALER,
            "experiment": {"write_interval": 8, "checkpoint_interval": 0},
        },
        "trainer": {"class": "SequentialTrainer", "timesteps": 8},
    }
    for name, value in (changes or {}).items():
        apply(data, tuple(int(part) if part.isdigit() else part for part in name.split(".")), value)
    return data


def make_config(changes: dict[str, Any] | None = None, policy: str = "GaussianMixin") -> Config:
    """The same, resolved."""
    return resolve(plain_config(changes, policy))[0]


def make_network(config: Config, observations: Layout | int, actions: int) -> Network:
    """The networks of a configuration for a vector of observations, and this many actions or action dimensions."""
    observations = Layout.vector(observations) if isinstance(observations, int) else observations
    discrete = config.models.policy.cls == "CategoricalMixin"
    return Network.of(config, observations, ActionSpace.of(Discrete(actions) if discrete else Box(-1, 1, (actions,))))


def make_env(task: str, num_envs: int = 3, arguments: dict[str, Any] | None = None, seed: int = 0) -> VectorEnv:
    """An EnvPool environment behind our interface."""
    return EnvPoolTask(task, num_envs, arguments).seeded(environment_seeds(seed, num_envs), 1)


def make_runner(
    task: str = "Pendulum-v1", changes: dict[str, Any] | None = None, backend: str = "torch", **more: Any
) -> Runner:
    """A runner of one of TASKS, by `changes` of `plain_config`."""
    policy, arguments = TASKS[task]
    return runner_class(backend)(make_env(task, 3, arguments), plain_config(changes, policy), threads=1, **more)


def tree(folder: Path) -> list[str]:
    """The files below a folder."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def numbers(state: MemberState) -> dict[str, np.ndarray]:
    """Every number that learning has left in a member, by name."""
    out = {name: getattr(state, name) for name in ("parameters", "first_moment", "second_moment")}
    for name in ("observation_statistics", "value_statistics"):
        if (moments := getattr(state, name)) is not None:
            out |= {f"{name}.{key}": np.asarray(value) for key, value in asdict(moments).items()}
    counters = state.counters
    return {
        **out,
        "learning_rate": np.array(counters.learning_rate),
        "optimizer_steps": np.array(counters.optimizer_steps),
    }


def fingerprint(state: MemberState, but: Sequence[str] = ("seconds",)) -> str:
    """Text that two states share only if every bit and counter agrees."""
    counters = {name: repr(value) for name, value in asdict(state.counters).items() if name not in but}
    return json.dumps([counters, {name: value.tobytes().hex() for name, value in numbers(state).items()}])


def assert_same(one: MemberState, other: MemberState, rtol: float = 0.0) -> None:
    """Equal numbers, to `rtol` of each array's largest one."""
    left, right = numbers(one), numbers(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        scale = float(np.abs(right[name]).max(initial=0.0))
        np.testing.assert_allclose(value, right[name], rtol=rtol, atol=rtol * scale, err_msg=name)


def told(report: Report) -> list[Any]:
    """What a report says, but for the clock; NaN equal to itself."""

    def words(record: Record | None) -> Any:
        if record is None:
            return None
        values = {k: repr(v) for k, v in untimed(record.values).items()}
        return record.index, record.timestep, record.env_steps, values

    return [[words(r) for r in report.records], report.checkpoint, report.best, report.diverged]


def until(runner: Runner, timestep: int) -> Iterator[Report]:
    """Train to `timestep`, and leave the generator there."""
    for report in runner.reports():
        yield report
        if runner.states()[0].counters.timestep >= timestep:
            return


def values(runner: Runner, observations: Any, member: int = 0) -> np.ndarray:
    """A member's values `[B]` of observations `[B, O]` in reward units, by the oracle from its state."""
    network, state = runner._members.network, runner.states()[member]
    rows = np.asarray(observations, np.float64)
    if state.observation_statistics is not None:
        rows = _scaler(state.observation_statistics).normalize(rows)
    _, normalised = oracle.forward(
        {name: array.astype(np.float64) for name, array in network.split(state.parameters).items()},
        rows,
        hidden_activations=[step.activation for block in network.policy.blocks for step in block.steps],
        **output_options(network),
        separate=network.separate,
    )
    if state.value_statistics is None:
        return normalised
    return _scaler(state.value_statistics).inverse(normalised[:, None])[:, 0]


def output_options(network: Network) -> dict[str, Any]:
    """Activation and factor of a policy's output `scale * activation(ACTIONS)`, as the oracle takes them."""
    expression, scale = network.policy.output, 1.0
    if isinstance(expression, Binary):
        assert expression.operator == "*" and isinstance(expression.left, Number)
        expression, scale = expression.right, expression.left.value
    activation = expression.function if isinstance(expression, Call) else "identity"
    return {"output_activation": activation, "output_scale": scale}


def _scaler(moments: Moments) -> oracle.RunningStandardScaler:
    scaler = oracle.RunningStandardScaler(len(moments.mean))
    scaler.mean, scaler.variance, scaler.count = moments.mean, moments.variance, moments.count
    return scaler

"""Exported policies: their actions are ours, in torch and in ONNX, for every space, and without this program."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runner import export as policy_export
from runner.api import Runner
from runner.envs.envpool import EnvPoolTask
from runner.envs.named import imports
from runner.envs.task import task as environments
from runner.errors import UserError
from runner.export import ROUNDING, ROWS, compare, export, observations
from runner.torch.export import Policy, from_onnx, from_torch, to_torch
from tests.runner.builders import make_config, runner_class
from tests.runner.test_every_space import ACTIONS, OBSERVATIONS, runner_of

pytestmark = pytest.mark.cluster

CONVOLUTIONS = [
    {
        "name": "net",
        "input": "OBSERVATIONS",
        "layers": [{"conv2d": {"out_channels": 4, "kernel_size": 8, "stride": 4}}, "flatten", {"linear": 16}],
        "activations": "relu",
    }
]
ROLES = ("policy", "value")
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "CartPole-v1": ("CategoricalMixin", {}),
    "Pendulum-v1": ("GaussianMixin", {"models.policy.clip_actions": True, "models.policy.output": "9 * tanh(ACTIONS)"}),
    "Pong-v5": ("CategoricalMixin", {"models.policy.network": CONVOLUTIONS, "agent.observation_preprocessor": None}),
    "MiniGrid-Empty-5x5-v0": ("CategoricalMixin", {}),  # a Dict
    "Cleaner-v0": ("MultiCategoricalMixin", {}),  # a mask of each action
    "BinPack-v2": ("MultiCategoricalMixin", {}),  # a mask of their combinations
    "CartPole-v1, gru": ("CategoricalMixin", {f"models.{role}.network.0.layers": [8, {"gru": 6}] for role in ROLES}),
    "Pendulum-v1, lstms": (
        "GaussianMixin",
        {f"models.{role}.network.0.layers": [{"lstm": {"hidden_size": 6, "num_layers": 2}}, 8] for role in ROLES},
    ),
}
GUIDE = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in policy_export.ONNX), reason="the onnx extra is not installed"
)
CASES = [("torch", task) for task in TASKS] + [
    pytest.param("onnx", task, marks=needs_onnx)
    for task in ("Pendulum-v1", "Pong-v5", "BinPack-v2", "Pendulum-v1, lstms", "CartPole-v1, gru")
]


def runner_for(task: str, backend: str = "torch", changes: dict[str, Any] | None = None) -> Runner:
    policy, own = TASKS[task]
    task, *_ = task.split(",")
    config = make_config({"env.id": task, **own, **(changes or {})}, policy)
    return runner_class(backend)(EnvPoolTask(task, 3), config, threads=1)


def saved(runner: Runner, folder: Path) -> Path:
    """A checkpoint of a short training, after which statistics are not those of the start."""
    list(runner.reports())
    runner.agent.save(folder / "agent_8.safetensors")
    return folder / "agent_8.safetensors"


@pytest.mark.parametrize(("to", "task"), CASES)
def test_a_file_acts_as_our_runner_does(to: Any, task: str, tmp_path: Path) -> None:
    runner = runner_for(task)
    (path,) = export(saved(runner, tmp_path), to)
    assert path == tmp_path / f"agent_8{policy_export.SUFFIXES[to]}"
    act = {"torch": from_torch, "onnx": from_onnx}[to](path.read_bytes())
    env = runner.env.seeded([1, 2, 3], 1)
    rows, _ = env.reset()
    state = [np.zeros((3, size), np.float32)] if (size := runner._members.network.policy_memory) else []
    for _ in range(20):
        ours = runner.agent.act(rows, *state, deterministic=True)
        (actions, *state), ours = act(rows.reshape(3, *env.layout.shape), *state), ours[0] if state else ours
        assert actions.shape == (3, *env.actions.shape)
        assert actions.dtype == (env.actions.dtype if env.actions.discrete else np.float32)
        np.testing.assert_allclose(actions, ours.reshape(actions.shape), atol=ROUNDING)
        rows, *_ = env.step(actions)


def test_an_action_is_clipped_as_the_policy_clips(tmp_path: Path) -> None:
    found = {}
    for clip in (True, False):
        runner = runner_for("Pendulum-v1", changes={"models.policy.clip_actions": clip})
        runner.agent.save(tmp_path / "agent.safetensors")
        (path,) = export(tmp_path / "agent.safetensors", "torch")
        act = from_torch(path.read_bytes())
        (found[clip],) = act(observations(runner.env.layout, None))
    assert np.abs(found[False]).max() > 2
    np.testing.assert_array_equal(found[True], found[False].clip(-2, 2))


@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("seen", OBSERVATIONS)
def test_every_observation_with_every_action(seen: str, actions: str) -> None:
    space, kind = ACTIONS[actions]
    runner, (env, *_) = runner_of("torch", OBSERVATIONS[seen], space, kind)
    list(runner.reports())
    policy = Policy(
        runner._members.network, runner.states()[0], runner.env.actions, runner.config.models.policy.clip_actions
    )
    rows = observations(runner.env.layout, runner.states()[0].observation_statistics)
    assert len(rows) == ROWS

    def act(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        return (policy(torch.from_numpy(rows)).numpy(),)

    assert compare(act, policy, runner, rows) <= ROUNDING
    assert env.action_space.contains(act(rows[:1])[0][0])


def test_a_checkpoint_of_jax(tmp_path: Path) -> None:
    runner = runner_for("Pendulum-v1", "jax")
    (path,) = export(saved(runner, tmp_path), "torch", tmp_path / "new" / "policy.pt2")
    act = from_torch(path.read_bytes())
    rows = observations(runner.env.layout, None)
    np.testing.assert_allclose(act(rows)[0], runner.agent.act(rows, deterministic=True), atol=ROUNDING)


def test_the_five_lines_act_in_plain_gymnasium(tmp_path: Path) -> None:
    for task, part, layer in (("CartPole-v1", 1, 8), ("Pendulum-v1", 1, 8), ("CartPole-v1", 3, {"lstm": 64})):
        changes = {"models.policy.network.0.layers": [8, layer], "models.value.network.0.layers": [8, layer]}
        export(saved(runner_for(task, changes=changes), tmp_path), "torch", tmp_path / "best_agent.pt2")
        program = textwrap.dedent(snippet(part))
        assert all(line.partition("  #")[0] in GUIDE for line in program.splitlines())
        program = program.replace("CartPole-v1", task)
        assert program.count("\n") == 5 + (part == 3)
        last = "import sys; print(*ended, *{'runner', 'launcher', 'envpool', 'jax'} & sys.modules.keys())"
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program + last], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("True False\n" if task == "CartPole-v1" else "False True\n", "")


def snippet(part: int) -> str:
    assert policy_export.__doc__ is not None
    return policy_export.__doc__.split("\n\n")[part] + "\n"


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize(("task", "algorithm", "layers", "to"), [
    ("tests.parallel:Stated", "MAPPO", [8], "torch"),
    ("tests.parallel:Unlike", "IPPO", [8, {"gru": 6}], "torch"),
    pytest.param("tests.parallel:Unlike", "MAPPO", [8], "onnx", marks=needs_onnx),
    ("IntersectionMultiAgent-v1", "IPPO", [8], "torch"),
])  # fmt: skip
def test_each_of_several_agents_has_a_file(
    task: str, algorithm: str, layers: list[Any], to: Any, share: bool, tmp_path: Path
) -> None:
    def network(read: str) -> list[dict[str, Any]]:
        return [{"name": "net", "input": read, "layers": layers, "activations": "tanh"}]

    changes = {"agent.class": algorithm, "agent.share_parameters": share, "models.separate": True}
    changes["models.policy.network"] = network("OBSERVATIONS")
    changes["models.value.network"] = network("STATES" if algorithm == "MAPPO" else "OBSERVATIONS")
    config = make_config({"env.id": task, "env.num_envs": 2, **changes}, "CategoricalMixin")
    with imports.scope():
        imports.allow(["tests"])
        runner = runner_class("torch")(environments(config.env), config)
        paths = export(saved(runner, tmp_path), to, tmp_path / f"policy{policy_export.SUFFIXES[to]}")
    names = runner.env.agents.names
    assert [path.stem for path in paths] == [f"policy_{name}" for name in names]
    rng, env = np.random.default_rng(0), runner.env
    rows = {
        name: rng.normal(size=(5, *env.common.layouts[place].shape)).astype(np.float32)
        for place, name in enumerate(names)
    }
    ours = runner.agent.act(rows, deterministic=True)
    states = [] if layers == [8] else [np.zeros((5, 6), np.float32)]
    ours = ours[0] if states else ours
    read_file = {"torch": from_torch, "onnx": from_onnx}[to]
    for name, path in zip(names, paths, strict=True):
        found, *_ = read_file(path.read_bytes())(rows[name], *states)
        assert found.dtype == ours[name].dtype and (found == ours[name]).all()


# ---------------------------------------------------------------------------------------------- refusals


def test_a_policy_that_acts_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(policy: Policy, *inputs: np.ndarray) -> bytes:
        policy.get_buffer("observation_mean").add_(0.1)
        return to_torch(policy, *inputs)

    monkeypatch.setattr("runner.torch.export.to_torch", wrong)
    checkpoint = saved(runner_for("Pendulum-v1"), tmp_path)
    with pytest.raises(UserError, match=r"acts otherwise than ours on \d+ of 1,000 .* nothing was written"):
        export(checkpoint, "torch")
    assert list(tmp_path.iterdir()) == [checkpoint]


def test_a_policy_of_an_environment_without_a_name_is_exported(tmp_path: Path) -> None:
    nameless, _ = runner_of("torch", OBSERVATIONS["Box"], *ACTIONS["Discrete"])
    path = tmp_path / "agent.safetensors"
    nameless.agent.save(path)
    (written,) = export(path, "torch")
    assert written.stat().st_size


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "agent.safetensors"
    with pytest.raises(UserError, match="cannot be read"):
        export(path, "torch")
    with pytest.raises(UserError, match="--to: found 'tf'; allowed: torch or onnx"):
        export(path, "tf")  # type: ignore[arg-type]
    runner_for("CartPole-v1").agent.save(path)
    with pytest.raises(UserError, match=r"a directory; .*, such as /.*/agent\.safetensors"):
        export(tmp_path, "torch")
    with pytest.raises(UserError, match="cannot be written"):
        export(path, "torch", path / "policy.pt2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--to onnx needs onnx, onnxscript, onnxruntime: pip install 'sunflower\[onnx\]'"
    ):
        export(path, "onnx")

"""Recurrent policies through `launch`, from a sweep to a film and an export, on a real Ray: `pytest -m cluster`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from launcher.cli.main import main
from launcher.ledger import evaluations
from launcher.ledger.ledger import Ledger
from launcher.run import pool as processes
from runner.api import Runner
from runner.config import Config, load_config, resolve
from runner.envs.envpool import EnvPoolTask
from runner.export import ROUNDING
from runner.torch.export import from_onnx, from_torch
from tests.launcher.faulty import assert_whole, worker_that, write_config
from tests.launcher.local_ray import local_ray
from tests.runner.builders import assert_same, runner_class
from tests.runner.test_policy_export import needs_onnx

pytestmark = pytest.mark.cluster

STEPS, ENVS, LENGTH = 16, 4, 96
LAYERS: dict[str, list[Any]] = {"jax": [6, {"lstm": 5}], "torch": [{"gru": {"hidden_size": 5, "num_layers": 2}}, 6]}
OTHER = {"jax": "torch", "torch": "jax"}


@pytest.fixture(scope="module")
def ray_address() -> Iterator[list[str]]:
    with local_ray(num_cpus=2) as address:
        yield [*address, "--workers", "1"]


def configured(folder: Path, backend: str) -> Path:
    """CartPole without velocities, with a record per update and a checkpoint every two."""
    net = {"name": "net", "input": "OBSERVATIONS[:, [0, 2]]", "layers": LAYERS[backend], "activations": "tanh"}
    path = write_config(folder, LENGTH, env={"id": "CartPole-v1", "num_envs": ENVS, "max_episode_steps": 40})
    data = load_config(path)[0].dump()
    data["backend"], data["models"]["separate"] = backend, backend == "torch"
    for role in ("policy", "value"):
        data["models"][role]["network"] = [net]
    data["agent"] |= {
        "learning_rate_scheduler": None,
        "rollouts": STEPS,
        "sequence_length": STEPS // 2,
        "learning_epochs": 2,
        "mini_batches": 3,
    }
    data["agent"]["experiment"] |= {"write_interval": STEPS, "checkpoint_interval": 2 * STEPS}
    path.write_text(json.dumps(data))
    return path


@pytest.fixture(scope="module", params=list(LAYERS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def launched(backend: str, tmp_path_factory: pytest.TempPathFactory, ray_address: list[str]) -> Path:
    """Two settings of two seeds each."""
    folder = tmp_path_factory.mktemp(backend)
    words = ["--seeds", "2", "--set", "agent.learning_rate=1e-3,3e-3", "--out", str(folder), "--name", "run"]
    assert main([str(configured(folder, backend)), *words, *ray_address]) == 0
    assert_whole(folder / "run", LENGTH // STEPS)
    return folder / "run"


def files(directory: Path, timestep: int = LENGTH) -> dict[str, Path]:
    """Trial → its checkpoint of this timestep."""
    with Ledger(directory, writer=False) as ledger:
        return {
            row.id: directory / file.path
            for row in ledger.trials()
            for file in ledger.checkpoints(row.id)
            if (file.timestep, file.kind) == (timestep, "agent")
        }


def config_of(directory: Path, trial: str, **changes: Any) -> Config:
    return resolve({**load_config(directory / "trials" / trial / "config.yaml")[0].dump(), **changes})[0]


def runner_of(*configs: Config) -> Runner:
    task = EnvPoolTask("CartPole-v1", ENVS, configs[0].env.arguments)
    return runner_class(configs[0].backend)(task, configs[0], configs=configs, threads=1)


def assert_trained_alike(directory: Path, runner: Runner, trials: list[str], rtol: float = 0.0) -> None:
    """Their last checkpoints are what a runner has come to."""
    last, (_, loaded) = files(directory, runner.timestep), (None, runner_of(*runner.configs))
    loaded.restore([last[trial].read_bytes() for trial in trials])
    for mine, theirs in zip(runner.states(), loaded.states(), strict=True):
        assert_same(mine, theirs, rtol)


def test_a_sweep_is_one_pack_and_each_trial_what_it_would_be_alone(launched: Path) -> None:
    with Ledger(launched, writer=False) as ledger:
        assert [row.outcome for row in ledger.attempts()] == ["finished"]
        trials = [row.id for row in ledger.trials()]
    assert len(trials) == 4
    for trial in trials:
        alone = runner_of(config_of(launched, trial))
        list(alone.reports())
        assert_trained_alike(launched, alone, [trial], 1e-5)


def test_an_evaluation_is_that_of_each_checkpoint_alone_in_either_backend(
    launched: Path, backend: str, ray_address: list[str]
) -> None:
    assert main(["eval", str(launched), "--episodes", "5", "--num-envs", "2", *ray_address]) == 0
    found = {one.trial: one for one in evaluations.read(launched) if json.loads(one.settings)["episodes"] == 5}
    assert len(found) == 4
    for trial, file in files(launched).items():
        alone = runner_of(config_of(launched, trial, backend=OTHER[backend]))
        alone.agent.load(file)
        episodes = alone.evaluate(episodes=5, seed=0, at_once=5)
        assert tuple(episode.ret for episode in episodes) == found[trial].returns


def test_it_is_filmed(launched: Path, ray_address: list[str]) -> None:
    assert main(["eval", str(launched), "--episodes", "2", "--video", "2", *ray_address]) == 0
    assert [path.stat().st_size > 1_000 for path in launched.rglob("videos/*")] == [True, True]


@pytest.mark.parametrize("to", ["torch", pytest.param("onnx", marks=needs_onnx)])
def test_an_exported_policy_plays_an_episode_as_ours_does(launched: Path, backend: str, to: str) -> None:
    trial, file = next(iter(files(launched).items()))
    out = file.with_suffix({"torch": ".pt2", "onnx": ".onnx"}[to])
    assert main(["export", str(file), "--to", to]) == 0
    act = {"torch": from_torch, "onnx": from_onnx}[to](out.read_bytes())
    runner = runner_of(config_of(launched, trial))
    runner.agent.load(file)
    env = gymnasium.make("CartPole-v1")
    (observation, _), ended, ours = env.reset(seed=1), [False], None
    state = np.zeros((1, 10), np.float32)
    while not any(ended):
        right, ours = runner.agent.act(observation[None], ours, deterministic=True)
        actions, state = act(observation[None], state)
        np.testing.assert_array_equal(actions, right)
        np.testing.assert_allclose(state, ours, atol=ROUNDING)
        observation, _, *ended, _ = env.step(actions[0])
    assert state.any()


def test_a_resumed_launch_goes_on_with_fresh_episodes(launched: Path, ray_address: list[str]) -> None:
    more = 2 * LENGTH
    trials = list(files(launched))
    assert main(["resume", str(launched), "--set", f"trainer.timesteps={more}", *ray_address]) == 0
    runner = runner_of(*(config_of(launched, trial) for trial in trials))
    runner.restore([file.read_bytes() for file in files(launched).values()])
    list(runner.reports())
    assert runner.timestep == more
    assert_trained_alike(launched, runner, trials)


def test_a_crash_costs_what_came_after_the_last_checkpoint(
    backend: str, tmp_path: Path, ray_address: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, crashed = tmp_path / "run", tmp_path / "crashed"

    def once() -> None:
        if not crashed.exists():
            with Ledger(directory, writer=False) as ledger:
                while not ledger.last_agents():  # on their way
                    time.sleep(0.01)
            crashed.touch()
            os.abort()

    monkeypatch.setattr(processes, "Worker", worker_that(once, seed=1, at=5))
    words = ["--seeds", "2", "--out", str(tmp_path), "--name", "run"]
    assert main([str(configured(tmp_path, backend)), *words, *ray_address]) == 0
    assert_whole(directory, LENGTH // STEPS)
    with Ledger(directory, writer=False) as ledger:
        assert [row.outcome for row in ledger.attempts()] == ["crash", "finished"]
        (timestep,) = {member.timestep for member in ledger.members() if member.attempt == 2}
        trials = [member.trial for member in ledger.members() if member.attempt == 2]
    assert 0 < timestep < LENGTH
    runner = runner_of(*(config_of(directory, trial) for trial in trials))
    before = files(directory, timestep)
    runner.restore([before[trial].read_bytes() for trial in trials])
    list(runner.reports())
    assert_trained_alike(directory, runner, trials)

"""Runners on environments that are many in one and have their arrays on a device: Isaac Lab's contract."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete
from gymnasium.vector import AutoresetMode

from runner.config import load
from runner.envs.python import Joined
from runner.envs.wrap import wrap_env
from runner.training.tracking import LENGTH_MAX, VALUE_LOSS
from tests.isaac_lab import INFINITE, DirectMARLEnv, DirectRLEnv, ManagerBasedRLEnv
from tests.probe_envs import Truncation, make_vector
from tests.runner.builders import assert_same, make_config, plain_config, runner_class, values
from tests.runner.envs.test_tensors import Known

FIXTURES = Path(__file__).parents[1] / "fixtures" / "yaml"
OBSERVED, STATES = Box(**INFINITE, shape=(3,)), Box(**INFINITE, shape=(5,))
OF_STATES = [{"name": "net", "input": "STATES", "layers": [8, 8], "activations": "tanh"}]
ASYMMETRIC: dict[str, Any] = {
    "models.separate": True,
    "models.value.network": OF_STATES,
    "agent.state_preprocessor": "RunningStandardScaler",
    "trainer.timesteps": 24,
}


def lab() -> ManagerBasedRLEnv:
    return ManagerBasedRLEnv(OBSERVED, STATES)


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """A runner of each backend after three updates, and the tag → number of its last record."""
    found = {}
    for backend in ("torch", "jax"):
        runner = runner_class(backend)(lab(), plain_config(ASYMMETRIC))
        *_, report = runner.reports()
        assert report.records[0] is not None
        found[backend] = runner, report.records[0].values
    return found


def test_both_backends_learn_the_same(trained: dict[str, Any]) -> None:
    (one, numbers), (other, others) = trained["torch"], trained["jax"]
    assert_same(one.states()[0], other.states()[0], 2e-4)
    assert numbers[LENGTH_MAX] == others[LENGTH_MAX] <= 5 and np.isfinite(numbers[VALUE_LOSS])


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_only_the_value_sees_the_states_from_rollout_to_checkpoint(
    backend: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    runner, _ = trained[backend]
    sizes = {e.name: e.shape[1] for e in runner._members.network.entries if e.name.endswith(".net.0.weight")}
    assert sizes == {"policy.net.0.weight": 3, "value.net.0.weight": 5}
    moments = runner.states()[0].observation_statistics
    assert moments.mean.shape == (8,) and (moments.variance != 1).all()
    env = lab()
    observations, _ = env.reset(seed=1)
    actions = runner.agent.act(observations, deterministic=True)
    assert isinstance(actions, torch.Tensor) and actions.shape == (4, 2)
    other = {"policy": observations["policy"], "critic": observations["critic"] + 1, "teacher": None}
    assert torch.equal(runner.agent.act(other, deterministic=True), actions)
    runner.agent.save(tmp_path / "agent.safetensors")
    again = runner_class(backend)(lab(), plain_config(ASYMMETRIC))
    again.agent.load(tmp_path / "agent.safetensors")
    assert_same(again.states()[0], runner.states()[0])
    assert torch.equal(again.agent.act(observations, deterministic=True), actions)
    episodes = again.evaluate()
    assert [(e.ret, e.length) for e in episodes] == [(e.ret, e.length) for e in runner.evaluate()]
    assert len(again.evaluate(episodes=6)) == 6


@pytest.mark.parametrize("backend", ["torch", "jax"])
@pytest.mark.parametrize("states", [(), (None,)], ids=["skrl 1.x", "skrl 2.x"])
def test_isaac_labs_script_plays(backend: str, states: tuple[None, ...], trained: dict[str, Any]) -> None:
    """What its play.py does with a runner, word for word."""
    runner, env = trained[backend][0], lab()
    runner.agent.set_running_mode("eval")
    runner.agent.enable_training_mode(False, apply_to_models=True)
    obs, _ = env.reset()
    with torch.inference_mode():
        for _ in range(6):
            wanted = runner.agent.act(obs, deterministic=True)
            outputs = runner.agent.act(obs, *states, timestep=0, timesteps=0)
            actions = outputs[-1].get("mean_actions", outputs[0])
            assert torch.equal(actions, wanted) and not torch.equal(outputs[0], wanted) and len(outputs) == 3
            obs, _, _, _, _ = env.step(actions)


def test_isaac_labs_script_plays_discrete_actions_as_columns() -> None:
    env = ManagerBasedRLEnv(OBSERVED, action=Discrete(3))
    runner = runner_class("torch")(env, plain_config({}, "CategoricalMixin"))
    obs, _ = env.reset()
    outputs = runner.agent.act(obs, timestep=0, timesteps=0)
    assert outputs[0].shape == outputs[-1]["mean_actions"].shape == (4, 1)
    env.step(outputs[-1].get("mean_actions", outputs[0]))
    runner.env.reset()
    runner.env.step(outputs[0])


def test_torch_takes_no_way_through_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    from runner.torch.rollout import Collector

    runner = runner_class("torch")(lab(), plain_config(ASYMMETRIC))
    seen: list[str] = []
    inner = Collector._step

    def watched(self: Any, env: Any) -> Any:
        assert isinstance(env.sent, torch.Tensor)
        with monkeypatch.context() as patch:
            for name in ("numpy", "cpu", "tolist", "item", "__array__"):
                patch.setattr(torch.Tensor, name, lambda *x, name=name, **y: seen.append(name))
            return inner(self, env)

    monkeypatch.setattr(Collector, "_step", watched)
    list(runner.reports())
    assert seen == []


def test_it_is_said_once_that_nobody_knows_what_episodes_ended_with(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        runner = runner_class("torch")(lab(), plain_config({"trainer.timesteps": 40}))
        list(runner.reports())
        runner.evaluate()
    assert caplog.text.count("bootstrap from the value of the last observation before that step") == 1
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        config = make_config({"trainer.timesteps": 16}, "CategoricalMixin")
        list(runner_class("torch")(Known(), config).reports())
    assert caplog.text == ""


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_nothing_is_said_of_what_resets_in_the_next_step(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    class Late(ManagerBasedRLEnv):
        metadata: ClassVar = {"autoreset_mode": AutoresetMode.NEXT_STEP}

    runner = runner_class(backend)(Late(OBSERVED), plain_config())
    *_, report = runner.reports()
    assert report.records[0] is not None and LENGTH_MAX in report.records[0].values
    runner.evaluate()
    assert "resets in the step in which an episode ends" not in caplog.text


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_truncation_of_which_nothing_is_known_bootstraps_from_the_value_before_it(backend: str) -> None:
    class Forever(ManagerBasedRLEnv):
        """Always the same, reward 1, cut every five steps: V is that of no end at all, 1 / (1 - γ)."""

        def step(self, action: Any) -> Any:
            observations, rewards, terminated, truncated, extras = super().step(action)
            return observations, torch.ones_like(rewards), torch.zeros_like(terminated), truncated, extras

        def _observe(self) -> None:
            self.obs_buf["policy"] = torch.zeros(self.num_envs, 3)

    changes = {
        "agent.learning_rate": 3e-2, "agent.learning_rate_scheduler": "linear", "agent.discount_factor": 0.9,
        "agent.value_clip": 0.0, "agent.observation_preprocessor": None, "trainer.timesteps": 400,
        "agent.experiment.write_interval": 0, "agent.learning_epochs": 4,
    }  # fmt: skip
    found = {}
    for bootstrap in (True, False):
        runner = runner_class(backend)(
            Forever(OBSERVED), plain_config({**changes, "agent.time_limit_bootstrap": bootstrap})
        )
        list(runner.reports())
        found[bootstrap] = float(values(runner, np.zeros((1, 3)))[0])
    assert found[True] == pytest.approx(1 / (1 - 0.9), rel=0.05)
    assert found[False] < 6


def test_members_of_a_pack_have_final_observations_of_their_own() -> None:
    """L1 where environments reset at once."""

    def members(count: int) -> Any:
        parts = [
            wrap_env(make_vector(Truncation, 2, autoreset_mode=AutoresetMode.SAME_STEP, discrete=False, length=length))
            for length in (3, 50, 4)[:count]
        ]
        env = parts[0] if count == 1 else Joined(parts, 2 * count)
        env.rebuilds, env.num_envs = True, 2
        env.seeded = lambda seeds, threads=None: env  # type: ignore[method-assign]
        runner = runner_class("torch")(env, plain_config(), seeds=range(count))
        env.num_envs = 2 * count
        list(runner.reports())
        return runner.states()

    alone, together = members(1), members(3)
    assert len(together) == 3
    assert_same(together[0], alone[0], 1e-5)


SPACES: dict[str, Any] = {
    "c_lab_1_3_camera": (Box(0, 255, (80, 100, 3), np.uint8), None),
    "c_lab_showcase_dict": (Dict({"STATES of joints": OBSERVED, "joint-velocities": OBSERVED}), MultiDiscrete([3, 2])),
}


@pytest.mark.parametrize("name", [*sorted(path.stem for path in FIXTURES.glob("*lab*.yaml")), "d_asymmetric"])
def test_files_of_isaac_lab_train_on_what_is_like_isaac_lab(name: str) -> None:
    """All files of the corpus do: this is what is kept of it here."""
    policy, action = SPACES.get(name, (OBSERVED, None))
    data = load.read_yaml(FIXTURES / f"{name}.yaml")[0]
    rollouts, parts = data["agent"]["rollouts"], data["agent"]["mini_batches"]
    data["trainer"]["timesteps"], data["agent"]["learning_epochs"] = rollouts, 1
    critic = STATES if name == "d_asymmetric" else None
    kind, count = DirectRLEnv if critic is None else ManagerBasedRLEnv, max(2, parts // rollouts)
    env: Any = kind(policy, critic, action, num_envs=count)
    if data["agent"].get("class") in ("IPPO", "MAPPO"):
        actions = Box(-1, 1, (2,), np.float32)
        env = DirectMARLEnv(dict.fromkeys("ab", policy), dict.fromkeys("ab", actions), num_envs=count)
    runner = runner_class("torch")(env, data)
    *_, report = runner.reports()
    assert report.records[0] is not None
    losses = [number for tag, number in report.records[0].values.items() if tag.startswith(VALUE_LOSS)]
    assert losses and np.isfinite(losses).all()

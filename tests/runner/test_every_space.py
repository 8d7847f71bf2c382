"""Every observation space against every action space; masks, privileged states and steps of no policy."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import batch_space

from runner.api import Runner
from runner.errors import UserError
from runner.training.tracking import POLICY_LOSS, RETURN_MEAN
from tests.runner.builders import assert_same, make_config, make_env, numbers, runner_class

ENVS = 3
OBSERVATIONS: dict[str, gymnasium.Space[Any]] = {
    "Box": Box(-1, 1, (2, 2), np.float64),
    "Discrete": Discrete(4, start=-1),
    "MultiDiscrete": MultiDiscrete([3, 2]),
    "MultiBinary": MultiBinary([2, 2]),
    "Tuple": Tuple((Discrete(3), Box(0, 255, (2,), np.uint8))),
    "nested Dict": Dict(b=Dict(d=Discrete(2), c=Box(-5, 5, (2,))), a=MultiBinary(2)),
    "Dict of Tuple": Dict(b=Tuple((Discrete(2), Box(-5, 5, (2,)))), a=MultiBinary(2)),
}
ACTIONS: dict[str, tuple[gymnasium.Space[Any], str]] = {
    "Discrete": (Discrete(3, start=2), "CategoricalMixin"),
    "MultiDiscrete": (MultiDiscrete([2, 4], start=[0, -1]), "MultiCategoricalMixin"),
    "whole numbers": (Box(np.array([0, -1]), np.array([1, 2]), (2,), np.int32), "MultiCategoricalMixin"),
    "Box": (Box(-2, 2, (1, 2), np.float32), "GaussianMixin"),
    "unbounded Box": (Box(-np.inf, np.inf, (2,), np.float64), "MultivariateGaussianMixin"),
}
ODD_ACTIONS: dict[str, tuple[gymnasium.Space[Any], str]] = {
    "MultiBinary": (MultiBinary(3), "MultiCategoricalMixin"),
    "MultiBinary of two axes": (MultiBinary([2, 2]), "MultiCategoricalMixin"),
    "MultiDiscrete of two axes": (MultiDiscrete([[2, 3], [4, 5]]), "MultiCategoricalMixin"),
    "bytes": (Box(0, 3, (2,), np.uint8), "MultiCategoricalMixin"),
    "one byte": (Box(0, 3, (), np.uint8), "CategoricalMixin"),
    "int8": (Box(-1, 1, (2,), np.int8), "MultiCategoricalMixin"),
    "at the end of int64": (Box(2**31 - 3, 2**31 - 1, (2,), np.int64), "MultiCategoricalMixin"),
    "one choice": (Discrete(1), "CategoricalMixin"),
    "one number": (Box(-1, 1, ()), "GaussianMixin"),
    "float64 within 0.1": (Box(-0.1, 0.1, (1,), np.float64), "GaussianMixin"),
    "float16": (Box(-0.1, 0.1, (2, 1), np.float16), "GaussianMixin"),
    "far from 0": (Box(np.array([-1, 0, 5], "f4"), np.array([3, 1, 6], "f4")), "GaussianMixin"),
    "half bounded": (Box(np.array([0.3, -np.inf]), np.array([np.inf, 1.7]), dtype=np.float64), "GaussianMixin"),
}
ACTIONS_OF_ALL = ACTIONS | ODD_ACTIONS
PAIRS = [("torch", o, a) for o in OBSERVATIONS for a in ACTIONS] + [
    ("jax", "nested Dict", "MultiDiscrete"),
    ("jax", "Tuple", "unbounded Box"),
    ("jax", "Dict of Tuple", "half bounded"),
    *(("torch", "Tuple", a) for a in ODD_ACTIONS),
]


class Sampled(gymnasium.Env[Any, Any]):
    """Observations are samples of the space; every action must be one of its own. Episodes are of four steps."""

    def __init__(self, observations: gymnasium.Space[Any], actions: gymnasium.Space[Any]) -> None:
        self.observation_space, self.action_space = observations, actions
        self.taken: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.observation_space.seed(seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action)), action
        self.taken.append(action)
        self._steps += 1
        return self.observation_space.sample(), float(np.sum(action)) % 1.7, self._steps == 4, False, {}


def runner_of(
    backend: str,
    observations: gymnasium.Space[Any],
    actions: gymnasium.Space[Any],
    policy: str,
    changes: dict[str, Any] | None = None,
) -> tuple[Runner, list[Sampled]]:
    """A runner over three environments of these spaces, and the environments."""
    envs = [Sampled(observations, actions) for _ in range(ENVS)]
    vector = SyncVectorEnv([lambda env=env: env for env in envs], autoreset_mode=AutoresetMode.NEXT_STEP)  # type: ignore[misc]
    clip = policy == "GaussianMixin"
    config = make_config({"models.policy.clip_actions": clip, **(changes or {})}, policy)
    return runner_class(backend)(vector, config), envs


@pytest.mark.parametrize(("backend", "observations", "actions"), PAIRS)
def test_every_observation_trains_with_every_action(backend: str, observations: str, actions: str) -> None:
    space, policy = ACTIONS_OF_ALL[actions]
    runner, envs = runner_of(backend, OBSERVATIONS[observations], space, policy)
    before = runner.states()[0].parameters
    *_, report = runner.reports()
    assert report.records[0] is not None and np.isfinite(report.records[0].values[POLICY_LOSS])
    assert not np.array_equal(runner.states()[0].parameters, before)
    assert sum(len(env.taken) for env in envs) == 8 * ENVS - ENVS  # the step after an end is a reset
    chosen = runner.agent.act(batch_space(OBSERVATIONS[observations], 5).sample())
    assert chosen.shape == (5, *space.shape) and chosen.dtype == space.dtype  # type: ignore[misc]
    assert all(space.contains(np.asarray(action)) for action in chosen)
    if backend == "jax":
        other, _ = runner_of("torch", OBSERVATIONS[observations], space, policy)
        list(other.reports())
        assert_same(runner.states()[0], other.states()[0], 1e-3)


# ---------------------------------------------------------------------------------------------- masks

MASKS: dict[str, tuple[tuple[int, ...], bool]] = {
    # task: (categories of what is drawn, whether the mask is of combinations)
    "Play2048-v1": ((4,), False),  # in the info
    "Game2048-v1": ((4,), False),
    "Cleaner-v0": ((4, 4, 4), False),
    "BinPack-v2": ((800,), True),
}


def allowed(rows: np.ndarray, actions: np.ndarray, runner: Runner) -> np.ndarray:
    """Whether every environment's action `[N, …]` is possible by the mask in its row `[N, O]`."""
    part = runner.env.layout.mask
    assert part is not None
    masks = rows[:, part.start : part.stop].reshape(len(rows), *part.shape)
    sizes = runner.env.actions.sizes
    if part.shape == sizes and len(sizes) > 1:
        pairs = zip(masks, actions, strict=True)
        return np.array([mask[tuple(action)] > 0 or not mask.any() for mask, action in pairs])
    each = masks.reshape(len(rows), len(sizes), -1)
    chosen = actions.reshape(len(rows), len(sizes), 1)
    return np.asarray(np.take_along_axis(each, chosen, 2)[..., 0].all(1) | ~each.any(2).all(1))


def played(runner: Runner, steps: int = 60) -> list[np.ndarray]:
    """Whether the actions that the policy samples are possible, `[N]` per step."""
    env = runner.env.seeded(runner._seeds(0))
    rows, _ = env.reset()
    found = []
    for step in range(steps):
        actions = runner._members.choose(None, rows, False, step)[1]
        found.append(allowed(rows, actions, runner))
        rows, *_ = env.step(actions)
    return found


@pytest.mark.parametrize("task", MASKS)
def test_a_masked_policy_takes_only_actions_that_are_possible(task: str) -> None:
    env = make_env(task, 4)
    policy = env.actions.policies[0]
    config = make_config({"agent.random_timesteps": 8, "trainer.timesteps": 16}, policy)
    runner = runner_class("torch")(env, config, threads=1)
    distribution = runner._members.network.distribution
    assert (distribution.sizes, distribution.joint) == MASKS[task]
    part = env.layout.mask
    assert part is not None
    assert not any(s.start < part.stop and part.start < s.stop for s in runner._members.network.scalings)
    assert np.all(played(runner))
    list(runner.reports())
    assert np.all(played(runner))
    blind = runner_class("torch")(env, make_config({"models.policy.action_mask": False}, policy), threads=1)
    assert not np.all(played(blind))


@pytest.mark.parametrize("task", ["Play2048-v1", "BinPack-v2"])
def test_the_compiled_rollout_sees_the_same_masks(task: str) -> None:
    env = make_env(task, 4)
    changes = {"agent.random_timesteps": 8, "trainer.timesteps": 16, "agent.mini_batches": 1}
    config = make_config(changes, env.actions.policies[0])
    states = []
    for backend in ("torch", "jax"):
        runner = runner_class(backend)(env, config, threads=1)
        list(runner.reports())
        states.append(runner.states()[0])
    assert_same(*states, rtol=1e-3)


def test_a_mask_that_fits_no_action_is_left_out_or_refused() -> None:
    odd = Dict(action_mask=MultiBinary(5), x=Box(-1, 1, (2,)))
    runner, _ = runner_of("torch", odd, Discrete(3), "CategoricalMixin")
    assert runner._members.network.distribution.mask == ()
    with pytest.raises(UserError, match=r"the environment's mask of shape \(5,\) fits neither each action"):
        runner_of("torch", odd, Discrete(3), "CategoricalMixin", {"models.policy.action_mask": True})


# ---------------------------------------------------------------------------------------------- privileged states


PRIVILEGED = Dict(state=Box(-1, 1, (3,)), privileged_state=Box(-50, 50, (4,)))


def asymmetric(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    of_value = [{"name": "net", "input": "STATES", "layers": [8, 8], "activations": "tanh"}]
    return {"models.separate": True, "models.value.network": of_value, **(changes or {})}


@pytest.mark.parametrize("task", ["playground", "made here"])
def test_states_are_what_only_the_value_may_see(task: str) -> None:
    env: Any = make_env("CartpoleBalance-v1", 2)
    if task == "playground":
        from runner.envs.envpool import EnvPoolTask

        env = EnvPoolTask("Go1JoystickFlatTerrain-v1", 2)
    else:
        env = SyncVectorEnv([lambda: Sampled(PRIVILEGED, Box(-1, 1, (2,)))] * ENVS)
    runner = runner_class("torch")(env, make_config(asymmetric()))
    network, parts = runner._members.network, runner.env.layout
    sizes = {entry.name: entry.shape[1] for entry in network.entries if entry.name.endswith(".net.0.weight")}
    of_states = parts.states.stop - parts.states.start
    assert sizes == {"policy.net.0.weight": parts.observed.stop, "value.net.0.weight": of_states}
    assert parts.states.stop == parts.stop and parts.states.start == parts.observed.stop
    rows = np.random.default_rng(0).normal(size=(2, parts.stop)).astype(np.float32)
    other = rows.copy()
    other[:, parts.states.start :] += 1
    chosen = [runner._members.choose(None, x, True, 0)[1] for x in (rows, other)]
    np.testing.assert_array_equal(*chosen)


def test_observations_and_states_are_each_normalised_as_asked() -> None:
    scaler = "RunningStandardScaler"
    keys = ("agent.observation_preprocessor", "agent.state_preprocessor")
    statistics = {}
    import torch

    from runner.torch.preprocessors import observation_scaler

    for observations, states in ((scaler, scaler), (None, scaler), (scaler, None), (None, None)):
        changes = asymmetric(
            {keys[0]: observations, keys[1]: states, "agent.state_preprocessor_kwargs.clip_threshold": 1}
        )
        runner, _ = runner_of("torch", PRIVILEGED, Box(-1, 1, (2,)), "GaussianMixin", changes)
        list(runner.reports())
        members = runner._members
        found = observation_scaler(members.rules, members.learner.observation_statistics)
        rows = np.linspace(-9, 9, 7, dtype=np.float32)[None, None]
        scaled = rows if found is None else found.normalize(torch.from_numpy(rows)).numpy()
        same = np.isclose(scaled[0, 0], rows[0, 0])
        statistics[bool(observations), bool(states)] = (same[:3].all(), same[3:].all(), np.abs(scaled[0, 0, 3:]).max())
    assert statistics[True, True][:2] == (False, False) and statistics[True, True][2] <= 1
    assert statistics[False, True][:2] == (True, False) and statistics[True, False][:2] == (False, True)
    assert statistics[False, False][:2] == (True, True)


def test_without_privileged_states_states_are_the_observations() -> None:
    runner = runner_class("torch")(make_env("Pendulum-v1"), make_config(asymmetric()), threads=1)
    assert {e.name: e.shape for e in runner._members.network.entries}["value.net.0.weight"] == (8, 3)


# ---------------------------------------------------------------------------------------------- steps of no policy


@pytest.mark.parametrize("actions", ["Discrete", "Box", "unbounded Box"])
def test_random_timesteps_are_of_no_policy_and_not_learned_from(actions: str) -> None:
    space, policy = ACTIONS[actions]
    # A policy that would always do the same: random steps do not, and later steps do.
    sure = {"models.policy.initial_log_std": -20.0} if policy != "CategoricalMixin" else {}
    changes = {"agent.random_timesteps": 12, "trainer.timesteps": 40, "agent.experiment.write_interval": 8, **sure}
    runner, envs = runner_of("torch", Box(0, 0, (1,)), space, policy, changes)
    before = numbers(runner.states()[0])
    learned = []
    for report in runner.reports():
        if report.records[0] is None:
            continue
        learned.append(POLICY_LOSS in report.records[0].values)
        assert RETURN_MEAN in report.records[0].values
        if not learned[-1]:
            for name, value in numbers(runner.states()[0]).items():
                np.testing.assert_array_equal(value, before[name])
    assert learned == [False, False, True, True, True]
    taken = np.array([np.ravel(action) for env in envs for action in env.taken[:8]], float)
    if actions == "Discrete":
        assert set(taken.ravel()) == {2, 3, 4}
    else:
        assert taken.std(0).min() > 0.5
        assert actions == "unbounded Box" or np.abs(taken).max() <= 2
        surely = np.array([np.ravel(action) for env in envs for action in env.taken[-3:]], float)
        assert surely.std(0).max() < 0.2


def test_learning_starts_when_a_rollout_ends_behind_it() -> None:
    for starts, expected in ((0, 4), (7, 4), (8, 3), (16, 2), (23, 2), (24, 1)):
        changes = {"agent.learning_starts": starts, "trainer.timesteps": 32, "agent.experiment.write_interval": 8}
        runner, _ = runner_of("torch", Box(-1, 1, (1,)), Discrete(2), "CategoricalMixin", changes)
        records = [report.records[0] for report in runner.reports() if report.records[0] is not None]
        assert [POLICY_LOSS in r.values for r in records] == [False] * (4 - expected) + [True] * expected
        assert runner.states()[0].counters.optimizer_steps == expected * 4

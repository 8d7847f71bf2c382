"""gymnasium's auto-reset modes and vector wrappers: every step leads to its environment's own observation."""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.vector.utils import concatenate, create_empty_array
from gymnasium.wrappers import TransformAction, TransformObservation, vector

from runner.envs.base import VectorEnv
from runner.envs.wrap import wrap_env
from runner.errors import UserError

SPACES: dict[str, gymnasium.Space[Any]] = {
    "Box": Box(-9, 9, (2, 2)),
    "number": Box(-9, 9, ()),
    "Discrete": Discrete(99, start=-3),
    "Tuple": Tuple((Discrete(99), Box(-9, 9, (2,)))),
    "even Tuple": Tuple((Box(-9, 9, (2,)), Box(-9, 9, (2,)), Box(-9, 9, (2,)))),
    "nested Dict": Dict(b=Dict(d=Discrete(99), c=Box(-9, 9, (2,))), a=MultiBinary(9)),
    "Dict of Tuple": Dict(b=Tuple((Discrete(99), Box(-9, 9, (2,)))), a=MultiDiscrete([99, 99])),
    "Tuple of Dict": Tuple((Dict(d=Discrete(99), c=Box(-9, 9, (2,))), Box(-9, 9, (3,)), Discrete(99))),
}


class Sampling(gymnasium.Env[Any, Any]):
    """Observations are samples of a space, another for each environment; its episodes have 2, 3, 4, … steps."""

    action_space = Discrete(2)

    def __init__(self, space: gymnasium.Space[Any], index: int) -> None:
        self.observation_space = copy.deepcopy(space)
        self.observation_space.seed(index)
        self.length = 2 + index

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return self.observation_space.sample(), {"note": "of any type", "number": 1.0}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self.observation_space.sample(), 1, np.bool_(False), self.steps == self.length, {"number": np.float64(2)}


def sampling(name: str, mode: AutoresetMode, count: int = 3) -> SyncVectorEnv:
    makers = [lambda i=i: Sampling(SPACES[name], i) for i in range(count)]  # type: ignore[misc]
    return SyncVectorEnv(makers, autoreset_mode=mode)


def told(env: VectorEnv, steps: int = 12) -> list[list[tuple[bool, list[float], list[float]]]]:
    """Of each environment (ended, what the step led to, reward) for every step that was one, whatever the mode."""
    rows: list[list[Any]] = [[] for _ in range(env.num_envs)]
    env.reset()
    skip = np.zeros(env.num_envs, bool)
    for _ in range(steps):
        observations, rewards, terminated, truncated, info = env.step(np.zeros(env.num_envs, int))
        assert rewards.dtype == np.float32 and terminated.dtype == truncated.dtype == bool
        led_to, ended = observations.copy(), terminated | truncated
        if "final_observations" in info:
            which, final = info["final_observations"]
            assert which.tolist() == np.flatnonzero(ended).tolist() and final.dtype == observations.dtype
            led_to[which] = final
        for index in np.flatnonzero(~skip):
            rows[index].append((bool(ended[index]), led_to[index].tolist(), float(rewards[index])))
        skip = np.zeros_like(ended) if env.resets_at_once else ended
    return rows


def assert_same_steps(env: VectorEnv, name: str, factor: float = 1) -> None:
    """What NEXT_STEP shows as observations, which are true there, is shown of every step."""
    expected = told(wrap_env(sampling(name, AutoresetMode.NEXT_STEP)))
    for mine, theirs in zip(told(env), expected, strict=True):
        steps = min(len(mine), len(theirs))
        assert steps >= 8 and sum(ended for ended, *_ in mine[:steps]) >= 2
        scaled = [(ended, (factor * np.array(led_to)).tolist(), reward) for ended, led_to, reward in theirs]
        assert mine[:steps] == scaled[:steps]


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
@pytest.mark.parametrize("name", SPACES)
def test_final_observations_are_each_environments_own(name: str, mode: AutoresetMode) -> None:
    assert_same_steps(wrap_env(sampling(name, mode)), name)


@pytest.mark.parametrize(("mode", "shared"), [("SAME_STEP", True), ("SAME_STEP", False), ("DISABLED", True)])
def test_final_observations_of_processes_are_too(mode: str, shared: bool) -> None:
    makers = [lambda i=i: Sampling(SPACES["Dict of Tuple"], i) for i in range(3)]  # type: ignore[misc]
    # Threads of other tests' torch and JAX are nothing to these children.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        vector = AsyncVectorEnv(makers, shared_memory=shared, copy=False, autoreset_mode=AutoresetMode[mode])
    with contextlib.closing(vector):
        assert_same_steps(wrap_env(vector), "Dict of Tuple")


class Told(VectorWrapper[Any, Any, Any, Any, Any]):
    """Final observations in another form of info."""

    def __init__(self, env: SyncVectorEnv, form: str) -> None:
        super().__init__(env)
        self._form = form

    def step(self, actions: Any) -> Any:
        *step, info = self.env.step(actions)
        if (final := info.pop("final_obs", None)) is not None:
            some = next(one for one in final if one is not None)
            whole = create_empty_array(self.single_observation_space, self.num_envs)
            each = [some if one is None else one for one in final]
            batch = concatenate(self.single_observation_space, each, whole)
            forms = {"batch": batch, "old": final, "old batch": batch, "list": list(final)}
            info["final_observation" if "old" in self._form else "final_obs"] = forms[self._form]
        return *step, info


@pytest.mark.parametrize("form", ["batch", "old", "old batch", "list"])
@pytest.mark.parametrize("name", ["Box", "even Tuple", "Tuple of Dict"])
def test_final_observations_are_found_in_other_forms(name: str, form: str) -> None:
    assert_same_steps(wrap_env(Told(sampling(name, AutoresetMode.SAME_STEP), form)), name)


def test_final_observations_that_do_not_fit_are_refused_by_name() -> None:
    class Other(VectorWrapper[Any, Any, Any, Any, Any]):
        def step(self, actions: Any) -> Any:
            *step, info = self.env.step(actions)
            if "final_obs" in info:
                info["final_obs"] = np.full(self.num_envs, None)
            return *step, info

    env = wrap_env(Other(sampling("Tuple", AutoresetMode.SAME_STEP)))
    env.reset()
    env.step(np.zeros(3, int))
    with pytest.raises(UserError, match=r"^Other: final observations in info do not fit .*: there is none of envir"):
        env.step(np.zeros(3, int))


# ---------------------------------------------------------------------------------------------- wrappers

DOUBLED = {"func": lambda x: 2 * x}
WRAPPERS: dict[str, tuple[Any, str]] = {
    # name: (wrapper, modes in which gymnasium or we refuse it)
    "RecordEpisodeStatistics": (vector.RecordEpisodeStatistics, ""),
    "DictInfoToList": (vector.DictInfoToList, ""),
    "both": (lambda env: vector.DictInfoToList(vector.RecordEpisodeStatistics(env)), ""),
    "NormalizeReward": (vector.NormalizeReward, "DISABLED"),
    "TransformReward": (lambda env: vector.TransformReward(env, lambda reward: reward + 1), ""),
    "NormalizeObservation": (vector.NormalizeObservation, "SAME_STEP DISABLED"),
    "FlattenObservation": (vector.FlattenObservation, "SAME_STEP"),
    "TransformObservation": (lambda env: vector.TransformObservation(env, **DOUBLED), "SAME_STEP"),
    "VectorizeTransformObservation": (
        lambda env: vector.VectorizeTransformObservation(
            env, TransformObservation, observation_space=env.single_observation_space, **DOUBLED
        ),
        "SAME_STEP",
    ),
}


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_of_gymnasium_are_right_or_refused(name: str, mode: AutoresetMode) -> None:
    wrapper, refused = WRAPPERS[name]
    if mode.name in refused:
        with pytest.raises((UserError, ValueError), match=mode.name):
            wrap_env(wrapper(sampling("Box", mode)))
        return
    env = wrap_env(wrapper(sampling("Box", mode)))
    if name in ("NormalizeReward", "TransformReward"):
        of_steps = [reward for rows in told(env) for _, _, reward in rows]
        assert np.min(of_steps) > 0 and not np.isclose(of_steps, 1).any(), "the wrapper did nothing"
    elif name == "NormalizeObservation":
        found = np.array([led_to for rows in told(env, 200) for _, led_to, _ in rows])
        assert found.std() == pytest.approx(1, abs=0.1)
    else:
        assert_same_steps(env, "Box", 2 if "Transform" in name else 1)


@pytest.mark.parametrize("name", ["RescaleAction", "ClipAction", "TransformAction", "VectorizeTransformAction"])
def test_wrappers_of_actions_leave_our_actions_alone(name: str) -> None:
    class Noted(Sampling):
        action_space = Box(-1, 1, (2,))  # type: ignore[assignment]

        def step(self, action: Any) -> Any:
            assert self.action_space.contains(action), action
            self.taken = action.copy()
            action[:] = 0.25  # an environment may write into what it is given
            return super().step(action)

    inner = SyncVectorEnv([lambda i=i: Noted(SPACES["Box"], i) for i in range(2)])  # type: ignore[misc]
    wrapped = {
        "RescaleAction": lambda: vector.RescaleAction(inner, np.float32(-4), np.float32(4)),
        "ClipAction": lambda: vector.ClipAction(inner),
        "TransformAction": lambda: vector.TransformAction(inner, lambda a: np.clip(a, -1, 1, out=a)),
        "VectorizeTransformAction": lambda: vector.VectorizeTransformAction(
            inner, TransformAction, func=lambda a: np.clip(a, -1, 1, out=a), action_space=inner.single_action_space
        ),
    }[name]()
    env = wrap_env(wrapped)
    env.reset()
    actions = np.array([[4, -2], [0.5, 1]], np.float32)
    actions.setflags(write=False)  # as JAX gives them
    env.step(actions)
    assert actions.tolist() == [[4, -2], [0.5, 1]]
    taken = [list(one.taken) for one in inner.envs]  # type: ignore[attr-defined]
    assert taken == ([[1, -0.5], [0.125, 0.25]] if name == "RescaleAction" else [[1, -1], [0.5, 1]])


def test_conversions_to_torch_are_looked_through_where_they_are_outermost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "array_api_compat", pytest.importorskip("scipy._lib.array_api_compat"))
    convert = pytest.importorskip("gymnasium.wrappers.vector.numpy_to_torch").NumpyToTorch
    for mode in AutoresetMode:
        assert_same_steps(wrap_env(convert(sampling("Box", mode))), "Box")
        inside = vector.RecordEpisodeStatistics(convert(sampling("Box", mode)))
        with pytest.raises(UserError, match=rf"^NumpyToTorch with AutoresetMode.{mode.name}: RecordEpisodeStatistics"):
            wrap_env(inside)
    doubled = vector.TransformReward(convert(sampling("Box", AutoresetMode.SAME_STEP)), lambda x: 2 * x)
    with pytest.raises(UserError, match="it cannot convert final observations; allowed: outside of all"):
        wrap_env(doubled)

"""gymnasium environments behind our interface."""

from __future__ import annotations

import contextlib
import copy
import sys
import warnings
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from gymnasium.wrappers import OrderEnforcing, TransformAction, TransformObservation, vector

from runner.envs.base import VectorEnv, wrap_env
from runner.errors import UserError
from runner.torch import Runner
from tests.probe_envs import PoisonReset, Truncation, TwoSteps, make_vector
from tests.runner.builders import fingerprint, make_config


class Counting(gymnasium.Env[Any, Any]):
    """A Dict observation that counts the steps of its episode and its episodes; four steps each."""

    observation_space = Dict({"b": Box(0, 99, (1,), np.float32), "a": Discrete(9)})
    action_space = Discrete(2, start=5)

    def __init__(self) -> None:
        self.episode, self.steps = -1, 0

    def _seen(self) -> dict[str, Any]:
        return {"a": self.steps, "b": np.array([self.episode], np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode, self.steps = self.episode + 1, 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert action in (5, 6)
        self.steps += 1
        return self._seen(), 1.0, False, self.steps == 4, {}


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED])
def test_where_episodes_end_at_once_the_final_observation_comes_in_info(mode: AutoresetMode) -> None:
    env = wrap_env(SyncVectorEnv([Counting] * 3, autoreset_mode=mode))
    assert env.resets_at_once
    env.reset()
    for _ in range(2):
        env.env.envs[1].steps += 1  # type: ignore[attr-defined]  # its episodes end at other times
        for _ in range(2):
            *_, info = env.step(np.full(3, 5))
            assert "final_observations" not in info
        observations, _, _, truncated, info = env.step(np.full(3, 5))
        assert truncated.tolist() == [False, True, False]
        assert observations[:, 0].tolist() == [3, 0, 3]
        which, final = info["final_observations"]
        assert which.tolist() == [1] and final[0, 0] == 4 and final.shape == (1, 2)
        observations, *_, info = env.step(np.full(3, 5))
        which, final = info["final_observations"]
        assert which.tolist() == [0, 2] and final[:, 0].tolist() == [4, 4]
        assert observations[:, 0].tolist() == [0, 1, 0]
        env.reset()


def test_next_step_reset_rows_have_no_reward_and_the_next_episodes_observation() -> None:
    env = wrap_env(PoisonReset(2, length=3, stagger=1))
    env.reset()
    rewards = [env.step(np.ones(2, int))[1] for _ in range(12)]
    assert np.max(rewards) <= 1 and not np.any(rewards[3::4])
    waiting = wrap_env(SyncVectorEnv([Counting] * 2))
    waiting.reset()
    steps = [waiting.step(np.full(2, 5)) for _ in range(5)]
    assert [s[0][0, 0] for s in steps] == [1, 2, 3, 4, 0]
    assert [s[3][0] for s in steps] == [False, False, False, True, False]
    assert [s[1][0] for s in steps] == [1, 1, 1, 1, 0]


def test_a_reset_in_mid_episode_forgets_the_end() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    env.reset()
    env.step(np.zeros(2, int))
    env.step(np.zeros(2, int))
    env.reset()
    env.step(np.zeros(2, int))
    assert env.step(np.zeros(2, int))[1].tolist() == [1, 1], "the reward of a true step was taken for a reset row's"


def test_a_single_environment_is_a_vector_of_one() -> None:
    env = wrap_env(Truncation(length=2))
    assert env.num_envs == 1 and env.reset()[0].shape == (1, 1)
    assert [env.step([0])[3].tolist() for _ in range(3)] == [[False], [True], [False]]


def test_seeds_are_those_given_and_their_number_cannot_change() -> None:
    env = wrap_env(make_vector(lambda: gymnasium.make("Pendulum-v1").unwrapped, 3))  # type: ignore[arg-type,return-value]
    first = env.seeded([1, 2, 3]).reset()[0]
    np.testing.assert_array_equal(first, env.seeded([1, 2, 3]).reset()[0])
    assert not np.array_equal(first, env.seeded([1, 2, 4]).reset()[0])
    with pytest.raises(UserError, match="has 3 environments and cannot be rebuilt with 6: only EnvPool"):
        env.seeded(range(6))


def test_a_vector_environment_must_say_how_it_resets() -> None:
    env = make_vector(TwoSteps, 2)
    env.metadata = {}
    with pytest.raises(UserError, match=r'metadata\["autoreset_mode"\] is None; allowed: AutoresetMode.NEXT_STEP'):
        wrap_env(env)


def test_a_same_step_environment_without_final_observations_is_refused_when_it_matters() -> None:
    env = PoisonReset(2, length=2, stagger=1)
    env.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    wrapped = wrap_env(env)
    wrapped.reset()
    wrapped.step(np.zeros(2, int))
    with pytest.raises(UserError, match="info has no 'final_obs', which AutoresetMode"):
        wrapped.step(np.zeros(2, int))


# ---------------------------------------------------------------------------------------------- final observations

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


# ---------------------------------------------------------------------------------------------- seeds


def cart_poles() -> Any:
    return gymnasium.make_vec("CartPole-v1", num_envs=4)


def test_a_vector_environment_may_take_one_integer_as_its_seed() -> None:
    assert type(cart_poles()).__name__ == "CartPoleVectorEnv"
    runs, played = [], []
    for _ in range(2):
        runner = Runner(cart_poles(), make_config({"trainer.timesteps": 64}, "CategoricalMixin"))
        list(runner.reports())
        runs.append(fingerprint(runner.states()[0]))
        played.append(runner.evaluate())
    assert runs[0] == runs[1] and played[0] == played[1] == runner.evaluate()
    first = wrap_env(cart_poles()).seeded([7, 1, 2, 3])
    np.testing.assert_array_equal(first.reset()[0], wrap_env(cart_poles()).env.reset(seed=7)[0])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(first.reset()[0], first.seeded([7, 9, 9, 9]).reset()[0])
    assert not np.array_equal(first.reset()[0], first.seeded([8, 1, 2, 3]).reset()[0])


def test_an_error_of_a_reset_is_not_taken_for_a_refusal_of_seeds() -> None:
    class Broken(Sampling):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            raise ValueError(f"of its own, with seed {seed}")

    envs = wrap_env(SyncVectorEnv([lambda: Broken(SPACES["Box"], 0)] * 2)).seeded([5, 6])
    with pytest.raises(ValueError, match="of its own, with seed 5"):
        envs.reset()


# ---------------------------------------------------------------------------------------------- many in one


class Tensors:
    """Four environments in torch: episodes of five steps, observations count steps."""

    final, mode = "final_obs", AutoresetMode.SAME_STEP

    def __init__(self) -> None:
        self.num_envs = 4
        self.single_observation_space = Dict(a=Box(-9, 9, (3,)), b=Discrete(9))
        self.single_action_space = Box(-1, 1, (2,), np.float64)
        self.observation_space = batch_space(self.single_observation_space, 4)
        self.action_space = batch_space(self.single_action_space, 4)

    def _seen(self) -> Any:
        return {"a": self.steps[:, None].float().repeat(1, 3).requires_grad_(), "b": self.steps.clone()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        assert seed is None or isinstance(seed, int)
        self.steps = torch.arange(4)
        return self._seen(), {}

    def step(self, actions: Any) -> Any:
        assert isinstance(actions, torch.Tensor) and actions.dtype == torch.float64 and actions.shape == (4, 2)
        assert actions.abs().max() <= 1
        self.steps = self.steps + 1
        ended, info, seen = self.steps == 5, {}, self._seen()
        if ended.any():
            info[self.final] = seen
            self.steps[ended] = 0
            seen = self._seen()
        return seen, torch.ones(4, 1), torch.zeros(4, dtype=torch.bool), ended, info


class TensorVector(Tensors, GymnasiumVectorEnv[Any, Any, Any]):
    metadata: ClassVar = {"autoreset_mode": AutoresetMode.SAME_STEP}


class TensorEnv(Tensors, gymnasium.Env[Any, Any]):
    final = "final_observation"


@pytest.mark.parametrize("make", [TensorVector, TensorEnv, lambda: OrderEnforcing(TensorEnv())])
def test_environments_of_torch_that_are_many_are_read_and_given_tensors(make: Any) -> None:
    env = wrap_env(make())
    assert env.num_envs == 4 and env.actions.shape == (2,) and env.resets_at_once
    env.seeded([1, 2, 3, 4]).reset()
    steps = [env.step(np.zeros((4, 2))) for _ in range(3)]
    assert [s[3].tolist() for s in steps] == [[False] * 4, [False] * 3 + [True], [False, False, True, False]]
    which, final = steps[1][4]["final_observations"]
    assert which.tolist() == [3] and final.tolist() == [[5, 5, 5, 5]] and steps[1][0][:, 3].tolist() == [2, 3, 4, 0]
    runner = Runner(make(), make_config({"models.policy.clip_actions": True}))
    *_, report = runner.reports()
    assert report.records[0] is not None
    assert [episode.length for episode in runner.evaluate()] == [5, 4, 3, 2]
    actions = runner.agent.act(make().reset()[0])
    assert isinstance(actions, torch.Tensor) and actions.dtype == torch.float64 and actions.shape == (4, 2)


def test_what_is_many_without_saying_the_spaces_of_one_is_refused() -> None:
    many = Truncation(length=2)
    many.num_envs = 4  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match=r"^Truncation is a gymnasium.Env of num_envs 4 environments; allowed: one that"
    ):
        wrap_env(many)
    many.num_envs = 1  # type: ignore[attr-defined]
    assert wrap_env(many).num_envs == 1
    bare = make_vector(TwoSteps, 2)
    del bare.single_action_space
    with pytest.raises(UserError, match="SyncVectorEnv: a vector environment without single_action_space"):
        wrap_env(bare)


def test_steps_that_do_not_fit_are_refused_by_name() -> None:
    class Odd(TensorVector):
        def step(self, actions: Any) -> Any:
            return self._seen(), torch.ones(3), torch.zeros(4), torch.zeros(4), {}

    env = wrap_env(Odd())
    env.reset()
    with pytest.raises(UserError, match=r"^Odd: step gives rewards of shape \(3,\); allowed: \(4,\)$"):
        env.step(np.zeros((4, 2)))
    env.env._seen = lambda: {"a": np.zeros((4, 3))}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^Odd: observations do not fit its single_observation_space .*'b'"):
        env.reset()


class Loose(gymnasium.Env[Any, Any]):
    """What it gives is legal, but not of the types that its spaces name."""

    action_space = Discrete(2)

    def __init__(self, space: gymnasium.Space[Any], observation: Any, reward: Any) -> None:
        self.observation_space, self._seen, self._reward = space, observation, reward
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return self._seen, {}

    def step(self, action: Any) -> Any:
        self._steps += 1
        return self._seen, self._reward, np.bool_(self._steps % 2 == 0), 0, {}


@pytest.mark.parametrize(
    ("space", "observation", "reward"),
    [
        (Box(-9, 9, (2,)), [1, 2], 2),
        (Box(-9, 9, (2,)), np.array([1.5, 2.5]), np.float64(2)),
        (Box(-9, 9, (2,)), (1.0, 2.0), np.int8(2)),
        (Box(-9, 9, (2,), np.float64), np.array([1, 2]), np.array(2.0)),
        (Box(-9, 9, ()), 3.5, True + 1),
        (Box(-9, 9, (1,)), [np.float64(3)], 2.0),
        (Box(-9, 9, (2,)), torch.tensor([1.0, 2.0]), torch.tensor(2.0)),
        (Discrete(9), np.array(3), 2),
        (Dict(a=Box(-9, 9, (2,)), b=Discrete(9)), {"b": np.int32(3), "a": [1, 2]}, 2),
    ],
)
def test_legal_values_of_other_types_are_read(space: gymnasium.Space[Any], observation: Any, reward: Any) -> None:
    env = wrap_env(Loose(space, observation, reward))
    expected, _ = env.reset()
    assert expected.dtype == np.float32 and expected.shape == (1, env.observation_size)
    observations, rewards, terminated, truncated, _ = env.step([1])
    assert rewards.tolist() == [2] and not terminated.any() and not truncated.any()
    np.testing.assert_array_equal(observations, expected)
    assert env.step([1])[2].tolist() == [True]


def test_bad_actions_are_refused_here_too() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    env.reset()
    for actions in (np.zeros(3, int), np.array([0, 2]), np.zeros(2)):
        with pytest.raises(UserError):
            env.step(actions)


def test_an_environment_of_ours_passes_through() -> None:
    env = wrap_env(make_vector(TwoSteps, 2))
    assert wrap_env(env) is env

"""EnvPool behind our interface: everything that would end the process is refused before EnvPool sees it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import envpool
import numpy as np
import pytest

from runner.cores import usable_cores
from runner.envs.base import VectorEnv
from runner.envs.envpool import EnvPoolTask, check_arguments
from runner.envs.wrap import wrap_env
from runner.errors import UserError
from runner.torch import Runner
from tests.runner.builders import make_env, plain_config


class ReachedEnvPool(BaseException):
    """Not an Exception: nothing may catch it and call it a user's error."""


def reached(*_: Any, **__: Any) -> Any:
    """Stands where EnvPool stood."""
    raise ReachedEnvPool


@pytest.fixture
def no_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envpool, "make", reached)


# ---------------------------------------------------------------------------------------------- what works

SIZES: dict[str, tuple[int, tuple[int, ...], bool]] = {
    # id: (width of an observation, shape of an action, discrete)
    "CartPole-v1": (4, (), True),
    "Acrobot-v1": (6, (), True),
    "LunarLander-v3": (8, (), True),
    "Pendulum-v1": (3, (1,), False),
    "HalfCheetah-v4": (17, (6,), False),
    "HalfCheetah-v5": (17, (6,), False),
    "Ant-v4": (27, (8,), False),
    "CheetahRun-v1": (17, (6,), False),
    "MiniGrid-Empty-5x5-v0": (244, (), True),
}


@pytest.mark.parametrize("task", SIZES)
def test_environments_are_made_stepped_and_flattened(task: str) -> None:
    width, shape, discrete = SIZES[task]
    env = make_env(task, 2)
    assert (env.num_envs, env.observation_size, env.actions.shape, env.actions.discrete) == (2, width, shape, discrete)
    observations, _ = env.reset()
    for _ in range(3):
        assert observations.shape == (2, width) and observations.dtype == np.float32
        assert np.isfinite(observations).all()
        before = observations
        observations, rewards, terminated, truncated, _ = env.step(np.zeros((2, *shape), env.actions.dtype))
        assert rewards.shape == terminated.shape == truncated.shape == (2,)
        assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float32, bool, bool)
    assert not np.shares_memory(before, observations)


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1", "Ant-v4", "CheetahRun-v1", "Pong-v5", "Play2048-v1"])
def test_some_environments_are_stepped_as_if_all_were(task: str) -> None:
    """EnvPool's and the base class's own way, which steps all, agree, and the others wait where they are."""
    ours, whole = (make_env(task, 4).seeded([5, 6, 7, 8], 2) for _ in range(2))
    ours.reset(), whole.reset()
    actions = np.zeros((4, *ours.actions.shape), ours.actions.dtype)
    for step, which in enumerate(([0, 1, 2, 3], [0, 2, 3], [3, 0], [3])):
        indices = np.array(which)
        *mine, info = ours.step_some(actions, indices)
        *theirs, info_of_all = VectorEnv.step_some(whole, actions, indices)
        for found, right in zip(mine, theirs, strict=True):
            np.testing.assert_array_equal(found, right)
        assert ("episode_ends" in info_of_all) == ("episode_ends" in info) == (task == "Pong-v5")
        for name, right in info_of_all.items():
            np.testing.assert_array_equal(info[name], right)
        assert len(mine[0]) == 4 - step


def test_dict_observations_are_flattened_in_sorted_key_order() -> None:
    env = make_env("CheetahRun-v1", 3)
    raw = env.seeded([7, 8, 9], 1)
    twin = env.seeded([7, 8, 9], 1)
    flat, _ = raw.reset()
    parts, _ = twin.pool.reset()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(flat, np.concatenate([parts["position"], parts["velocity"]], 1).astype(np.float32))
    grid = make_env("MiniGrid-Empty-5x5-v0", 2)
    flat, _ = grid.reset()
    again, _ = grid.seeded([3, 4], 1).pool.reset()  # type: ignore[attr-defined]
    assert sorted(again) == ["direction", "image", "mission"]
    np.testing.assert_array_equal(flat[:, 0], again["direction"])
    np.testing.assert_array_equal(flat[:, 1:148], again["image"].reshape(2, -1))


def test_seeds_decide_everything_and_a_pool_is_rebuilt_with_its_arguments() -> None:
    env = make_env("Pendulum-v1", 2, {"max_episode_steps": 4})
    twins = [env.seeded([5, 6, 7], 1), wrap_env(env.pool).seeded([5, 6, 7], 2)]  # type: ignore[attr-defined]
    first = [twin.reset()[0] for twin in twins]
    np.testing.assert_array_equal(*first)
    for _ in range(4):
        steps = [twin.step(np.zeros((3, 1), np.float32)) for twin in twins]
        np.testing.assert_array_equal(steps[0][0], steps[1][0])
    assert all(step[3].all() for step in steps), "max_episode_steps was lost"
    assert not np.array_equal(env.seeded([8, 9, 10], 1).reset()[0], first[0])


def test_stepping_threads_follow_the_usable_cores_and_never_exceed_the_environments() -> None:
    task = EnvPoolTask("CartPole-v1", 4)
    threads = [task.seeded(range(n), t).pool.config["num_threads"] for n, t in ((4, None), (4, 3), (2, 9), (1, -5))]
    assert threads == [min(usable_cores(), 4), 3, 2, 1]


def test_atari_scores_come_from_the_raw_rewards_and_whole_games(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make_env("CartPole-v1", 2)
    none, ends = np.zeros(2, bool), np.array([True, False])

    class Pool:
        def step(self, actions: Any) -> Any:
            info = {"reward": np.array([7.0, 0.0]), "terminated": np.array([0, 0], np.int32)}
            return np.zeros((2, 4), np.float32), np.ones(2, np.float32), ends, none, info

    env.pool = Pool()  # type: ignore[attr-defined]
    _, rewards, terminated, _, info = env.step(np.zeros(2, np.int32))
    assert rewards.tolist() == [1, 1] and terminated.tolist() == [True, False]
    assert info["episode_rewards"].tolist() == [7, 0] and info["episode_ends"].tolist() == [False, False]


def test_images_stay_bytes() -> None:
    env = EnvPoolTask("Pong-v5", 2).seeded([1, 2], 1)
    observations, _ = env.reset()
    assert observations.shape == (2, 4 * 84 * 84) and observations.dtype == np.uint8
    assert env.layout.image and env.layout.shape == (4, 84, 84)


# ---------------------------------------------------------------------------------------------- arguments

NAN, INF = float("nan"), float("inf")
ARGUMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("Pong-v5", {"stack_num": 0}, "env.stack_num: found 0; allowed: 1 to "),
    ("Pong-v5", {"noop_max": 0}, "env.noop_max: found 0; allowed: 1 to "),
    ("Pong-v5", {"img_height": 0}, "env.img_height: found 0; allowed: 1 to "),
    ("Pong-v5", {"img_width": -84}, "env.img_width: found -84; allowed: 1 to "),
    ("Pong-v5", {"frame_skip": 0}, "env.frame_skip: found 0; allowed: 1 to "),
    ("Pong-v5", {"base_path": "/nowhere"}, "env.base_path: cannot be set"),
    ("Pong-v5", {"task": "breakout"}, "env.task: cannot be set: it follows from env.id"),
    ("Pong-v5", {"mode": 77}, "env.mode: found 77; allowed: -1"),
    ("Pong-v5", {"difficulty": 9}, "env.difficulty: found 9; allowed: -1"),
    ("Pong-v5", {"repeat_action_probability": 1.5}, "env.repeat_action_probability: found 1.5; allowed: 0 to 1"),
    ("Pong-v5", {"frame_stack": 4}, "env.frame_stack: Pong-v5 has no such argument. Did you mean 'frame_skip'"),
    ("Pong-v5", {"stack_num": 10**9}, "env.stack_num: found 1000000000; allowed: 1 to 1,000"),
    ("Pong-v5", {"reward_clip": 1}, "env.reward_clip: found 1; allowed: a value like Pong-v5's default False"),
    ("CartPole-v1", {"max_episode_steps": 0}, "env.max_episode_steps: found 0; allowed: 1 to "),
    ("CartPole-v1", {"max_episode_steps": -1}, "env.max_episode_steps: found -1; allowed: 1 to "),
    ("CartPole-v1", {"max_episode_steps": "9"}, "env.max_episode_steps: found '9'; allowed: a value like"),
    ("CartPole-v1", {"max_episode_steps": True}, "env.max_episode_steps: found True; allowed: a value like"),
    ("CartPole-v1", {"max_episode_steps": 9.5}, "env.max_episode_steps: found 9.5; allowed: a value like"),
    ("CartPole-v1", {"max_episode_step": 9}, "has no such argument. Did you mean 'max_episode_steps'?"),
    ("CartPole-v1", {"gravity": 9.8}, "CartPole-v1 has no such argument. Allowed for CartPole-v1: max_episode_steps"),
    ("CartPole-v1", {"num_threads": -1}, "env.num_threads: cannot be set: the worker decides it"),
    ("CartPole-v1", {"thread_affinity_offset": 0}, "env.thread_affinity_offset: cannot be set"),
    ("CartPole-v1", {"batch_size": 1}, "env.batch_size: cannot be set: pools are synchronous"),
    ("CartPole-v1", {"seed": 1}, "env.seed: cannot be set: the YAML's seed decides it"),
    ("CartPole-v1", {"env_seed": [1]}, "env.env_seed: cannot be set: the YAML's seed decides it"),
    ("CartPole-v1", {"max_num_players": 2}, "env.max_num_players: cannot be set"),
    (
        "HalfCheetah-v4",
        {"reset_noise_scale": NAN},
        "env.reset_noise_scale: found nan; allowed: -100,000,000 to 100,000,000",
    ),
    (
        "HalfCheetah-v4",
        {"ctrl_cost_weight": INF},
        "env.ctrl_cost_weight: found inf; allowed: -100,000,000 to 100,000,000",
    ),
    ("HalfCheetah-v4", {"reset_noise_scale": -0.1}, "env.reset_noise_scale: found -0.1; allowed: 0 to 1"),
    ("HalfCheetah-v4", {"frame_stack": 0}, "env.frame_stack: found 0; allowed: 1 to "),
    ("Hopper-v4", {"xml_file": "walker2d.xml"}, "env.xml_file: cannot be set: it follows from env.id"),
    ("CheetahRun-v1", {"task_name": "swim"}, "EnvPool cannot make CheetahRun-v1"),
    ("HandReach-v3", {"obs_dim": 9999}, "env.obs_dim: cannot be set: it follows from env.id"),
    ("HandReach-v3", {"hand_task": "manipulate"}, "env.hand_task: cannot be set: it follows from env.id"),
    ("D1Basic-v1", {"wad_path": "/nowhere"}, "env.wad_path: cannot be set: a mistake in it would end the process"),
    ("Maze-v0", {"maze_agent_position": "99,99"}, "env.maze_agent_position: cannot be set: a mistake in it would"),
    ("FrozenLake-v1", {"size": 5}, "env.size: found 5; allowed: 4 or 8"),
    ("Catch-v0", {"height": 1}, "env.height: found 1; allowed: 2 to 1,000"),
    ("Catch-v0", {"width": 0}, "env.width: found 0; allowed: 1 to 1,000"),
    ("Catch-v0", {"width": 10**8}, "env.width: found 100000000; allowed: 1 to 1,000"),
    ("Highway-v0", {"observation_vehicles_count": 0}, "env.observation_vehicles_count: found 0; allowed: 1 to 1,000"),
    ("Roundabout-v0", {"policy_frequency": 0}, "env.policy_frequency: found 0; allowed: 1 to "),
    ("Highway-v0", {"simulation_frequency": 10**8}, "env.simulation_frequency: found 100000000; allowed: 1 to 1,000"),
    ("PandaRobotiqPushCube-v1", {"obs_history_len": 0}, "env.obs_history_len: found 0; allowed: 1 to 1,000"),
    ("D1Basic-v1", {"map_id": "nope"}, "env.map_id: cannot be set: it follows from env.id"),
    ("Pong-v5", {"noop_max": 10**8}, "env.noop_max: found 100000000; allowed: 1 to 1,000"),
    ("MiniGrid-Empty-5x5-v0", {"agent_view_size": 0}, "env.agent_view_size: cannot be set"),
    ("MiniGrid-Empty-5x5-v0", {"agent_start_pos": [100, 100]}, "env.agent_start_pos: cannot be set"),
    ("MiniGrid-Empty-5x5-v0", {"size": -5}, "env.size: cannot be set"),
    ("CartPole-v", {}, "env.id: unknown environment 'CartPole-v'. Did you mean 'CartPole-v1' or 'CartPole-v0'"),
    ("halfcheetah-v4", {}, "env.id: unknown environment 'halfcheetah-v4'. Did you mean 'HalfCheetah-v4'"),
    ("Bogus", {}, "env.id: unknown environment 'Bogus'. `launch envs` lists them; a class or"),
    ("TicTacToe-v1", {}, "env.id: TicTacToe-v1 is a game of several players"),
]


@pytest.mark.parametrize(("task", "arguments", "message"), ARGUMENTS, ids=lambda x: str(x)[:40])
def test_bad_arguments_are_refused_before_a_pool_is_made(
    task: str, arguments: dict[str, Any], message: str, no_pool: None, request: pytest.FixtureRequest
) -> None:
    if "EnvPool cannot" in message:  # decided by EnvPool itself, which raises without harm
        request.getfixturevalue("monkeypatch").undo()
    with pytest.raises(UserError) as caught:
        EnvPoolTask(task, 2, arguments).seeded([1, 2])
    assert message in str(caught.value)


def test_good_arguments_pass() -> None:
    check_arguments("Pong-v5", {"stack_num": 1, "noop_max": 1, "repeat_action_probability": 0.25, "mode": -1})
    check_arguments("HalfCheetah-v4", {"reset_noise_scale": 0, "frame_stack": 2})
    check_arguments("MiniGrid-Empty-5x5-v0", {"max_episode_steps": 20})
    assert make_env("HalfCheetah-v4", 1, {"frame_stack": 2, "reset_noise_scale": 0}).observation_size == 34


# ---------------------------------------------------------------------------------------------- pools of the user

POOLS: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: envpool.make("CartPole-v1", env_type="gymnasium", num_envs=4, batch_size=2, num_threads=1),
        "batch_size 2 is less than num_envs 4",
    ),
    (lambda: envpool.make("CartPole-v1", env_type="dm", num_envs=2, num_threads=1), 'with env_type="gymnasium"'),
    (
        lambda: envpool.make("TicTacToe-v1", env_type="gymnasium", num_envs=2, num_threads=1),
        "a game of several players who act in turns",
    ),
    (lambda: "CartPole-v1", "wrap_env: cannot use a builtins.str; allowed: an EnvPool pool"),
    (lambda: None, "wrap_env: cannot use a builtins.NoneType"),
]


@pytest.mark.parametrize(("make", "message"), POOLS, ids=[m[:25] for _, m in POOLS])
def test_pools_that_cannot_be_used_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        wrap_env(make())
    assert message in str(caught.value)


# ---------------------------------------------------------------------------------------------- actions

BOX: list[tuple[Any, str]] = [
    (np.zeros((2, 6)), r"actions of shape (2, 6); this environment takes (3, 6)"),
    (np.zeros((4, 6)), r"actions of shape (4, 6); this environment takes (3, 6)"),
    (np.zeros((3, 2)), r"actions of shape (3, 2); this environment takes (3, 6)"),
    (np.zeros((6, 3)), r"actions of shape (6, 3); this environment takes (3, 6)"),
    (np.zeros(18), r"actions of shape (18,); this environment takes (3, 6)"),
    (np.zeros((0, 6)), r"actions of shape (0, 6)"),
    (0.0, r"actions of shape (); this environment takes (3, 6)"),
    (None, r"actions of shape ()"),
    (np.full((3, 6), np.nan), r"actions of environments [0, 1, 2] are not finite numbers"),
    (np.repeat([[1.0], [INF], [1.0]], 6, axis=1), r"actions of environments [1] are not finite numbers"),
    (np.full((3, 6), "a"), "actions of type"),
    (np.full((3, 6), None), "actions of type"),
    (np.zeros((3, 6), complex), "actions of type"),
    ([[0.0] * 6, [0.0] * 5, [0.0] * 6], "actions"),
]
DISCRETE: list[tuple[Any, str]] = [
    (np.zeros(2, int), r"actions of shape (2,); this environment takes (3,)"),
    (np.zeros(4, int), r"actions of shape (4,); this environment takes (3,)"),
    (np.zeros((1, 3), int), r"actions of shape (1, 3); this environment takes (3,)"),
    (np.array([0, 2, 1]), "action 2 of environment 1 is out of range; allowed: 0 to 1"),
    (np.array([0, -1, 1]), "action -1 of environment 1 is out of range; allowed: 0 to 1"),
    (np.array([0, 10**8, 1]), "action 100000000 of environment 1 is out of range; allowed: 0 to 1"),
    (np.array([0, 2**32, 1]), "action 4294967296 of environment 1 is out of range; allowed: 0 to 1"),
    (np.zeros(3), "actions of type float64; a Discrete(2) space takes integers"),
    (np.full(3, np.nan), "actions of type float64; a Discrete(2) space takes integers"),
    (np.zeros(3, bool), "actions of type bool; a Discrete(2) space takes integers"),
]


@pytest.fixture(scope="module")
def guarded() -> dict[str, VectorEnv]:
    """Environments whose pool must not be reached."""
    out = {task: make_env(task, 3) for task in ("HalfCheetah-v4", "CartPole-v1")}
    for env in out.values():
        env.pool = SimpleNamespace(step=reached)  # type: ignore[attr-defined]
    return out


@pytest.mark.parametrize(
    ("task", "actions", "message"),
    [("HalfCheetah-v4", *case) for case in BOX] + [("CartPole-v1", *case) for case in DISCRETE],
    ids=lambda x: str(x).replace("\n", "")[:30],
)
def test_bad_actions_are_refused_before_the_pool_sees_them(
    task: str, actions: Any, message: str, guarded: dict[str, VectorEnv]
) -> None:
    with pytest.raises(UserError) as caught:
        guarded[task].step(actions)
    assert message in str(caught.value)


def test_actions_of_other_types_and_of_one_number_are_taken() -> None:
    env = make_env("Pendulum-v1", 3)
    env.reset()
    for actions in (np.zeros((3, 1)), np.zeros(3, np.float64), np.zeros((3, 1), np.int64), [[0.0], [0.0], [0.0]]):
        assert env.step(actions)[0].shape == (3, 3)
    cart = make_env("CartPole-v1", 3)
    cart.reset()
    for actions in (np.array([0, 1, 0]), np.array([[0], [1], [0]], np.uint8), [0, 1, 1]):
        assert cart.step(actions)[0].shape == (3, 4)


DESCRIBED: list[tuple[dict[str, Any], str]] = [
    ({"id": "CartPole-v1"}, r"env\.id: the configuration says CartPole-v1, the environment is a Pendulum"),
    ({"id": "gymnasium:Pendulum-v1"}, r"env\.id: the configuration says gymnasium:Pendulum-v1, the environment is a"),
    ({"id": "Pendulum-v2"}, r"env\.id: unknown environment 'Pendulum-v2'"),
    ({"id": "Pendulum-v1", "max_episode_steps": 5}, r"max_episode_steps: the configuration says 5, the .* has 200"),
    ({"max_episode_steps": 5}, r"env\.max_episode_steps: the configuration says 5, the environment has 200"),
    ({"stack_num": 2}, r"env\.stack_num: the configuration says 2, the environment has no such argument"),
]


def test_a_configuration_of_another_environment_is_refused() -> None:
    task = EnvPoolTask("Pendulum-v1", 3)
    for env in (task, task.seeded([1, 2, 3], 1)):
        for described, message in DESCRIBED:
            with pytest.raises(UserError, match=message):
                Runner(env, plain_config({f"env.{name}": value for name, value in described.items()}))
        for same in ({"id": "Pendulum-v1"}, {"max_episode_steps": 200}):
            Runner(env, plain_config({f"env.{name}": value for name, value in same.items()}))
    longer = EnvPoolTask("Pendulum-v1", 3, {"max_episode_steps": 300})
    for env in (longer, longer.seeded([1, 2, 3], 1)):
        with pytest.raises(UserError, match="max_episode_steps: the configuration says 5, the environment has 300"):
            Runner(env, plain_config({"env.max_episode_steps": 5}))
    message = r"env\.max_episode_steps: the configuration says 500 \(CartPole-v1\), the environment has 200"
    with pytest.raises(UserError, match=message):
        Runner(make_env("CartPole-v0"), plain_config({"env.id": "CartPole-v1"}, "CategoricalMixin"))

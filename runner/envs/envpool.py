"""EnvPool: the only module that imports it, and the guard before everything that would end the process."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import envpool
import gymnasium
import numpy as np
from gymnasium.spaces import Dict, MultiBinary

from runner.cores import usable_cores
from runner.envs.base import Step, VectorEnv, episode_info
from runner.envs.spaces import LEGAL
from runner.errors import UserError, did_you_mean

OURS = {
    "seed": "the YAML's seed decides it",
    "env_seed": "the YAML's seed decides it",
    "batch_size": "pools are synchronous",
    "num_threads": "the worker decides it",
    "thread_affinity_offset": "the worker decides it",
    "base_path": "a wrong path would end the process",
    "task": "it follows from env.id",
    "max_num_players": "it follows from env.id",
    "gym_reset_return_info": "it has one value",
    "version": "it follows from env.id",
    "xml_file": "it follows from env.id",
    "hand_task": "it follows from env.id",
    "adroit_task": "it follows from env.id",
    "touch_get_obs": "it follows from env.id",
    "scenario": "it follows from env.id",
    "env_name": "it follows from env.id",
    "map_id": "it follows from env.id",
    "wrappers": "they are for environments of Python, such as gymnasium:CartPole-v1",
}
OF_A_POOL = {
    "num_envs", "batch_size", "num_threads", "thread_affinity_offset", "seed", "env_seed", "base_path",
    "gym_reset_return_info",
}  # fmt: skip
"""Numbers of a specification that say nothing of the task."""
LEAST = dict.fromkeys((
    "stack_num", "frame_stack", "frame_skip", "noop_max", "img_height", "img_width", "max_episode_steps",
    "num_levels", "time_limit", "width", "observation_vehicles_count", "simulation_frequency", "policy_frequency",
    "obs_history_len", "action_history_len", "history_len", "gait_count", "action_repeat", "physics_steps_per_frame",
), 1) | {"height": 2}  # fmt: skip
"""Values below these abort or crash the process, or end every episode at its first step."""
SIZES = {
    "stack_num", "frame_stack", "frame_skip", "noop_max", "img_height", "img_width", "width", "height",
    "vehicles_count", "observation_vehicles_count", "lanes_count", "simulation_frequency", "obs_history_len",
    "action_history_len", "history_len", "gait_count", "action_repeat", "rubiks_cube_num_scrambles",
    "physics_steps_per_frame",
}  # fmt: skip
"""Arguments that memory or the time of a step grows with."""
_BOARD = "observation"
LARGEST_SIZE, LARGEST_NUMBER = 1_000, 100_000_000


def _spec(task: str) -> Any:
    """EnvPool's specification of a task with default arguments.

    Raises:
        UserError: unknown task, or one whose library does not load on this machine.
    """
    known = envpool.list_all_envs()
    if task not in known:
        hint = did_you_mean(task, known) or " `launch envs` lists them; a class or function is module:Name."
        if task in gymnasium.registry:
            hint = f" gymnasium has one: gymnasium:{task}"
        raise UserError(f"env.id: unknown environment {task!r}.{hint}")
    try:
        return envpool.make_spec(task)
    except Exception as error:
        raise UserError(f"env.id: {task} cannot be loaded on this machine: {error}") from None


def families() -> dict[str, str]:
    """Task → family, such as `mujoco.dmc`."""
    specs = envpool.registration.registry.specs
    return {task: specs[task][0].removeprefix("envpool.") for task in envpool.list_all_envs()}


def settable(task: str) -> dict[str, Any]:
    """Arguments of a task that may be set, with their defaults."""
    defaults = dict(_spec(task).config._asdict())
    return {name: defaults[name] for name in sorted(defaults.keys() - _ours(defaults).keys() - {"num_envs"})}


def check_arguments(task: str, arguments: Mapping[str, Any]) -> None:
    """Check keyword arguments against the task's specification before EnvPool sees them.

    Raises:
        UserError: unknown task or argument, one that this program sets itself, wrong type, or out of range.
    """
    spec = _spec(task)
    defaults = dict(spec.config._asdict())
    _refuse_turns(spec, f"env.id: {task}")
    ours = _ours(defaults)
    allowed = sorted(defaults.keys() - ours.keys() - {"num_envs"})
    for name, value in arguments.items():
        where = f"env.{name}"
        if name in ours:
            raise UserError(f"{where}: cannot be set: {ours[name]}")
        if name not in allowed:
            hint = did_you_mean(name, allowed) or f" Allowed for {task}: {', '.join(allowed)}."
            raise UserError(f"{where}: {task} has no such argument.{hint}")
        default = defaults[name]
        if not _same_kind(value, default):
            raise UserError(f"{where}: found {value!r}; allowed: a value like {task}'s default {default!r}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            least = LEAST.get(name, -LARGEST_NUMBER)
            most = LARGEST_SIZE if name in SIZES else LARGEST_NUMBER
            if not least <= value <= most:
                raise UserError(f"{where}: found {value!r}; allowed: {least:,} to {most:,}")
    if arguments.get("size", 4) not in (4, 8):
        raise UserError(f"env.size: found {arguments['size']!r}; allowed: 4 or 8, of which there are maps")
    for name in ("repeat_action_probability", "reset_noise_scale"):
        value = arguments.get(name, 0.0)
        if not 0 <= value <= 1:
            raise UserError(f"env.{name}: found {value!r}; allowed: 0 to 1")
    for name in ("mode", "difficulty"):
        if arguments.get(name, -1) != -1 and "stack_num" in defaults:
            raise UserError(f"env.{name}: found {arguments[name]!r}; allowed: -1, the cartridge's default")


def _ours(defaults: Mapping[str, Any]) -> dict[str, str]:
    """Arguments that cannot be set, and why."""
    # MiniGrid and BabyAI: a size, view or start that does not fit the task's map ends the process.
    of_map = defaults.keys() - {"max_episode_steps"} if "mission_bytes" in defaults else set()
    given = {name for name in defaults if name.endswith("_dim")} | of_map
    ends = "a mistake in it would end the process, or go unnoticed"
    free = {name: ends for name, value in defaults.items() if value == "" or name.endswith("_path")}
    return free | dict.fromkeys(given, "it follows from env.id") | OURS


def _same_kind(value: Any, default: Any) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, Sequence) and not isinstance(default, str):
        return isinstance(value, list)
    return isinstance(value, type(default))


def _refuse_turns(spec: Any, name: str) -> None:
    """Refuse games whose players, of several, do not act at once (PGX): a step of one is no experience of another."""
    if "info:current_player" in spec.state_array_spec and spec.config.max_num_players > 1:
        raise UserError(
            f"{name} is a game of several players who act in turns, against each other; allowed: tasks of one agent, "
            "or of several that act at once, such as IntersectionMultiAgent-v1"
        )


def _seen_space(spec: Any, space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The observation space, with possible actions as a part where they come in the info (PGX)."""
    mask = spec.state_array_spec.get(f"info:{LEGAL}")
    return space if mask is None else Dict({_BOARD: space, LEGAL: MultiBinary([n for n in mask.shape if n != -1])})


def _named(spec: Any) -> dict[str, Any]:
    """The id and arguments that make a specification."""
    config = spec.config._asdict()
    near: dict[str, int] = {}
    for task, (_, kind, defaults) in envpool.registration.registry.specs.items():
        if kind == type(spec).__name__ and config.get("task") == defaults.get("task"):
            near[task] = sum(config.get(name, value) != value for name, value in defaults.items())
    if not near:
        return {}
    task = min(reversed(near), key=lambda task: (near[task], task.count("/")))
    defaults = _spec(task).config._asdict()
    arguments = {name: x for name, x in config.items() if name not in OF_A_POOL and defaults.get(name) != x}
    try:
        _check_described(spec, task, arguments)
    except UserError:  # with arguments that a configuration cannot have
        return {}
    return {"id": task, **arguments}


def _threads(threads: int | None, num_envs: int) -> int:
    """EnvPool counts the host's cores, not those this process may use, so the number is always explicit."""
    return max(1, min(threads if threads is not None else usable_cores(), num_envs))


def _made_spec(task: str, arguments: Mapping[str, Any]) -> Any:
    """EnvPool's specification of a task with these arguments."""
    check_arguments(task, arguments)
    with _making(task, arguments):
        return envpool.make_spec(task, **arguments)


@contextlib.contextmanager
def _making(task: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Say of EnvPool's errors which task and arguments they are about."""
    try:
        yield
    except UserError:
        raise
    except (AssertionError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"env: EnvPool cannot make {task} with {dict(arguments)}: {error}") from None


def _check_described(spec: Any, task: str | None, arguments: Mapping[str, Any]) -> None:
    """Refuse a task and arguments that are not those of a specification."""
    found, wanted = spec.config._asdict(), dict(arguments)
    if task is not None:
        described = None if ":" in task else _made_spec(task, arguments)  # with a colon it is Python's
        if described is None or type(described) is not type(spec):
            kind = type(spec).__name__.removesuffix("EnvSpec")
            raise UserError(f"env.id: the configuration says {task}, the environment is a {kind}")
        wanted = described.config._asdict()
    for name in sorted(wanted.keys() - OF_A_POOL):
        if name not in found or found[name] != wanted[name]:
            has = repr(found[name]) if name in found else "no such argument"
            of_task = f" ({task})" if task is not None and name not in arguments else ""
            raise UserError(f"env.{name}: the configuration says {wanted[name]!r}{of_task}, the environment has {has}")


class EnvPoolTask(VectorEnv):
    """A task with its arguments: spaces are known, environments are made by `seeded`.

    Attributes:
        players: agents of an environment.
    """

    overlaps = True

    def __init__(self, task: str, num_envs: int, arguments: Mapping[str, Any] | None = None) -> None:
        """Describe a pool of `num_envs` environments.

        Args:
            task: an id of `envpool.list_all_envs()`.
            num_envs: environments of one member.
            arguments: the task's keyword arguments.

        Raises:
            UserError: see `check_arguments`; or a space that is not supported.
        """
        self.task, self.arguments = task, dict(arguments or {})
        self._spec = spec = _made_spec(task, self.arguments)
        self.players: int = spec.config.max_num_players
        with _making(task, self.arguments), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*precision lowered.*")
            space = _seen_space(spec, spec.gymnasium_observation_space)
            super().__init__(num_envs, space, spec.gymnasium_action_space)

    def check_described(self, task: str | None, arguments: Mapping[str, Any]) -> None:
        """Refuse another task, and other arguments."""
        if (task, dict(arguments)) != (self.task, self.arguments):
            _check_described(self._spec, task, arguments)

    def drawn(self) -> EnvPoolTask:
        """The same task, whose pools can draw their environments: pixels, not a window."""
        drawn = copy.copy(self)
        drawn.arguments = self.arguments | {"render_mode": "rgb_array"}
        return drawn

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> EnvPool:
        """A pool of `len(seeds)` environments."""
        with _making(self.task, self.arguments):
            pool = envpool.make(
                self.task,
                env_type="gymnasium",
                num_envs=len(seeds),
                env_seed=list(seeds),
                num_threads=_threads(threads, len(seeds)),
                **self.arguments,
            )
        return EnvPool(pool, self.task)


class EnvPool(VectorEnv):
    """A synchronous EnvPool pool."""

    overlaps = True

    def __init__(self, pool: Any, task: str | None = None) -> None:
        """Wrap a pool made with `env_type="gymnasium"`, of this task.

        Raises:
            UserError: another API, an asynchronous pool, players that act in turns, or an unsupported space.
        """
        name = type(pool).__name__
        if "GymnasiumEnvPool" not in name:
            raise UserError(f'{name}: make the pool with env_type="gymnasium", the only API that runners read')
        if pool.is_async:
            raise UserError(
                f"{name}: batch_size {pool.config['batch_size']} is less than num_envs {pool.config['num_envs']}: an "
                "asynchronous pool answers in arrival order, which cannot be reproduced; leave batch_size out"
            )
        _refuse_turns(pool.spec, name)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*precision lowered.*")
            space = _seen_space(pool.spec, pool.observation_space)
            super().__init__(pool.config["num_envs"], space, pool.action_space)
        self.pool, self._name = pool, task or name
        self._masked = space is not pool.observation_space

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere."""
        observations, info = self.pool.reset()
        return self.flatten(self.seen(observations, info)), {}

    @property
    def named(self) -> dict[str, Any]:
        """See the base class; of ids that differ in defaults alone, the one that leaves the fewest arguments to say."""
        return _named(self.pool.spec)

    def seen(self, observations: Any, info: Mapping[str, Any]) -> Any:
        """Observations, with the possible actions beside them where they come in the info (PGX)."""
        return {_BOARD: observations, LEGAL: info[LEGAL]} if self._masked else observations

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        return self._told(self.pool.step(self.actions.checked(actions, self.num_envs)))

    def send(self, actions: Any) -> None:
        """Begin a step in the pool's threads; see the base class."""
        self.pool.send(self.actions.checked(actions, self.num_envs))

    def receive(self) -> Step:
        """Wait for the end of the step; see the base class."""
        return self._told(self.pool.recv())

    def step_some(self, actions: np.ndarray, indices: np.ndarray) -> Step:
        """Step only these environments; see the base class."""
        if len(indices) == self.num_envs:
            return self.step(actions)
        chosen = self.actions.checked(actions, self.num_envs)[indices]
        return self._told(self.pool.step(chosen, indices.astype(np.int32)), len(indices))

    def _told(self, answer: Any, rows: int | None = None) -> Step:
        observations, rewards, terminated, truncated, info = answer
        flat = self.flatten(self.seen(observations, info), rows)
        return flat, rewards, terminated, truncated, episode_info(info, truncated)

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> EnvPool:
        """A new pool from this one's specification with `len(seeds)` environments."""
        config = dict(self.pool.config)
        config.update(num_envs=len(seeds), batch_size=len(seeds), env_seed=list(seeds), seed=0)
        config["num_threads"] = _threads(threads or config["num_threads"] or None, len(seeds))
        spec = type(self.pool.spec)
        try:
            pool = type(self.pool)(spec(spec.gen_config(**config)))
        except (MemoryError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"EnvPool cannot rebuild {type(self.pool).__name__}: {error}") from None
        return EnvPool(pool)

    def render(self, indices: Sequence[int]) -> np.ndarray:
        """Pictures of these environments; see the base class."""
        try:
            pictures = self.pool.render(env_ids=np.asarray(indices, np.int32))
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise UserError(f"{self._name} cannot be filmed: EnvPool does not draw this task") from None
        return np.asarray(pictures, np.uint8)

    def check_described(self, task: str | None, arguments: Mapping[str, Any]) -> None:
        """Refuse another task, and other arguments."""
        _check_described(self.pool.spec, task, arguments)

    def close(self) -> None:
        """Close viewers; the pool's threads go with its last reference."""
        self.pool.close()

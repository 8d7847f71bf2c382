"""The stepping of environments by compiled code: by EnvPool's own XLA functions where there are any, else in Python.

Axes: P member · N environment · O observation.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Bool, Float, Num, Shaped

from runner.envs.base import ABSENT, VectorEnv, episode_info
from runner.envs.spaces import Layout
from runner.jax import accelerate

log = logging.getLogger(__name__)


class Step(NamedTuple):
    """One step of all P·N environments: the score's own rewards and ends where they differ, and which of several agents
    are not there."""

    observations: Num[Array, "PN O"]
    rewards: Float[Array, " PN"]
    terminated: Bool[Array, " PN"]
    truncated: Bool[Array, " PN"]
    final_observations: Num[Array, "PN O"] | None
    score: dict[str, Array]
    absent: Bool[Array, " PN"] | None = None


Stepper = Callable[[Array, Array], tuple[Array, Step]]
"""(token, actions `[P·N, …]` int32 or float32) → (token, Step). Steps happen in the order in which tokens pass on."""


class Host:
    """Steps a Python environment for the compiled program, and remembers what it raised.

    Nothing is raised through XLA, which would make another error of it and fail every later program of the process:
    after an error the rest of a rollout is zeros, and `errors` raises what was remembered.

    Attributes:
        seconds: that steps have taken; whoever reads them begins again at 0.
    """

    def __init__(self, env: VectorEnv) -> None:
        self._env = env
        self.seconds = 0.0
        self._error: BaseException | None = None

    def shapes(self) -> Step:
        """The shapes of what `step` returns."""
        rows = self._env.num_envs
        observations = jax.ShapeDtypeStruct((rows, self._env.observation_size), self._env.layout.dtype)
        numbers, flags = (jax.ShapeDtypeStruct((rows,), np.dtype(kind)) for kind in (np.float32, bool))
        final = observations if self._env.resets_at_once else None
        score = {"episode_rewards": numbers, "episode_ends": flags}
        absent = None if self._env.agents is None else flags
        return Step(observations, numbers, flags, flags, final, score, absent)  # type: ignore[arg-type]

    def step(self, actions: Any) -> Step:
        """One step of every environment; zeros after an error."""
        if self._error is None:
            began = time.perf_counter()
            try:
                return self._stepped(np.asarray(actions))
            except BaseException as error:
                self._error = error
            finally:
                self.seconds += time.perf_counter() - began
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self.shapes())

    def write(self, _: Any, places: Step, actions: Any) -> None:
        """`step` in memory that is the program's, for the length of this call."""
        step = self.step(np.asarray(actions).copy())
        for place, rows in zip(jax.tree.leaves(places), jax.tree.leaves(step), strict=True):
            own = np.asarray(place)
            own[...] = rows.reshape(own.shape)

    def _stepped(self, actions: np.ndarray) -> Step:
        observations, rewards, terminated, truncated, info = self._env.step(actions)
        final = None
        if self._env.resets_at_once:
            final = np.zeros_like(observations)
            if "final_observations" in info:
                which, rows = info["final_observations"]
                final[which] = rows
        rewards = np.asarray(rewards, np.float32)
        terminated, truncated = (np.asarray(flags, bool) for flags in (terminated, truncated))
        score = {
            "episode_rewards": np.asarray(info.get("episode_rewards", rewards), np.float32),
            "episode_ends": np.asarray(info.get("episode_ends", terminated | truncated), bool),
        }
        absent = None if self._env.agents is None else info[ABSENT]
        return Step(observations, rewards, terminated, truncated, final, score, absent)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise afterwards what the environment raised meanwhile."""
        yield
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def array(values: Any) -> Array:
    """An array of any library as JAX's on the device, without a copy where it is there."""
    if isinstance(values, np.ndarray):
        return jnp.asarray(values)
    put: Array = accelerate.put(values if isinstance(values, Array) else jnp.from_dlpack(values))
    return put


def stepper(env: VectorEnv) -> tuple[Any, Stepper, Host]:
    """The stepper of this environment in compiled code: EnvPool's own XLA functions where it has any, else Python."""
    host = Host(env)
    if hasattr(env.halves[0], "pool") and not accelerate.sees_gpu():
        try:
            return *_xla(env), host
        except RuntimeError as error:
            log.warning("environments are stepped through Python, which is slower: %s", error)
    return *_callback(host), host


def _callback(host: Host) -> tuple[Any, Stepper]:
    """Step in Python from inside the compiled program, in order: each step's actions follow from the one before."""
    shapes = host.shapes()
    called = buffer_callback(host.write, shapes, has_side_effect=True)

    return np.zeros(1, np.uint8), lambda token, actions: (token, called(actions))


def _xla(env: VectorEnv) -> tuple[Any, Stepper]:
    """EnvPool's XLA functions, made safe; half-pools step at the same time, each in threads of its own.

    With 64-bit numbers off, EnvPool would declare its float64 arrays as float32 and write past their ends; so they are
    on around each call, and off for the rest of the program. It also checks actions only once in a pool's life, never
    their number; so they are checked here, each time a program is traced.

    Raises:
        RuntimeError: there are none on this operating system.
    """
    pools = [part.pool for part in env.halves]  # type: ignore[attr-defined]
    specs = pools[0].spec.action_array_spec
    spec = specs[list(specs)[-1]]
    shape = (env.num_envs, *(size for size in spec.shape if size != -1))
    with jax.enable_x64(True):
        functions = [pool.xla() for pool in pools]

    def step(token: Array, actions: Array) -> tuple[Array, Step]:
        if actions.size != np.prod(shape) or actions.shape[0] != env.num_envs:
            raise ValueError(f"actions of shape {actions.shape}; this pool takes {shape}")
        steps = list[Step]()
        with jax.enable_x64(True):
            # One token passes through all, so that they happen in this order.
            for (_, _, send, _), some in zip(functions, env.cut(actions.reshape(shape)), strict=True):
                token = send(token, some.astype(np.dtype(spec.dtype)))
            for _, receive, _, _ in functions:
                token, out = receive(token)
                steps.append(_told(env, out))
        return token, jax.tree.map(lambda *rows: env.joined(rows, jnp.concatenate), *steps)

    return functions[0][0], step


def _told(env: VectorEnv, out: Any) -> Step:
    """EnvPool's answer as a Step."""
    observations, rewards, terminated, truncated, info = out
    flat = _flatten(env.layout, env.seen(observations, info), len(rewards)).astype(env.layout.dtype)
    score = episode_info(info, truncated)
    score = {name: x if x.dtype == bool else x.astype(jnp.float32) for name, x in score.items()}
    return Step(flat, rewards.astype(jnp.float32), terminated, truncated, None, score)


def _flatten(parts: Layout, observations: Any, rows: int) -> Shaped[Array, "PN O"]:
    """`runner.envs.observations.flatten_observations` for arrays of a compiled program."""
    if not parts.children:
        return observations.reshape(rows, -1)
    columns = [
        _flatten(part, observations[key] if isinstance(observations, Mapping) else observations[int(key)], rows)
        for key, part in parts.children
    ]
    return jnp.concatenate([column.astype(jnp.result_type(*columns)) for column in columns], 1)

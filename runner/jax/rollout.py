"""Collect T steps of every environment of every member, in one compiled program.

Axes: P member · T rollout step · N environment · O observation · A action.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num, Shaped

from runner.envs.base import VectorEnv, episode_info
from runner.envs.spaces import ActionSpace, Layout
from runner.networks.policies import Distribution
from runner.training.episodes import Episodes
from runner.training.tracking import ACT_TIME, ENVIRONMENT_TIME, ROLLOUT_TIME

log = logging.getLogger(__name__)


class Rollout(NamedTuple):
    """Experience; `[T, P, N, …]` as collected, `[T, N, …]` inside an update, which is of one member.

    Attributes:
        observations: raw; one more step than the rest.
        actions: unclipped samples, or categories.
        outputs: the policy's means or logits that the actions were drawn from.
        rewards: as the environment gave them.
        terminated: the episode reached a true end at this step.
        ended: terminated or truncated.
        valid: False for the row after an episode end, which is no experience.
        final_observations: what followed the steps that ended an episode, where that is not the next observation:
            environments that reset at once. None for all others.
    """

    observations: Num[Array, "*T1PN O"]
    actions: Num[Array, "*TPN K"]
    outputs: Float[Array, "*TPN W"]
    rewards: Float[Array, "*TPN"]
    terminated: Bool[Array, "*TPN"]
    ended: Bool[Array, "*TPN"]
    valid: Bool[Array, "*TPN"]
    final_observations: Num[Array, "*TPN O"] | None


class Step(NamedTuple):
    """What one step of all P·N environments gives; the score's own rewards and ends where they differ."""

    observations: Num[Array, "PN O"]
    rewards: Float[Array, " PN"]
    terminated: Bool[Array, " PN"]
    truncated: Bool[Array, " PN"]
    final_observations: Num[Array, "PN O"] | None
    score: dict[str, Array]


class Standing(NamedTuple):
    """Where the environments stand between rollouts."""

    token: Array
    observations: Num[Array, "P N O"]
    ended: Bool[Array, "P N"]


Stepper = Callable[[Array, Array], tuple[Array, Step]]
"""(token, actions `[P·N, …]` int32 or float32) → (token, Step). Steps happen in the order in which tokens pass on."""
Act = Callable[[Any, Array, Array, Array | None], tuple[Array, Array]]
"""(one member's policy, raw observations `[N, O]`, noise `[N, W]`, whether at random) → (policy outputs `[N, W]`,
actions `[N, K]`)."""
EnvActions = Callable[[Array], Array]
"""Actions `[P, N, K]` → what the environment takes, `[P·N, …]`."""


class Collector:
    """Compiled stepping of one environment; remembers, between rollouts, where each of its copies stands."""

    def __init__(self, env: VectorEnv, members: int, env_actions: EnvActions, act: Act) -> None:
        """Reset `env` (P·N environments, member-major) and start counting episodes.

        Args:
            env: kept as long as this lives: the compiled program holds its address.
            members: P.
            env_actions: what the environment gets of the members' actions.
            act: how a member acts.
        """
        self.env = env
        self.episodes = Episodes(members, env.num_envs // members)
        self.spent: dict[str, float] = defaultdict(float)
        self._act, self._env_actions = act, env_actions
        # The first reset and every later step must come from one side only: the pool has no lock.
        observations, _ = env.reset()
        token, self._step, self._host = _stepper(env)
        shape = (members, self.episodes.envs)
        self._standing = Standing(*jax.device_put((token, observations.reshape(*shape, -1), np.zeros(shape, bool))))
        self._program: Any = jax.jit(self._collect, donate_argnums=0)

    def compile(
        self, policies: Any, noise: Float[np.ndarray, "T P N W"], random: Bool[np.ndarray, " T"] | None = None
    ) -> Rollout:
        """Compile for arguments of these shapes, without a step.

        Returns:
            The shapes of a rollout.
        """
        lowered = self._program.lower(self._standing, policies, noise, random)
        self._program = lowered.compile()
        return lowered.out_info[1]

    def collect(
        self, policies: Any, noise: Float[np.ndarray, "T P N W"], random: Bool[np.ndarray, " T"] | None = None
    ) -> Rollout:
        """T steps of every environment, one per row of `noise`, those in `random` by no policy; done when this returns.

        Raises:
            Exception: whatever a Python environment raises.
        """
        began = time.perf_counter()
        with self._host.errors():
            self._standing, rollout, score = self._program(self._standing, policies, noise, random)
            jax.block_until_ready((self._standing, rollout, score))
        self._count(time.perf_counter() - began)
        rewards, ended, valid = (
            np.asarray(x).reshape(len(noise), -1) for x in (rollout.rewards, rollout.ended, rollout.valid)
        )
        own = {name: np.asarray(x) for name, x in score.items()}
        for t in range(len(noise)):
            self.episodes.add(rewards[t], ended[t], valid[t], {name: x[t] for name, x in own.items()})
        return rollout

    def _count(self, seconds: float) -> None:
        """A rollout took so long."""
        stepping, self._host.seconds = self._host.seconds, 0.0
        if stepping:
            self.spent[ENVIRONMENT_TIME] += stepping
            self.spent[ACT_TIME] += seconds - stepping
        else:
            self.spent[ROLLOUT_TIME] += seconds

    def _collect(
        self, standing: Standing, policies: Any, noise: Float[Array, "T P N W"], random: Bool[Array, " T"] | None
    ) -> tuple[Standing, Rollout, dict[str, Array]]:
        shape = standing.ended.shape

        def one_step(standing: Standing, now: tuple[Array, Array | None]) -> tuple[Standing, Any]:
            noise, random = now
            act = jax.vmap(self._act, (0, 0, 0, None))
            outputs, actions = act(policies, standing.observations, noise, random)
            token, step = self._step(standing.token, self._env_actions(actions))
            rewards, terminated, truncated = (x.reshape(shape) for x in (step.rewards, step.terminated, step.truncated))
            ended = terminated | truncated
            after = Standing(
                token,
                step.observations.reshape(standing.observations.shape),
                jnp.zeros_like(ended) if self.env.resets_at_once else ended,
            )
            final = step.final_observations
            row = Rollout(
                standing.observations,
                actions,
                outputs,
                rewards,
                terminated,
                ended,
                ~standing.ended,
                None if final is None else final.reshape(standing.observations.shape),
            )
            return after, (row, step.score)

        standing, (rows, score) = jax.lax.scan(one_step, standing, (noise, random))
        observations = jnp.concatenate((rows.observations, standing.observations[None]))
        return standing, rows._replace(observations=observations), score


def env_actions(actions: Num[Array, "P N K"], distribution: Distribution, space: ActionSpace, clip: bool) -> Array:
    """Policy actions → what the environment takes, `[P·N, …]` of 32-bit numbers: clipped to its bounds if asked."""
    flat = actions.reshape(-1, actions.shape[2])
    if space.discrete:
        if distribution.joint:
            flat = jnp.stack(jnp.unravel_index(flat[:, 0], distribution.factors), 1)
        return (flat + space.low.astype(np.int32)).reshape(-1, *space.shape)
    if clip:
        flat = jnp.clip(flat, space.low, space.high)
    # A diverged member's numbers must not reach the pool that it shares with its pack.
    return jnp.where(jnp.isfinite(flat), flat, space.rest).reshape(-1, *space.shape)


class _Host:
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
        """Of what `step` returns."""
        rows = self._env.num_envs
        observations = jax.ShapeDtypeStruct((rows, self._env.observation_size), self._env.layout.dtype)
        numbers, flags = (jax.ShapeDtypeStruct((rows,), np.dtype(kind)) for kind in (np.float32, bool))
        final = observations if self._env.resets_at_once else None
        score = {"episode_rewards": numbers, "episode_ends": flags}
        return Step(observations, numbers, flags, flags, final, score)  # type: ignore[arg-type]

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
        return Step(observations, rewards, terminated, truncated, final, score)  # type: ignore[arg-type]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Raise afterwards what the environment raised meanwhile."""
        yield
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _stepper(env: VectorEnv) -> tuple[Any, Stepper, _Host]:
    """How compiled code steps this environment: EnvPool's own XLA functions where there are any, else Python."""
    host = _Host(env)
    pool = getattr(env, "pool", None)
    if pool is not None:
        try:
            return *_xla(env, pool), host
        except RuntimeError as error:
            log.warning("environments are stepped through Python, which is slower: %s", error)
    return *_callback(host), host


def _callback(host: _Host) -> tuple[Any, Stepper]:
    """Step in Python, in order, from inside the compiled program."""
    shapes = host.shapes()

    def step(token: Array, actions: Array) -> tuple[Array, Step]:
        return token, jax.experimental.io_callback(host.step, shapes, actions, ordered=True)

    return np.zeros(1, np.uint8), step


def _xla(env: VectorEnv, pool: Any) -> tuple[Any, Stepper]:
    """EnvPool's XLA functions, made safe.

    With 64-bit numbers off, EnvPool would declare its float64 arrays as float32 and write past their ends; so they are
    on around each call, and off for the rest of the program. It also checks actions only once in a pool's life, never
    their number; so they are checked here, each time a program is traced.

    Raises:
        RuntimeError: there are none on this operating system.
    """
    specs = pool.spec.action_array_spec
    spec = specs[list(specs)[-1]]
    shape = (env.num_envs, *(size for size in spec.shape if size != -1))
    with jax.enable_x64(True):
        handle, _, _, native = pool.xla()

    def step(token: Array, actions: Array) -> tuple[Array, Step]:
        if actions.size != np.prod(shape) or actions.shape[0] != env.num_envs:
            raise ValueError(f"actions of shape {actions.shape}; this pool takes {shape}")
        with jax.enable_x64(True):
            token, out = native(token, actions.reshape(shape).astype(np.dtype(spec.dtype)))
            observations, rewards, terminated, truncated, info = out
            flat = _flatten(env.layout, env.seen(observations, info), env.num_envs).astype(env.layout.dtype)
            score = episode_info(info, truncated)
            rewards = rewards.astype(jnp.float32)
            score = {name: x if x.dtype == bool else x.astype(jnp.float32) for name, x in score.items()}
        return token, Step(flat, rewards, terminated, truncated, None, score)

    return handle, step


def _flatten(parts: Layout, observations: Any, rows: int) -> Shaped[Array, "PN O"]:
    """`runner.envs.observations.flatten_observations` for arrays of a compiled program."""
    if not parts.children:
        return observations.reshape(rows, -1)
    columns = [
        _flatten(part, observations[key] if isinstance(observations, Mapping) else observations[int(key)], rows)
        for key, part in parts.children
    ]
    return jnp.concatenate([column.astype(jnp.result_type(*columns)) for column in columns], 1)

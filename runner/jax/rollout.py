"""Collect T steps of every environment of every member, in one compiled program.

Axes: P member · T rollout step · N environment · O observation · A action.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Num

from runner.envs.base import ABSENT, VectorEnv
from runner.envs.spaces import ActionSpace
from runner.envs.tensors import TensorEnv
from runner.jax import accelerate
from runner.jax.stepping import Step, array, stepper
from runner.networks.policies import Distribution
from runner.training.episodes import following
from runner.training.tracking import ACT_TIME, ENVIRONMENT_TIME, ROLLOUT_TIME


class Rollout(NamedTuple):
    """Experience; `[T, P, N, …]` as collected, `[T, N, …]` inside an update, which is of one member.

    Attributes:
        observations: raw; one more step than the rest.
        actions: unclipped samples, or categories.
        outputs: the policy's means or logits that the actions were drawn from.
        rewards: as the environment gave them.
        terminated: the episode reached a true end at this step.
        ended: terminated or truncated.
        valid: False for the row after an episode end, and where an agent is not there: no experience.
        final_observations: what followed the steps that ended an episode, where that is not the next observation:
            environments that reset at once. None for all others.
        carry: what networks remembered before each sequence's first step; None for those that remember nothing.
    """

    observations: Num[Array, "*T1PN O"]
    actions: Num[Array, "*TPN K"]
    outputs: Float[Array, "*TPN W"]
    rewards: Float[Array, "*TPN"]
    terminated: Bool[Array, "*TPN"]
    ended: Bool[Array, "*TPN"]
    valid: Bool[Array, "*TPN"]
    final_observations: Num[Array, "*TPN O"] | None
    carry: Float[Array, "*KPN M"] | None = None

    def begins(self) -> Bool[Array, "T1 N"]:
        """Observations that begin an episode: after a reset row, or after an end where environments reset at once.

        Of the first ones this is known before the rollout: there the carry is zero.
        """
        over = ~self.valid
        if self.final_observations is not None:
            over = over | self.ended
        return jnp.concatenate((jnp.zeros_like(over[:1]), over))


class _Standing(NamedTuple):
    """The point at which the environments stand between rollouts."""

    token: Array
    carry: Any
    observations: Num[Array, "P N O"]
    absent: Bool[Array, "P N"]


Act = Callable[[Any, Any, Array, Array, Array | None], tuple[Any, Array, Array]]
"""(one member's policy, carry, raw observations `[N, O]`, noise `[N, W]`, whether at random) → (carry, policy outputs
`[N, W]`, actions `[N, K]`)."""
EnvActions = Callable[[Array], Array]
"""Actions `[P, N, K]` → what the environment takes, `[P·N, …]`."""


class Collector:
    """Steps the environments in a compiled program and remembers, between rollouts, where each of them stands.

    Attributes:
        episodes: that it counts.
        spent: metric → seconds that its parts took since somebody took note of them.
    """

    def __init__(
        self,
        env: VectorEnv,
        members: int,
        env_actions: EnvActions,
        act: Act,
        carry: Any = None,
        sequence: int = 1,
        team_return: str = "sum",
        processes: int = 1,
    ) -> None:
        """Reset `env` (P·N environments, member-major) and count episodes, those of all `processes` together.

        Networks begin with `carry`, `[P, N, M]` zeros or None; a rollout keeps what they remembered before each
        sequence of so many steps.
        """
        self.env = env  # whose address the compiled program holds
        self.episodes = following(env, members, team_return, processes, accelerate.gather)
        self.spent: dict[str, float] = defaultdict(float)
        self._act, self._env_actions, self._sequence = act, env_actions, sequence
        # The first reset and every later step must come from one side only: the pool has no lock.
        observations: Any
        absent: Any
        if isinstance(env, TensorEnv):
            observations, absent = array(env.reset_arrays()), None if env.absent is None else array(env.absent)
        else:
            observations, info = env.reset()
            absent = info.get(ABSENT)
        token, self._step, self._host = stepper(env)
        shape = (members, env.num_envs // members)
        absent = np.zeros(shape, bool) if absent is None else absent.reshape(shape)
        self._standing = _Standing(*accelerate.put((token, carry, observations.reshape(*shape, -1), absent)))
        # On a GPU a scan is driven from the host all the same, and EnvPool's XLA functions may end the process.
        self._walks = isinstance(env, TensorEnv) or accelerate.sees_gpu()
        stepped = self._device_step if isinstance(env, TensorEnv) else self._host.step
        self._program: Any = partial(self._walk, stepped) if self._walks else jax.jit(self._collect, donate_argnums=0)
        self._acts, self._ends = jax.jit(self._acted), jax.jit(self._whole)
        self._writes = jax.jit(self._written, static_argnums=0, donate_argnums=1)

    def compile(
        self, policy: Any, noise: Float[np.ndarray, "T P N W"], random: Bool[np.ndarray, " T"] | None = None
    ) -> Rollout:
        """Compile for arguments of these shapes, without a step.

        Returns:
            The shapes of a rollout.
        """
        if self._walks:
            shapes = self._host.shapes()
            if isinstance(self.env, TensorEnv):
                shapes = shapes._replace(final_observations=None, score={})
            nothing = accelerate.zeros(shapes)
            return self._walk(lambda actions: nothing, self._standing, policy, noise, random)[1]
        lowered = self._program.lower(self._standing, policy, noise, random)
        self._program = lowered.compile()
        return lowered.out_info[1]

    def collect(
        self, policy: Any, noise: Float[np.ndarray, "T P N W"], random: Bool[np.ndarray, " T"] | None = None
    ) -> Rollout:
        """T steps of every environment, one per row of `noise`, those in `random` by no policy; done when this returns.

        Raises:
            Exception: whatever a Python environment raises.
        """
        began = time.perf_counter()
        with self._host.errors():
            self._standing, rollout, score = self._program(self._standing, policy, noise, random)
            jax.block_until_ready((self._standing, rollout, score))
        self._count(time.perf_counter() - began)
        rewards, ended, valid = (
            np.asarray(x).reshape(len(noise), -1) for x in (rollout.rewards, rollout.ended, rollout.valid)
        )
        own = {name: np.asarray(x) for name, x in score.items()}
        self.episodes.add(rewards, ended, valid, [{name: x[t] for name, x in own.items()} for t in range(len(noise))])
        if isinstance(self.env, TensorEnv):
            self.env.tell(ended.any())
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
        self, standing: _Standing, policy: Any, noise: Float[Array, "T P N W"], random: Bool[Array, " T"] | None
    ) -> tuple[_Standing, Rollout, dict[str, Array]]:
        def one_step(standing: _Standing, now: tuple[Array, Array | None]) -> tuple[_Standing, Any]:
            carry, outputs, actions, chosen = self._acted(standing, policy, *now)
            token, step = self._step(standing.token, chosen)
            after, row = self._happened(standing._replace(token=token), carry, outputs, actions, step)
            return after, (row, step.score)

        standing, (rows, score) = jax.lax.scan(one_step, standing, (noise, random))
        return standing, self._whole(rows, standing.observations), score

    def _walk(
        self,
        step: Callable[[Array], Step],
        standing: _Standing,
        policy: Any,
        noise: Float[np.ndarray, "T P N W"],
        random: Bool[np.ndarray, " T"] | None,
    ) -> tuple[_Standing, Rollout, dict[str, Any]]:
        """`_collect` on a GPU, or with an environment whose arrays are on a device: each step is called from here."""
        memory, scores = None, list[dict[str, Any]]()
        for t in range(len(noise)):
            at_random = None if random is None else random[t]
            carry, outputs, actions, chosen = self._acts(standing, policy, noise[t], at_random)
            happened = step(chosen)
            scores.append(happened.score)
            seen = happened._replace(score={})
            standing, memory = self._writes(len(noise), memory, np.int32(t), standing, carry, outputs, actions, seen)
        score = {name: np.stack([one[name] for one in scores]) for name in scores[0]}
        return standing, self._ends(memory, standing.observations), score

    def _device_step(self, actions: Array) -> Step:
        assert isinstance(self.env, TensorEnv)
        began = time.perf_counter()
        *arrays, final = self.env.step_arrays(actions)
        observations, rewards, terminated, truncated = map(array, arrays)
        last, absent = (None if x is None else array(x) for x in (final, self.env.absent))
        step = Step(observations, rewards, terminated, truncated, last, {}, absent)
        self._host.seconds += time.perf_counter() - began
        return step

    def _acted(self, standing: _Standing, policy: Any, noise: Array, random: Array | None) -> Any:
        """The carry after, what networks gave, actions, and what the environment takes."""
        act = jax.vmap(self._act, (0, 0, 0, 0, None))
        carry, outputs, actions = act(policy, standing.carry, standing.observations, noise, random)
        return carry, outputs, actions, self._env_actions(actions)

    def _happened(
        self, standing: _Standing, carry: Any, outputs: Array, actions: Array, step: Step
    ) -> tuple[_Standing, Rollout]:
        """The standing after a step, and its experience."""
        shape = standing.absent.shape
        rewards, terminated, truncated = (x.reshape(shape) for x in (step.rewards, step.terminated, step.truncated))
        ended = terminated | truncated
        # The next row begins an episode: after a reset row, or right after an end that resets at once.
        begins = (standing.absent | ended if self.env.resets_at_once else standing.absent)[:, :, None]
        absent = jnp.zeros_like(ended) if self.env.resets_at_once else ended
        after = standing._replace(
            carry=jax.tree.map(lambda x: jnp.where(begins, 0, x), carry),
            observations=step.observations.reshape(standing.observations.shape),
            absent=absent if step.absent is None else step.absent.reshape(shape),
        )
        final = step.final_observations
        if final is None and self.env.resets_at_once:
            # Where nobody knows what followed, it is what was before.
            final = standing.observations
        row = Rollout(
            standing.observations,
            actions,
            outputs,
            rewards,
            terminated,
            ended,
            ~standing.absent,
            None if final is None else final.reshape(standing.observations.shape),
            standing.carry,
        )
        return after, row

    def _written(
        self, steps: int, memory: Rollout | None, t: Array, standing: _Standing, *happened: Any
    ) -> tuple[_Standing, Rollout]:
        """`_happened`, its experience as step `t` of the memory of so many steps, which the first one makes.

        A program that puts them together in the end would take a minute to compile for 2,048 steps.
        """
        after, row = self._happened(standing, *happened)
        if memory is None:
            memory = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), row)
        return after, jax.tree.map(lambda rows, x: jax.lax.dynamic_update_index_in_dim(rows, x, t, 0), memory, row)

    def _whole(self, rollout: Rollout, observations: Array) -> Rollout:
        """With the observations after the last step, and the carry of each sequence in place of each step."""
        carry = jax.tree.map(lambda x: x[:: self._sequence], rollout.carry)
        return rollout._replace(observations=jnp.concatenate((rollout.observations, observations[None])), carry=carry)


def env_actions(distribution: Distribution, space: ActionSpace, clip: bool) -> EnvActions:
    """Policy actions → what the environment takes, of 32-bit numbers: clipped to its bounds if asked."""

    # Outside a compiled program, each of its operations would take as long as a small policy.
    @jax.jit
    def taken(actions: Num[Array, "P N K"]) -> Array:
        flat = actions.reshape(-1, actions.shape[2])
        if space.discrete:
            if distribution.joint:
                flat = jnp.stack(jnp.unravel_index(flat[:, 0], distribution.factors), 1)
            return (flat + space.low.astype(np.int32)).reshape(-1, *space.shape)
        if clip:
            flat = jnp.clip(flat, space.low, space.high)
        # A diverged member's numbers must not reach the pool that it shares with its pack.
        return jnp.where(jnp.isfinite(flat), flat, space.rest).reshape(-1, *space.shape)

    return taken


def experience_of(rollout: Rollout, member: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A member's rewards, which of them are experience, and its observations, `[T, N, …]`."""
    rewards, valid, observations = (
        np.asarray(x)[:, member] for x in (rollout.rewards, rollout.valid, rollout.observations)
    )
    return rewards, valid, observations


def whole(rollout: Rollout) -> Rollout:
    """The rollout of the environments of all processes of the group, by the parts that they call this with."""
    found: Rollout = accelerate.gathered(rollout, 2)
    return found

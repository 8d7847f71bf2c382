"""The training loop of one pack on JAX: collect → update, each one compiled program.

Axes: P member · T rollout step · N environment · A action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Num

from runner.envs.base import VectorEnv
from runner.envs.spaces import ActionSpace, Layout
from runner.jax import accelerate, distributions, models
from runner.jax.preprocessors import Scaler, Statistics
from runner.jax.rollout import Collector, Rollout, env_actions
from runner.jax.update import Learner, Optimizer, Rules, update
from runner.training import learning
from runner.training.pack import Hyper, Pack, program_key
from runner.training.snapshots import Snapshot, StackedMoments
from runner.training.tracking import Report


class Learning(learning.Learning):
    """P members in training on JAX."""

    _learner: Learner

    @accelerate.own_settings()
    def __init__(self, pack: Pack, observations: Layout, actions: ActionSpace) -> None:
        """Initialise every member from its own seed."""
        accelerate.keep_programs()
        super().__init__(pack, observations, actions)
        two_rates = self._of_value is not None
        self._rules = Rules(self.network, self._entropy, two_rates, program_key(pack.static), pack.static)
        self._hyper = jax.device_put(pack.hyper.effective())
        # Outside a compiled program, each of its operations would take as long as a small policy.
        self._compiled_env_actions = jax.jit(self._env_actions)

    @property
    def compiles(self) -> bool:
        """See the base class."""
        return True

    @accelerate.own_settings()
    def choose(self, observations: np.ndarray, deterministic: bool, draw: int) -> np.ndarray:
        """Actions for the environment; see the base class."""
        rows = observations.reshape(self.pack.size, -1, observations.shape[1])
        policies = _policies(self._rules, self._learner)
        if deterministic:
            chosen = _modes(self._rules, policies, rows)
        else:
            noise, _ = self._noise("act", draw, 1, rows.shape[1])
            _, chosen = _samples(self._rules, policies, rows, noise[0])
        return np.asarray(self._compiled_env_actions(chosen))

    def train(self, env: VectorEnv, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
        """Train from where it stands to the configured length; see the base class."""
        config = self.pack.static
        envs = env.num_envs // self.pack.size
        steps = config.agent.rollouts
        with accelerate.own_settings():
            collector = Collector(env, self.pack.size, self._env_actions, partial(act, self._rules))
            self._compile(collector, steps, envs)

        @accelerate.own_settings()
        def iteration() -> tuple[np.ndarray, np.ndarray, Rollout] | None:
            noise, generators = self._noise("update", self.updates, steps, envs)
            rollout = collector.collect(_policies(self._rules, self._learner), noise, self._random(steps))
            if not self._learns:
                return None
            arguments = self._learn_arguments(rollout, generators)
            self._learner, numbers, finite = _learn(self._rules, *arguments)
            return np.asarray(numbers), np.asarray(finite), rollout

        yield self._ready()
        yield from self._follow(iteration, collector, stop)

    def _compile(self, collector: Collector, steps: int, envs: int) -> None:
        """Compile everything that training runs, and run the update once on nothing."""
        noise, generators = self._noise("update", 0, steps, envs)
        policies = _policies(self._rules, self._learner)
        with accelerate.not_kept():
            shapes = collector.compile(policies, noise, self._random(steps))
        rollout = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        before = self._get()
        arguments = self._learn_arguments(rollout, generators)
        jax.block_until_ready(_learn(self._rules, *arguments))
        # The program has taken over the learner's memory.
        self._put(before)

    def _learn_arguments(self, rollout: Rollout, generators: list[np.random.Generator]) -> tuple[Any, ...]:
        steps, _, envs = rollout.rewards.shape
        # Drawn in this order by both backends.
        orders, shifts = self._orders(steps * envs, generators), self._shifts(steps * envs, generators)
        return self._learner, rollout, orders, self._hyper, np.array(self.alive), self._rates(), shifts

    def _env_actions(self, actions: Array) -> Array:
        """What the environment takes of actions `[P, N, K]`."""
        return env_actions(actions, self.network.distribution, self.actions, self.pack.static.models.policy.clips)

    def _multiplies_bfloat16(self) -> bool:
        return accelerate.sees_gpu()

    def _of(self, member: int, experience: Array) -> np.ndarray:
        return np.asarray(experience)[:, member]

    @accelerate.own_settings()
    def _put(self, snapshot: Snapshot) -> None:
        self._learner = Learner(
            Optimizer(
                *jax.device_put(snapshot[:3]),
                *jax.device_put((snapshot.steps.astype(np.int32), snapshot.learning_rate)),
            ),
            _statistics(snapshot.observation_statistics),
            _statistics(snapshot.value_statistics),
        )

    @accelerate.own_settings()
    def _get(self) -> Snapshot:
        parameters, first, second, steps, rate = (np.array(x) for x in self._learner.optimizer)
        observation, value = self._learner.observation_statistics, self._learner.value_statistics
        return Snapshot(
            parameters, first, second, steps.astype(np.float32), rate, _fetched(observation), _fetched(value)
        )


class Policy(NamedTuple):
    """What acting needs of a learner, made ready once per rollout."""

    named: models.Parameters
    log_std: Array | None
    scaler: tuple[Array, Array] | None


def policy_of(rules: Rules, learner: Learner) -> Policy:
    """One member's policy as it is now."""
    named = models.cut(rules.network, learner.optimizer.parameters)
    scaler = rules.observation_scaler(learner.observation_statistics)
    return Policy(named, rules.log_std(named), scaler and (scaler.mean, scaler.std))


def outputs_of(rules: Rules, policy: Policy, observations: Num[Array, "N O"]) -> Float[Array, "N W"]:
    """Means or logits for raw observations."""
    if policy.scaler is not None:
        epsilon, clip, _ = rules.network.scaling
        observations = Scaler(*policy.scaler, epsilon, clip).normalize(observations)
    return models.policy(rules.network, policy.named, observations)


def act(
    rules: Rules,
    policy: Policy,
    observations: Num[Array, "N O"],
    noise: Float[Array, "N W"],
    random: Bool[Array, ""] | None = None,
) -> tuple[Float[Array, "N W"], Num[Array, "N K"]]:
    """Policy outputs for raw observations, and actions drawn with this noise, at `random` by no policy."""
    outputs, distribution = outputs_of(rules, policy, observations), rules.network.distribution
    actions = distributions.sample(distribution, outputs, policy.log_std, noise)
    if random is not None:
        actions = jnp.where(random, distributions.uniform(distribution, outputs, noise), actions)
    return outputs, actions


def mode(rules: Rules, policy: Policy, observations: Num[Array, "N O"]) -> Num[Array, "N K"]:
    """The most probable actions for raw observations."""
    return distributions.mode(rules.network.distribution, outputs_of(rules, policy, observations), policy.log_std)


def learn(
    rules: Rules,
    learner: Learner,
    rollout: Rollout,
    orders: Int[Array, "E B"] | None,
    hyper: Hyper,
    alive: Bool[Array, ""],
    rates: Float[Array, " E"] | None,
    shifts: Float[Array, "E B A"] | None,
) -> tuple[Learner, Float[Array, " C"], Bool[Array, ""]]:
    """One update of one member, unless a number in it is not finite, now or before.

    Args:
        rules: the program's.
        learner: before.
        rollout: T steps of every environment.
        orders: see `update`.
        hyper: the member's numbers.
        alive: whether the member learns.
        rates: see `update`.
        shifts: see `update`.

    Returns:
        The learner after, its numbers in the order of `runner.training.learning.COLUMNS`, and whether they are finite.
    """
    after, metrics, explained = update(learner, rollout, orders, hyper, alive, rules, rates, shifts)
    # Of a rollout without experience there are no numbers.
    defined = jnp.isfinite(jnp.stack(metrics)).all() | ~rollout.valid.any()
    finite = jnp.isfinite(after.optimizer.parameters).all() & defined
    log_std = rules.log_std(models.cut(rules.network, after.optimizer.parameters))
    spread = jnp.zeros_like(explained) if log_std is None else jnp.exp(log_std).mean()
    numbers = jnp.stack([*metrics, explained, after.optimizer.learning_rate, spread])
    accepted = finite & alive
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), after, learner), numbers, finite


_policies = accelerate.over_members(policy_of, [0])
_samples = accelerate.over_members(act, [0, 0, 0])
_modes = accelerate.over_members(mode, [0, 0])
_learn = accelerate.over_members(learn, [0, 1, 1, 0, 0, 0, 1], donate=[0])


def _statistics(moments: StackedMoments | None) -> Statistics | None:
    if moments is None:
        return None
    with jax.enable_x64(True):
        return Statistics(*jax.device_put(tuple(moments)))


def _fetched(statistics: Statistics | None) -> StackedMoments | None:
    return None if statistics is None else StackedMoments(*map(np.array, statistics))

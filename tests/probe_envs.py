"""Tiny gymnasium environments whose values under PPO are known exactly: they say what a trainer gets wrong.

The five of Andy Jones ("Debugging RL, without the agonizing pain") in order, each isolating one more part,
then one for truncation and one for reset rows. With discount γ and the best policy π*:

| probe | what it isolates | known values |
|---|---|---|
| `ConstantReward` | value loss, optimiser | V(0) = 1 |
| `ObservationReward` | gradient through the network to the observation | V(−1) = −1, V(+1) = 1 |
| `TwoSteps` | discounting, the way of rewards back through GAE | V(0) = γ, V(1) = 1 |
| `ActionReward` | advantage, policy loss | π*(0) = 1, V(0) = 1; uniform policy V(0) = 0 |
| `ActionObservationReward` | policy and value together | π*(−1) = 0, π*(+1) = 1, V = 1; uniform V = 0 |
| `Truncation` | time limits | V(0) = 1/(1 − γ) with bootstrap, less without: `truncation_value` |
| `PoisonReset` | reset rows (NEXT_STEP) | π* as above, episode return = episode length |

``discrete=False`` gives the Box variant (one action, bounds ±2). Where the action matters its reward is
``1 − (a − target)²``, ``target`` 0.5 (`ActionReward`) or 0.5 · observation: a Gaussian of mean μ and standard
deviation σ that the bounds do not clip has V = 1 − (μ − target)² − σ² (`gaussian_value`), best at μ = target.
Where the action does not matter it is ignored in both variants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

POISON = 1e6
OBSERVATION_SPACE = Box(-1.0, 1.0, (1,), np.float32)


def action_space(discrete: bool) -> Discrete | Box:
    """Two actions, or one number within ±2."""
    return Discrete(2) if discrete else Box(-2.0, 2.0, (1,), np.float32)


def action_reward(action: Any, sign: float, discrete: bool) -> float:
    """±1 for the right or wrong one of two actions, or ``1 − (a − 0.5 sign)²``."""
    if discrete:
        return 1.0 if int(action) == int(sign > 0) else -1.0
    return 1.0 - (float(np.asarray(action).reshape(())) - 0.5 * sign) ** 2


def gaussian_value(mean: float, std: float, target: float) -> float:
    """``E[1 − (a − target)²] = 1 − (μ − target)² − σ²`` for a ~ N(μ, σ)."""
    return 1.0 - (mean - target) ** 2 - std**2


def truncation_value(
    discount_factor: float, length: int, *, time_limit_bootstrap: bool = True, gae_lambda: float = 1.0
) -> float:
    """The one value V that `Truncation`'s observation has once learnt: the mean of its λ-returns.

    Over whole episodes, with j steps to go: ``R_j = 1 + γ ((1 − λ) V + λ R_{j−1})``, ``R_1 = 1`` (``1 + γ V``
    with bootstrap), ``V = mean_j R_j``; with bootstrap that is 1/(1 − γ). Written ``R_j = a_j + b_j V``.
    """
    decay = discount_factor * gae_lambda
    a, b = [1.0], [discount_factor if time_limit_bootstrap else 0.0]
    for _ in range(length - 1):
        a.append(1.0 + decay * a[-1])
        b.append(discount_factor * (1.0 - gae_lambda) + decay * b[-1])
    return float(np.mean(a) / (1.0 - np.mean(b)))


class Probe(gymnasium.Env[NDArray[np.float32], Any]):
    """An environment that shows one number, `state`; a probe says how it starts and what a step brings."""

    def __init__(self, discrete: bool = True) -> None:
        self.discrete = discrete
        self.observation_space = OBSERVATION_SPACE
        self.action_space = action_space(discrete)
        self.state = 0.0
        self.steps = 0

    def initial(self) -> float:
        """The observation that an episode starts with."""
        return 0.0

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        """(reward, terminated, truncated) of the step, which ``steps`` already counts; may set ``state``."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.steps, self.state = 0, self.initial()
        return np.array([self.state], np.float32), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        self.steps += 1
        reward, terminated, truncated = self.outcome(action)
        return np.array([self.state], np.float32), float(reward), terminated, truncated, {}

    def random_sign(self) -> float:
        return float(self.np_random.integers(2)) * 2.0 - 1.0


class ConstantReward(Probe):
    """One step, observation 0, reward 1: V(0) = 1."""

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        return 1.0, True, False


class ObservationReward(Probe):
    """One step, observation ±1 at random, reward = observation: V(s) = s."""

    def initial(self) -> float:
        return self.random_sign()

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        return self.state, True, False


class TwoSteps(Probe):
    """Observation 0, then 1; reward 0, then 1; two steps: V(0) = γ, V(1) = 1."""

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        self.state = 1.0
        return float(self.steps == 2), self.steps == 2, False


class ActionReward(Probe):
    """One step, observation 0, reward +1 for action 1 and −1 for action 0, or 1 − (a − 0.5)²."""

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        return action_reward(action, 1.0, self.discrete), True, False


class ActionObservationReward(Probe):
    """One step, observation ±1, reward ±1 by the sign that the action says, or 1 − (a − 0.5 observation)²."""

    def initial(self) -> float:
        return self.random_sign()

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        return action_reward(action, self.state, self.discrete), True, False


class Truncation(Probe):
    """Observation 0, reward 1, never terminated, truncated at step ``length``: `truncation_value`."""

    def __init__(self, discrete: bool = True, length: int = 5) -> None:
        super().__init__(discrete)
        self.length = length

    def outcome(self, action: Any) -> tuple[float, bool, bool]:
        return 1.0, False, self.steps >= self.length


PROBES: dict[str, type[Probe]] = {
    probe.__name__: probe
    for probe in (
        ConstantReward,
        ObservationReward,
        TwoSteps,
        ActionReward,
        ActionObservationReward,
        Truncation,
    )
}


def make_vector(
    probe: type[Probe] | Callable[..., Probe],
    num_envs: int,
    *,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
    **arguments: Any,
) -> SyncVectorEnv:
    """``num_envs`` of a probe as a gymnasium vector environment; NEXT_STEP is what EnvPool does."""
    return SyncVectorEnv([lambda: probe(**arguments)] * num_envs, autoreset_mode=autoreset_mode)


class PoisonReset(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """NEXT_STEP auto-reset whose dummy rows carry reward 1e6: a trainer that uses them is visibly ruined.

    Every step shows ±1 at random and rewards the action of its sign with 1 (the other with 0), or, with
    ``discrete=False``, gives 1 − (a − 0.5 observation)². Environment n terminates after
    ``length + n % stagger`` steps (``stagger=1``: all at once); the step after that is the dummy: action
    ignored, new episode's first observation, not terminated, not truncated. Best episode return = its length.
    An observation does not tell how many steps are to go, so V lies between 1 and a whole episode's
    discounted rewards.

    Options:
    - ``poison_observation``: the final observation, which a dummy row starts from and which a termination
      makes worthless, is 1e6 too: statistics that absorb it and values that bootstrap from it show it.
    - ``poison_info``: info holds EnvPool's ``reward`` and ``elapsed_step``. On a dummy row they are 1e6 and
      (as in Atari's episodic life) the old episode's count, not 0: returns read from ``info["reward"]`` and
      reset rows found by ``elapsed_step == 0`` show it.
    - ``truncate``: episodes are truncated, not terminated (then the final observation is never poisoned).

    ``dummy`` [N] says which rows of the latest step were dummies.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        length: int = 3,
        stagger: int = 3,
        discrete: bool = True,
        poison_observation: bool = False,
        poison_info: bool = False,
        truncate: bool = False,
    ) -> None:
        self.num_envs = num_envs
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}
        self.discrete = discrete
        bound = np.float32(POISON if poison_observation and not truncate else 1.0)
        self.single_observation_space = Box(-bound, bound, (1,), np.float32)
        self.single_action_space = action_space(discrete)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.lengths = length + np.arange(num_envs) % stagger
        self.final_observation = POISON if poison_observation and not truncate else None
        self.poison_info = poison_info
        self.truncate = truncate
        self.generators = [np.random.default_rng(n) for n in range(num_envs)]
        self.state = np.zeros((num_envs, 1), np.float32)
        self.elapsed = np.zeros(num_envs, np.int64)
        self.ended = np.zeros(num_envs, bool)
        self.dummy = np.zeros(num_envs, bool)

    def _sign(self, n: int) -> float:
        return float(self.generators[n].integers(2)) * 2.0 - 1.0

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        if seed is not None:
            seeds = [seed + n for n in range(self.num_envs)] if isinstance(seed, int) else list(seed)
            self.generators = [np.random.default_rng(s) for s in seeds]
        self.state = np.array([[self._sign(n)] for n in range(self.num_envs)], np.float32)
        self.elapsed[:], self.ended[:], self.dummy[:] = 0, False, False
        return self.state.copy(), self._info(np.zeros(self.num_envs))

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        rewards = np.zeros(self.num_envs)
        self.dummy = self.ended.copy()
        shown = self.elapsed.copy()  # a dummy row shows the old episode's count
        for n in range(self.num_envs):
            if self.dummy[n]:
                rewards[n], self.elapsed[n], self.ended[n] = POISON, 0, False
                self.state[n] = self._sign(n)
                continue
            reward = action_reward(actions[n], float(self.state[n, 0]), self.discrete)
            rewards[n] = max(reward, 0.0) if self.discrete else reward
            self.elapsed[n] += 1
            shown[n] = self.elapsed[n]
            self.ended[n] = self.elapsed[n] >= self.lengths[n]
            poisoned = self.ended[n] and self.final_observation is not None
            self.state[n] = self.final_observation if poisoned else self._sign(n)
        nobody = np.zeros(self.num_envs, bool)
        terminated, truncated = (nobody, self.ended.copy()) if self.truncate else (self.ended.copy(), nobody)
        return self.state.copy(), rewards, terminated, truncated, self._info(rewards, shown)

    def _info(self, rewards: NDArray[np.float64], elapsed: NDArray[np.int64] | None = None) -> dict[str, Any]:
        if not self.poison_info:
            return {}
        return {"reward": rewards.copy(), "elapsed_step": self.elapsed.copy() if elapsed is None else elapsed}

"""gymnasium's vector environments, of every auto-reset mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.wrappers.vector import (
    DictInfoToList,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    VectorizeTransformAction,
    VectorizeTransformObservation,
)

from runner.envs.base import Step, VectorEnv, of_spec
from runner.envs.observations import as_array, flatten_some, like, tensor_in
from runner.envs.tensors import attribute, autoreset_mode, final_observations, is_many
from runner.errors import UserError

OF_VECTOR = ("num_envs", "single_observation_space", "single_action_space")
OF_NUMPY = (
    DictInfoToList, NormalizeObservation, NormalizeReward, RecordEpisodeStatistics, VectorizeTransformAction,
    VectorizeTransformObservation,
)  # fmt: skip
"""Wrappers that fail on any other arrays."""
REFUSALS = (AssertionError, AttributeError, TypeError, ValueError, gymnasium.error.Error)
"""What environments raise that take one integer as their seed, when they are given several."""


class GymnasiumVector(VectorEnv):
    """A `gymnasium.vector.VectorEnv`.

    Arrays of torch and other libraries are read; whoever gives tensors gets actions as tensors.
    """

    rebuilds = False

    def __init__(self, env: gymnasium.vector.VectorEnv[Any, Any, Any]) -> None:
        """Wrap `env`.

        Raises:
            UserError: a space or wrapper that is not supported, or a vector environment that does not say its
                auto-reset mode.
        """
        vector = _vector(env)
        super().__init__(*(attribute(vector, name) for name in OF_VECTOR))
        self.env = vector
        self._mode = autoreset_mode(vector, AutoresetMode)
        _check_wrappers(vector, self._mode)
        self.resets_at_once = self._mode is not AutoresetMode.NEXT_STEP
        self._seeds: list[int] | None = None
        # These take one seed for each environment; of others the first reset will tell.
        self._several_seeds = True if isinstance(vector.unwrapped, SyncVectorEnv | AsyncVectorEnv) else None
        self._tensor: Any = None
        self._ended = np.zeros(self.num_envs, bool)

    def flatten(self, observations: Any, rows: int | None = None) -> np.ndarray:
        """Observations → `[N, O]` float32, a copy: some environments write the next observations over the last."""
        try:
            return super().flatten(observations, rows).copy()
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._name}: observations do not fit its single_observation_space {self.observation_space}: {error}"
            ) from None

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes, with the seeds of `seeded` if it was called."""
        observations, _ = self._reset()
        self._ended[:] = False
        self._tensor = tensor_in(observations)
        return self.flatten(observations), {}

    def _reset(self) -> Any:
        if self._seeds is None or self._several_seeds is False:
            return self.env.reset(seed=None if self._seeds is None else self._seeds[0])
        try:
            answer = self.env.reset(seed=self._seeds)
        except REFUSALS:
            if self._several_seeds:
                raise
            answer = self.env.reset(seed=self._seeds[0])
            self._several_seeds = False
            return answer
        self._several_seeds = True
        return answer

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        # A copy: wrappers and environments write into it.
        taken = np.array(self.actions.checked(actions, self.num_envs))
        answer = self.env.step(taken if self._tensor is None else like(self._tensor, taken))
        observations, info = answer[0], answer[4]
        rewards, terminated, truncated = (
            self._column(name, values, dtype)
            for name, values, dtype in zip(
                ("rewards", "terminations", "truncations"), answer[1:4], (np.float32, bool, bool), strict=True
            )
        )
        ended = terminated | truncated
        if not self.resets_at_once:
            # Reset rows carry no reward by contract, whatever an environment puts there.
            rewards = np.where(self._ended, np.float32(0), rewards)
            self._ended = ended
            return self.flatten(observations), rewards, terminated, truncated, {}
        flat, extra = self.flatten(observations), {}
        if ended.any():
            which = np.flatnonzero(ended)
            if self._mode is AutoresetMode.SAME_STEP:
                extra["final_observations"] = (which, self._final(info, which))
            else:
                extra["final_observations"] = (which, flat[which].copy())
                fresh, _ = self.env.reset(options={"reset_mask": ended})
                flat = self.flatten(fresh)
        return flat, rewards, terminated, truncated, extra

    def _column(self, name: str, values: Any, dtype: Any) -> np.ndarray:
        """One number for each environment, `[N]`."""
        array = as_array(values)
        if array.size != self.num_envs:
            raise UserError(f"{self._name}: step gives {name} of shape {array.shape}; allowed: {(self.num_envs,)}")
        return array.reshape(-1).astype(dtype)

    def _final(self, info: Any, which: np.ndarray) -> np.ndarray:
        """Final observations `[K, O]` of the environments `which` from a SAME_STEP info."""
        final = _final_observations(info)
        if final is None:
            raise UserError(
                f"{self._name}: episodes ended but info has no 'final_obs', which AutoresetMode.SAME_STEP promises; "
                'an environment that resets in the next step, or not by itself, says so in metadata["autoreset_mode"]'
            )
        rows = np.empty((len(which), self.observation_size), self.layout.dtype)
        try:
            flatten_some(self.layout, final, which, rows)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{self._name}: final observations in info do not fit its single_observation_space "
                f"{self.observation_space}: {error}"
            ) from None
        return rows

    @property
    def named(self) -> dict[str, Any]:
        """See the base class."""
        one = self.env.envs[0] if isinstance(self.env, SyncVectorEnv) else self.env
        return {} if isinstance(one, VectorWrapper) else of_spec(getattr(one, "spec", None))

    @property
    def _name(self) -> str:
        return type(self.env).__name__

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """Reset with these seeds from now on; the number of environments cannot change."""
        self.refuse_another_number(self._name, len(seeds))
        self._seeds = list(seeds)
        return self

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def is_single(env: Any) -> bool:
    """It is one environment, not many in one."""
    return isinstance(env, gymnasium.Env) and not is_many(env)


def _vector(env: Any) -> Any:
    """`env`, or the vector environment that it converts to another array library."""
    # Conversions to another array library would only be undone, and some do not know final observations.
    while _converts(env):
        env = env.env
    return env


def _converts(env: Any) -> bool:
    """It is gymnasium's `ArrayConversion`, or one of its kind; looked for by name, since it imports torch or JAX."""
    return any(
        f"{base.__module__}.{base.__name__}" == "gymnasium.wrappers.vector.array_conversion.ArrayConversion"
        for base in type(env).__mro__
    )


def _check_wrappers(env: Any, mode: AutoresetMode) -> None:
    """Refuse wrappers that give wrong numbers in this mode, in silence, or fail later without saying why.

    Raises:
        UserError: naming the wrapper, the mode and what is allowed.
    """
    outside = ""
    of_objects = mode is AutoresetMode.SAME_STEP and isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv)
    while isinstance(env, VectorWrapper):
        where = f"{type(env).__name__} with AutoresetMode.{mode.name}"
        if isinstance(env, NormalizeReward) and mode is AutoresetMode.DISABLED:
            raise UserError(
                f"{where}: it forgets all environments' returns when one is reset; allowed: NEXT_STEP or SAME_STEP"
            )
        if _converts(env) and (outside or of_objects):
            why = f"{outside} cannot read what it gives" if outside else "it cannot convert final observations"
            raise UserError(f"{where}: {why}; allowed: outside of all other wrappers, or none: numpy's arrays are read")
        if isinstance(env, OF_NUMPY):
            outside = type(env).__name__
        env = env.env


def _final_observations(info: Any) -> Any:
    """The same as `final_observations`, of a list of infos, too: structured as `flatten_some` takes them."""
    if isinstance(info, list):  # gymnasium's DictInfoToList
        found = [_final_observations(one) for one in info]
        return found if any(one is not None for one in found) else None
    return final_observations(info)

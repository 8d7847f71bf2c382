"""gymnasium spaces ↔ flat arrays: observations become `[N, O]` float32, actions `[N, A]` or `[N]` what the space wants.

Dict observations are flattened in sorted key order and a Discrete observation is one column, as skrl does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary

from runner.errors import UserError

LARGEST_FLAT_IMAGE = 4096
"""Pixels of an image that a plain linear network may still get as one flat row."""

UNBOUNDED = 1e30
"""Bounds beyond this are some library's way to say infinity."""


def observation_size(space: gymnasium.Space[Any], where: str = "observation space") -> int:
    """Width O of a flattened observation.

    Raises:
        UserError: a space or an image that a linear network cannot take.
    """
    if isinstance(space, Dict):
        return sum(observation_size(space[key], f"{where}[{key!r}]") for key in sorted(space.spaces))
    if isinstance(space, Box | MultiBinary):
        size = int(np.prod(space.shape))
        if space.dtype == np.uint8 and len(space.shape) >= 3 and size > LARGEST_FLAT_IMAGE:
            raise UserError(
                f"{where}: an image of shape {space.shape} ({size:,} numbers) is not flattened into a linear network; "
                "it needs convolutions, which are not supported yet"
            )
        return size
    if isinstance(space, Discrete):
        return 1
    raise UserError(
        f"{where}: {type(space).__name__} is not supported yet; allowed: Box, Discrete, MultiBinary and Dict of these"
    )


def flatten_observations(space: gymnasium.Space[Any], observations: Any, out: np.ndarray) -> None:
    """Write a batch of observations, structured as `space`, into `out` `[N, O]` float32."""
    if isinstance(space, Dict):
        column = 0
        for key in sorted(space.spaces):
            width = observation_size(space[key])
            flatten_observations(space[key], observations[key], out[:, column : column + width])
            column += width
    else:
        out[...] = np.reshape(observations, out.shape)


@dataclass(frozen=True)
class ActionSpace:
    """What the policy must produce and what the environment takes.

    Attributes:
        discrete: one integer below `size`, else `size` real numbers.
        size: number of actions, or of action dimensions (A).
        dtype: of the array that the environment gets.
        shape: of one environment's action.
        low: `[A]` lower bounds, Box only.
        high: `[A]` upper bounds, Box only.
        start: the integer that the first discrete action stands for.
    """

    discrete: bool
    size: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray
    start: int = 0

    @classmethod
    def of(cls, space: gymnasium.Space[Any]) -> ActionSpace:
        """Describe a gymnasium action space.

        Raises:
            UserError: neither Discrete nor a float Box.
        """
        if isinstance(space, Discrete):
            dtype = np.dtype(np.int64 if space.dtype is None else space.dtype)
            none = np.zeros(0, np.float32)
            return cls(True, int(space.n), dtype, (), none, none, int(space.start))
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
            with np.errstate(over="ignore"):  # ±1.8e308 is some library's way to say infinity
                low, high = (bound.reshape(-1).astype(np.float32) for bound in (space.low, space.high))
            return cls(False, int(np.prod(space.shape)), np.dtype(space.dtype), tuple(space.shape), low, high)
        raise UserError(f"action space: {space} is not supported yet; allowed: Discrete and Box of real numbers")

    @property
    def bounded(self) -> bool:
        """Every dimension has finite, usable bounds."""
        usable = (np.abs(self.low) < UNBOUNDED) & (np.abs(self.high) < UNBOUNDED) & (self.low < self.high)
        return not self.discrete and bool(usable.all())

    def check_policy(self, policy_class: str, clip_actions: bool) -> None:
        """Refuse a policy that cannot act here.

        Raises:
            UserError: Gaussian on Discrete, categorical on Box, or clipping to bounds that do not exist.
        """
        wanted = "CategoricalMixin" if self.discrete else "GaussianMixin"
        if policy_class != wanted:
            kind = f"Discrete({self.size})" if self.discrete else f"Box of {self.size} numbers"
            raise UserError(
                f"models.policy.class: {policy_class} cannot act in an action space {kind}; allowed here: {wanted}"
            )
        if clip_actions and not self.discrete and not self.bounded:
            raise UserError(
                "models.policy.clip_actions: True, but the action space has no finite bounds "
                f"(low {self.low.tolist()}, high {self.high.tolist()}); set it to False"
            )

    def checked(self, actions: Any, num_envs: int) -> np.ndarray:
        """Actions as the environment takes them, `[N, …]` in its dtype.

        A wrong shape, a non-finite number or a discrete action out of range would corrupt or abort some
        environments, so each is refused here.

        Raises:
            UserError: naming what was found and what is right.
        """
        try:
            array = np.asarray(actions)
        except ValueError as error:
            raise UserError(f"actions are not one array: {error}") from None
        shape = (num_envs, *self.shape)
        if array.shape != shape:
            if array.size != np.prod(shape) or array.shape[:1] != (num_envs,):
                raise UserError(f"actions of shape {array.shape}; this environment takes {shape}")
            array = array.reshape(shape)
        if self.discrete:
            if not np.issubdtype(array.dtype, np.integer):
                raise UserError(f"actions of type {array.dtype}; a Discrete({self.size}) space takes integers")
            low, high = self.start, self.start + self.size - 1
            if array.min() < low or array.max() > high:
                raise UserError(
                    f"action {array.min() if array.min() < low else array.max()} is out of range; "
                    f"allowed: {low} to {high}"
                )
        elif array.dtype.kind not in "fiu":
            raise UserError(f"actions of type {array.dtype}; a Box of {self.size} numbers takes real numbers")
        elif not np.isfinite(array).all():
            rows = np.flatnonzero(~np.isfinite(array.reshape(num_envs, -1)).all(1))
            raise UserError(f"actions of environments {rows[:8].tolist()} are not finite numbers")
        return array.astype(self.dtype, copy=False)

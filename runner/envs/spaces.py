"""gymnasium spaces as flat arrays: observations become `[N, O]`, actions `[N, A]` or `[N]` what the space wants.

Observations are flattened as skrl does: Dict in sorted key order (parts of `ASIDE` last), Tuple in order, a Discrete
one as one column, a MultiDiscrete one as one column per number. A space of nothing but uint8 numbers stays uint8, any
other becomes float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

from runner.errors import UserError, did_you_mean

UNBOUNDED = 1e30
"""Bounds beyond this are some library's way to say infinity."""
SMALLEST = float(np.finfo(np.float32).tiny)
"""Lower bounds above 0 up to this are some library's way to say minus infinity: C++'s `numeric_limits<T>::min()`."""
MASK, PRIVILEGED, LEGAL = "action_mask", "privileged_state", "legal_action_mask"
"""Parts of a Dict observation with a meaning of their own: actions that are possible now; what only the value network
may see (MuJoCo Playground); possible actions that come beside the observation (PGX)."""
LARGEST_CHOICE = 100_000
"""Values of one discrete action: beyond it a whole number is no category."""
LARGEST_JOINT = 100_000
"""Combinations of discrete actions that one mask may speak of."""
LARGEST_ACTION = 2**31 - 1
"""Largest discrete action, up or down: compiled programs count in 32 bits."""
ASIDE = (PRIVILEGED, LEGAL)
"""Parts that the token OBSERVATIONS does not stand for; their columns are the last ones."""
POLICY, CRITIC = "policy", "critic"
"""A Dict of nothing but these is two observations of one thing (Isaac Lab): OBSERVATIONS and STATES."""


@dataclass(frozen=True)
class Layout:
    """The places of an observation's parts in a flat row, and what they are.

    Attributes:
        start: first column.
        stop: column after the last.
        shape: of one observation; of a Dict or Tuple its flat form.
        image: three or more axes of uint8 numbers.
        byte: all numbers are uint8.
        categories: values that each column may take, for Discrete and MultiDiscrete; else empty.
        offset: the value of the first category, per column.
        children: parts of a Dict or Tuple by key, in order.
    """

    start: int
    stop: int
    shape: tuple[int, ...]
    image: bool = False
    byte: bool = False
    categories: tuple[int, ...] = ()
    offset: tuple[int, ...] = ()
    children: tuple[tuple[str, Layout], ...] = ()

    @classmethod
    def vector(cls, size: int) -> Layout:
        """A flat Box of `size` numbers."""
        return cls(0, size, (size,))

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the flat rows."""
        return np.dtype(np.uint8 if self.byte else np.float32)

    @property
    def has_image(self) -> bool:
        """It, or a part of it, is an image."""
        return self.image or any(child.has_image for _, child in self.children)

    @property
    def grouped(self) -> bool:
        """It is of what policies see, and perhaps of what critics see."""
        names = {name for name, _ in self.children}
        return POLICY in names and names <= {POLICY, CRITIC}

    @functools.cached_property
    def observed(self) -> Layout:
        """The part that the token OBSERVATIONS stands for."""
        if self.grouped:
            return dict(self.children)[POLICY]
        children = tuple(child for child in self.children if child[0] not in ASIDE)
        if len(children) == len(self.children):
            return self
        if len(children) == 1:
            return children[0][1]
        stop = children[-1][1].stop
        return Layout(self.start, stop, (stop - self.start,), byte=self.byte, children=children)

    @property
    def states(self) -> Layout:
        """The part that the token STATES stands for: the privileged one, or the observations where there is none."""
        return dict(self.children).get(CRITIC if self.grouped else PRIVILEGED, self.observed)

    @property
    def mask(self) -> Layout | None:
        """The part that says which actions are possible, where the environment does."""
        children = dict(self.children)
        return children.get(LEGAL, children.get(MASK))

    def at(self, keys: tuple[str | int, ...], where: str) -> Layout:
        """The part with these keys; those of a Tuple are numbers, negative ones from its end.

        Raises:
            UserError: there is none.
        """
        if not keys:
            return self
        children, key = dict(self.children), keys[0]
        if isinstance(key, int):
            key = str(key + len(children) if key < 0 else key)
        if key in children:
            return children[key].at(keys[1:], where)
        allowed = ", ".join(map(repr, children)) or "no key, it is one array"
        near = did_you_mean(key, children)
        if isinstance(keys[0], int):
            allowed = (
                ", ".join(children) or f"[:, {keys[0]}] for a number of every row; [{keys[0]}] is a row of the batch"
            )
            near = ""
        raise UserError(f"{where}: the observation has no {keys[0]!r}; allowed: {allowed}.{near}")


def layout(space: gymnasium.Space[Any], start: int = 0, where: str = "observation space") -> Layout:
    """The layout of observations of `space` in a flat row, from column `start` on.

    Raises:
        UserError: a space that is not supported.
    """
    if isinstance(space, Dict | Tuple):
        named = named_parts(space)
        children: list[tuple[str, Layout]] = []
        column = start
        for key, part in named:
            children.append((key, layout(part, column, f"{where}[{key!r}]")))
            column = children[-1][1].stop
        byte = bool(children) and all(child.byte for _, child in children)
        return Layout(start, column, (column - start,), byte=byte, children=tuple(children))
    if isinstance(space, Box | MultiBinary):
        shape = tuple(int(n) for n in space.shape)
        byte = space.dtype == np.uint8
        return Layout(start, start + int(np.prod(shape)), shape or (1,), byte and len(shape) >= 3, byte)
    if isinstance(space, Discrete):
        return Layout(start, start + 1, (1,), categories=(int(space.n),), offset=(int(space.start),))
    if isinstance(space, MultiDiscrete) and space.nvec.ndim == 1:
        sizes = tuple(int(n) for n in space.nvec)
        offset = tuple(int(n) for n in space.start)
        return Layout(start, start + len(sizes), (len(sizes),), categories=sizes, offset=offset)
    raise UserError(
        f"{where}: {type(space).__name__} is not supported; allowed: Box, Discrete, MultiDiscrete of one axis, "
        "MultiBinary, and Dict or Tuple of these"
    )


def named_parts(space: Dict | Tuple) -> list[tuple[str, gymnasium.Space[Any]]]:
    """Parts of a space by key, in the order in which they are flattened."""
    if isinstance(space, Dict):
        return [(key, space[key]) for key in sorted(space.spaces, key=lambda key: (key in ASIDE, key))]
    return [(str(index), part) for index, part in enumerate(space.spaces)]


@dataclass(frozen=True)
class ActionSpace:
    """The actions that an environment takes.

    Attributes:
        sizes: categories of every discrete action, K of them; empty where actions are real numbers.
        units: numbers that a policy network gives (A): one per action dimension, or one per category.
        dtype: of the array that the environment gets.
        shape: of one environment's action.
        low: `[A]` lower bounds of real numbers, float32 numbers within those of the space; `[K]` first categories of
            discrete actions.
        high: `[A]` upper bounds, of real numbers only.
        kind: for messages.
    """

    sizes: tuple[int, ...]
    units: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    low: np.ndarray
    high: np.ndarray
    kind: str

    @classmethod
    def of(cls, space: gymnasium.Space[Any]) -> ActionSpace:
        """Describe a gymnasium action space; a Box of whole numbers is a MultiDiscrete space, so is a MultiBinary one.

        Raises:
            UserError: another space, or one that no policy can act in.
        """
        if isinstance(space, Discrete):
            dtype = np.dtype(np.int64 if space.dtype is None else space.dtype)
            return cls._discrete(space, [int(space.n)], [int(space.start)], dtype, (), f"Discrete({space.n})")
        if isinstance(space, MultiDiscrete):
            kind = f"MultiDiscrete({space.nvec})"
            return cls._discrete(space, space.nvec, space.start, np.dtype(space.dtype), space.nvec.shape, kind)
        if isinstance(space, MultiBinary):
            twos = np.full(space.shape, 2)
            return cls._discrete(space, twos, 0 * twos, np.dtype(space.dtype), space.shape, f"MultiBinary({space.n})")
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and np.prod(space.shape):
            low, high = _within(space.low.ravel(), np.inf), _within(space.high.ravel(), -np.inf)
            units, dtype = int(np.prod(space.shape)), np.dtype(space.dtype)
            return cls((), units, dtype, tuple(space.shape), low, high, f"Box of {units} numbers")
        if isinstance(space, Box) and np.issubdtype(space.dtype, np.integer) and np.prod(space.shape):
            # Numbers of Python: their difference may need 65 bits.
            low, high = (bound.ravel().astype(object) for bound in (space.low, space.high))
            if (high - low).max() < LARGEST_CHOICE:
                return cls._discrete(space, high - low + 1, low, np.dtype(space.dtype), space.shape, str(space))
        raise _unsupported(space)

    @classmethod
    def _discrete(
        cls,
        space: gymnasium.Space[Any],
        sizes: Any,
        start: Any,
        dtype: np.dtype[Any],
        shape: Sequence[int],
        kind: str,
    ) -> ActionSpace:
        counts = tuple(int(n) for n in np.ravel(sizes))
        first = [int(n) for n in np.ravel(start)]
        largest = max((max(abs(f), abs(f + n - 1)) for f, n in zip(first, counts, strict=True)), default=0)
        if not counts or largest > LARGEST_ACTION:
            raise _unsupported(space)
        low, none = np.array(first, np.int64), np.zeros(0, np.float32)
        return cls(counts, sum(counts), dtype, tuple(shape), low, none, kind)

    @property
    def discrete(self) -> bool:
        """Actions are categories."""
        return bool(self.sizes)

    @property
    def policies(self) -> tuple[str, ...]:
        """Classes of policies that can act here."""
        if not self.discrete:
            return "GaussianMixin", "MultivariateGaussianMixin"
        return ("MultiCategoricalMixin",) if self.shape else ("CategoricalMixin",)

    @property
    def rest(self) -> np.ndarray:
        """`[A]` real numbers nearest to 0."""
        return np.clip(np.zeros_like(self.low), self.low, self.high)

    @property
    def bounded(self) -> bool:
        """Real numbers, of which some have a bound."""
        return not self.discrete and bool(np.isfinite([self.low, self.high]).any())

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
                raise UserError(f"actions of type {array.dtype}; a {self.kind} space takes integers")
            rows, last = array.reshape(num_envs, -1), self.low + self.sizes - 1
            wrong = (rows < self.low) | (rows > last)
            if wrong.any():
                env, place = np.argwhere(wrong)[0]
                raise UserError(
                    f"action {rows[env, place]} of environment {env} is out of range; "
                    f"allowed: {self.low[place]} to {last[place]}"
                )
        elif array.dtype.kind not in "fiu":
            raise UserError(f"actions of type {array.dtype}; a {self.kind} takes real numbers")
        elif not np.isfinite(array).all():
            unusable = np.flatnonzero(~np.isfinite(array.reshape(num_envs, -1)).all(1))
            raise UserError(f"actions of environments {unusable[:8].tolist()} are not finite numbers")
        return array.astype(self.dtype, copy=False)


def mask_columns(actions: ActionSpace, mask: Layout) -> tuple[tuple[int, ...], bool]:
    """A mask's column for every category, and whether it is of combinations; no columns where it fits neither."""
    count, largest = len(actions.sizes), max(actions.sizes)
    columns = np.arange(mask.start, mask.stop).reshape(mask.shape)
    if columns.shape in ((count, largest), (largest,)) and columns.size == count * largest:
        rows = columns.reshape(count, largest)
        return tuple(int(c) for row, n in zip(rows, actions.sizes, strict=True) for c in row[:n]), False
    if columns.shape == actions.sizes and columns.size <= LARGEST_JOINT:
        return tuple(columns.ravel().tolist()), True
    return (), False


def _within(bounds: np.ndarray, inside: float) -> np.ndarray:
    """Bounds as float32 numbers that are not beyond them; infinite where they are so large that they mean it.

    Args:
        bounds: of the space.
        inside: in which direction the space lies.
    """
    exact = bounds.astype(np.float64)
    infinite = (np.abs(exact) >= UNBOUNDED) | ((exact > 0) & (exact <= SMALLEST) & (inside > 0))
    nearest = np.where(infinite, 0, exact).astype(np.float32)
    beyond = nearest < exact if inside > 0 else nearest > exact
    nearest = np.where(beyond, np.nextafter(nearest, np.float32(inside)), nearest)
    return np.where(infinite, np.float32(-inside), nearest).astype(np.float32)


def _unsupported(space: gymnasium.Space[Any]) -> UserError:
    return UserError(
        f"action space: {space} is not supported; allowed: Discrete, MultiDiscrete, MultiBinary, and Box of real "
        f"numbers or of whole numbers with fewer than {LARGEST_CHOICE:,} values each; none empty, no whole number "
        f"beyond ±{LARGEST_ACTION:,}. Wrap the environment so that it takes one of these"
    )

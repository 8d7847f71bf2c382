"""Environments that are many in one, and whose arrays are on a device: of torch (Isaac Lab, ManiSkill), JAX or numpy.

They are known by what they have, not by their names:

- `num_envs`; the spaces of one, `single_observation_space` or `observation_space`, and so for actions;
- `reset() → (observations, info)` and `step(actions) → (observations, rewards, terminated, truncated, info)`, arrays
  `[N, …]`, numbers of one environment `[N]` or `[N, 1]`; `reset` may take a `seed`;
- observations that are a mapping with `policy` may have `critic` beside it, which is what STATES reads;
- an episode that ends is reset in the same step, unless `metadata["autoreset_mode"]` says that it is in the next;
- what it ended with is `info["final_obs"]`, `[N, …]`, if it is known; `info["time_outs"]` are truncations, too.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Dict, Discrete
from gymnasium.vector import AutoresetMode

from runner.envs.base import ABSENT, Step, VectorEnv, of_spec
from runner.envs.observations import as_array, check_shape, child, flatten_some, library_of
from runner.envs.spaces import CRITIC, POLICY, Layout
from runner.errors import UserError

log = logging.getLogger(__name__)

FINAL = ("final_obs", "final_observation")
"""Where an info has the last observations of ended episodes; gymnasium's name, and its name before 1.0."""
TIME_OUTS = "time_outs"
BY_ITSELF = AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP
"""Modes of what resets without being told to."""


class Arrays(NamedTuple):
    """One step in arrays of the environment's library; `final` is None where nothing is known of it."""

    observations: Any
    rewards: Any
    terminated: Any
    truncated: Any
    final: Any


class TensorEnv(VectorEnv):
    """Many environments in one; `reset` and `step` give numpy's arrays, `reset_arrays` and `step_arrays` its own.

    Attributes:
        absent: after either, what `info["absent"]` is of other environments; None where there is one agent.
    """

    rebuilds = False
    absent: Any = None

    def __init__(self, env: Any) -> None:
        """Wrap `env`.

        Raises:
            UserError: a space that is not supported.
        """
        self.env = env
        observed, actions = (_space(env, name) for name in ("observation_space", "action_space"))
        super().__init__(int(attribute(env, "num_envs")), _groups(env, observed), actions)
        self.resets_at_once = autoreset_mode(env, BY_ITSELF, AutoresetMode.SAME_STEP) is AutoresetMode.SAME_STEP
        # Isaac Lab's and skrl's environments take a column of categories, gymnasium's a row.
        column = isinstance(actions, Discrete) and not isinstance(env, gymnasium.vector.VectorEnv)
        self._action_shape = (self.num_envs, 1) if column else (self.num_envs, *self.actions.shape)
        self._beside = self.layout.grouped and not isinstance(observed, Dict)
        self._states = attribute(env, "state", None) if self._beside else None
        self._seed: int | None = None
        self._before: Any = None
        self._ended: Any = None
        self._knows_final = False

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes, with the first seed of `seeded` if it was called."""
        return as_array(self.reset_arrays()), self._told()

    def step(self, actions: Any) -> Step:
        """Step every environment; see the base class."""
        before, arrays = self._before, self.step_arrays(self.actions.checked(actions, self.num_envs))
        observations, rewards, terminated, truncated = map(as_array, arrays[:4])
        which = np.flatnonzero(terminated | truncated)
        if not (self.resets_at_once and len(which)):
            return observations, rewards, terminated, truncated, self._told()
        self.tell(True)
        final = as_array(before if arrays.final is None else arrays.final)[which]
        info = {"final_observations": (which, final)} | self._told()
        return observations, rewards, terminated, truncated, info

    def _told(self) -> dict[str, Any]:
        return {} if self.absent is None else {ABSENT: as_array(self.absent)}

    def reset_arrays(self) -> Any:
        """Start new episodes → observations `[N, O]`, which nobody else writes into."""
        self._before, self._ended = self._flat(self._reset_observations()), None
        return self._before

    def _reset_observations(self) -> Any:
        takes_seed = self._seed is not None and _takes_seed(self.env)
        answer = self.env.reset(seed=self._seed) if takes_seed else self.env.reset()
        return self._parts("reset", answer, "(observations, info)", 2)[0]

    def step_arrays(self, actions: Any) -> Arrays:
        """One step of every environment.

        Args:
            actions: `[N, …]` of any library that knows DLPack, within the action space.
        """
        allowed = "(observations, rewards, terminated, truncated, info)"
        answer = self._parts("step", self.env.step(self._own(actions)), allowed, 5)
        library, info = library_of(self._before), answer[4] if isinstance(answer[4], Mapping) else {}
        rewards = self._column("rewards", answer[1], library.float32)
        terminated, truncated = (
            self._column(name, flags, library.bool)
            for name, flags in zip(("terminations", "truncations"), answer[2:4], strict=True)
        )
        if info.get(TIME_OUTS) is not None:
            told = self._column(TIME_OUTS, info[TIME_OUTS], library.bool) & ~truncated
            terminated, truncated = terminated & ~told, truncated | told
        if not self.resets_at_once:
            # Reset rows carry no reward by contract, whatever an environment puts there.
            if self._ended is not None:
                rewards = library.where(self._ended, library.zeros_like(rewards), rewards)
            self._ended = terminated | truncated
        final = self._final(info, terminated | truncated) if self.resets_at_once else None
        self._before = self._flat(answer[0])
        return Arrays(self._before, rewards, terminated, truncated, final)

    def tell(self, ended: Any) -> None:
        """Say once, when an episode has ended, what follows from nobody knowing what it ended with."""
        if self.resets_at_once and not self._knows_final and ended:
            self._knows_final = True
            log.warning(
                "%s resets in the step in which an episode ends, and its info has no %r: truncated episodes bootstrap "
                "from the value of the last observation before that step",
                *(self._name, FINAL[0]),
            )

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """Reset with the first of these seeds from now on; the number of environments cannot change."""
        self.refuse_another_number(self._name, len(seeds))
        self._seed = seeds[0]
        return self

    def close(self) -> None:
        """Close the environment, where it can be."""
        getattr(self.env, "close", lambda: None)()

    @property
    def named(self) -> dict[str, Any]:
        """See the base class."""
        return of_spec(getattr(self.env, "spec", None))

    @property
    def _name(self) -> str:
        return type(getattr(self.env, "unwrapped", self.env)).__name__

    def _parts(self, what: str, answer: Any, allowed: str, number: int) -> Any:
        if not isinstance(answer, tuple | list) or len(answer) != number:
            found = f"{len(answer)} things" if isinstance(answer, tuple | list) else type(answer).__name__
            raise UserError(f"{self._name}: {what} gives {found}; allowed: {allowed}")
        return answer

    def _flat(self, observations: Any) -> Any:
        """Observations → `[N, O]`, a copy: such environments often write the next ones over the last."""
        if self._beside and not isinstance(observations, Mapping):
            if not callable(self._states):
                found = "no state" if self._states is None else f"as state {type(self._states).__name__}"
                allowed = f"a method state() that gives arrays [N, …], or observations with {POLICY} and {CRITIC}"
                raise UserError(f"{self._name}: has a state_space, and {found}; allowed: {allowed}")
            observations = {POLICY: observations, CRITIC: self._states()}
        return self._observed(self.layout, observations)

    def _observed(self, parts: Layout, observations: Any) -> Any:
        space = f"its observation space {self.observation_space}"
        return self._columns(parts, observations, "observations", space, self.layout.dtype.name)

    def _columns(
        self, parts: Layout, values: Any, what: str, space: str = "their space", dtype: str = "float32"
    ) -> Any:
        """Arrays structured as a layout → `[N, columns]`, a copy."""
        try:
            if isinstance(values, Mapping) and not parts.children:
                values = values[POLICY]
            found = list(leaves(parts, values))
            library = library_of(found[0][1])
            kind, copy = getattr(library, dtype), True if len(found) == 1 else None
            for part, leaf in found:
                check_shape(part, tuple(np.shape(leaf)), self.environments)
                if dtype == "uint8" and "float" in str(getattr(leaf, "dtype", "")):
                    raise ValueError(f"found numbers of type {leaf.dtype}; allowed: uint8")
            columns = [
                library.asarray(leaf, dtype=kind, copy=copy).reshape(self.environments, part.stop - part.start)
                for part, leaf in found
            ]
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(f"{self._name}: {what} do not fit {self.environments} of {space}: {error}") from None
        return columns[0] if len(columns) == 1 else library.concat(columns, 1)

    def _column(self, name: str, values: Any, dtype: Any) -> Any:
        """One number for each environment, `[N]`, a copy."""
        try:
            column = library_of(self._before).asarray(_without_tape(values), dtype=dtype, copy=True)
        except (RuntimeError, TypeError, ValueError) as error:
            found = f"as {name} {type(values).__name__}, which is no array: {error}"
            raise UserError(f"{self._name}: step gives {found}; allowed: an array {(self.environments,)}") from None
        if tuple(column.shape) not in (allowed := ((self.environments,), (self.environments, 1))):
            found = f"{name} of shape {tuple(column.shape)}"
            raise UserError(f"{self._name}: step gives {found}; allowed: {allowed[0]} or {allowed[1]}")
        return column.reshape(self.environments)

    def _final(self, info: Mapping[str, Any], ended: Any) -> Any:
        """Final observations `[N, O]`; the rows of environments whose episode goes on mean nothing."""
        final = final_observations(info)
        if final is None:
            return None
        self._knows_final = True
        many = isinstance(final, list) or getattr(getattr(final, "dtype", None), "hasobject", False)
        one = next((some for some in final if some is not None), None) if many else final
        # States that are not among them are those of the next episodes by now.
        lack = self._beside and not isinstance(one, Mapping)
        parts = self.layout.observed if lack else self.layout
        if not many:
            flat = self._observed(parts, final)
            return library_of(flat).concat((self._before[:, : parts.start], flat), 1) if lack else flat
        rows, which = np.zeros((self.num_envs, self.observation_size), self.layout.dtype), np.flatnonzero(ended)
        some = as_array(self._before)[which]
        flatten_some(parts, final, which, some)
        rows[which] = some
        return rows

    def _own(self, actions: Any) -> Any:
        """Actions as the environment takes them, a copy: some write into it."""
        library = library_of(self._before)
        if not isinstance(actions, np.ndarray) and library_of(actions) is not library:
            # Libraries hand each other what is on a device that both know: a GPU's actions go to numpy by the host.
            beside = actions.__dlpack_device__() == self._before.__dlpack_device__()
            actions = library.from_dlpack(actions) if beside else as_array(actions)
        torch = library is sys.modules.get("torch")
        # JAX counts in 32 bits.
        dtype = self.actions.dtype if torch or library is np else np.dtype(f"{self.actions.dtype.kind}4")
        where = {"device": self._before.device} if torch else {}
        taken = library.asarray(actions, dtype=getattr(library, dtype.name), copy=True, **where)
        return taken.reshape(self._action_shape)


def is_many(env: Any) -> bool:
    """True for what this module reads: many environments in one, on a device if gymnasium knows it as many."""
    count = attribute(env, "num_envs", None)
    if count is None or not all(callable(getattr(env, name, None)) for name in ("reset", "step")):
        return False
    if isinstance(env, gymnasium.vector.VectorEnv):
        return getattr(env, "device", None) is not None and env.metadata.get("autoreset_mode") in BY_ITSELF
    spaces = [_space(env, name, None) for name in ("observation_space", "action_space")]
    alone = isinstance(env, gymnasium.Env) and attribute(env, "single_observation_space", None) is None and count == 1
    return not alone and all(isinstance(space, gymnasium.Space) for space in spaces)


def attribute(env: Any, name: str, *default: Any) -> Any:
    """An attribute of an environment, or of what it wraps."""
    try:
        return env.get_wrapper_attr(name) if isinstance(env, gymnasium.Env) else getattr(env, name)
    except AttributeError:
        if default:
            return default[0]
        raise UserError(
            f"{type(env).__name__}: a vector environment without {name}; allowed: one that has it"
        ) from None


def autoreset_mode(env: Any, allowed: Iterable[AutoresetMode], *default: AutoresetMode) -> AutoresetMode:
    """The auto-reset mode of an environment: what it does when an episode ends."""
    mode = (attribute(env, "metadata", None) or {}).get("autoreset_mode", *default)
    for one in allowed:
        if mode in (one, one.value):
            return one
    names = ", ".join(f"AutoresetMode.{one.name}" for one in allowed)
    raise UserError(
        f'{type(env).__name__}: metadata["autoreset_mode"] is {mode!r}; allowed: {names}. '
        "Without it an episode's last observation cannot be told from the next one's first"
    )


def final_observations(info: Mapping[str, Any]) -> Any:
    """The final observations in an info; None where there are none."""
    return next((info[name] for name in FINAL if info.get(name) is not None), None)


def _space(env: Any, name: str, *default: Any) -> Any:
    single = attribute(env, f"single_{name}", None)
    return attribute(env, name, *default) if single is None else single


def _groups(env: Any, space: gymnasium.Space[Any]) -> gymnasium.Space[Any]:
    """The observation space, of its groups only those that are read: `policy` and `critic`."""
    states = attribute(env, "state_space", None)
    if not isinstance(space, Dict):
        return space if not isinstance(states, gymnasium.Space) else Dict({POLICY: space, CRITIC: states})
    if POLICY not in space.spaces:
        return space
    if unread := [name for name in space.spaces if name not in (POLICY, CRITIC)]:
        log.warning("observations: the groups %s are not read; %s and %s are", ", ".join(unread), POLICY, CRITIC)
    return Dict({name: space[name] for name in (POLICY, CRITIC) if name in space.spaces})


def _takes_seed(env: Any) -> bool:
    parameters = inspect.signature(env.reset).parameters.values()
    return any(p.name == "seed" or p.kind is p.VAR_KEYWORD for p in parameters)


def leaves(parts: Layout, observations: Any) -> Iterator[tuple[Layout, Any]]:
    """(layout, array `[N, …]`) of every array in a batch of observations."""
    if not parts.children:
        yield parts, _without_tape(observations)
    for key, part in parts.children:
        yield from leaves(part, child(observations, key))


def _without_tape(array: Any) -> Any:
    return array.detach() if hasattr(array, "detach") else array

"""The vector environment that runners step: flat float32 observations, one kind of episode end.

Contract, whatever is below: `step` returns what gymnasium's vector environments return, and

- after an episode end the next row of that environment is a *reset row*: its action is ignored, its reward is 0, and
  it is not experience (gymnasium's NEXT_STEP auto-reset); `observations` of the ending step is the true final one;
- or, where the environment resets at once (`resets_at_once`), `observations` of the ending step already belongs to the
  next episode and `info["final_observations"]` is `(indices [K], observations [K, O])` of the episodes that ended.

Of environments of several agents (`agents`, see `runner.envs.agents`) each row is an agent's, `num_envs` is the number
of rows, and `info["absent"]` of `reset` and `step`, `[N]`, says at which of them nobody is there to act next: those
whose agent has not come yet or has gone, whose episode has just ended unless all have been reset at once, and those
that only fill up. They are no experience, whatever is in them; their rewards are 0 and they do not end.

`info["episode_rewards"]` and `info["episode_ends"]`, where present, are the score's rewards and episode ends, which
differ from the learner's where rewards are clipped, a lost life ends an episode, or an agent's end is not that of all.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from runner.envs.agents.roster import Agents
from runner.envs.observations import flatten_observations
from runner.envs.spaces import ActionSpace, layout
from runner.errors import FailedEnvironmentError, UserError, last_words, shown

log = logging.getLogger(__name__)

ABSENT = "absent"
"""In the info of environments of several agents: rows at which nobody is there to act."""

ANEW = "an EnvPool task, or a class or function that makes environments"
"""Words for what gives as many environments as are wanted."""

Step = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]


class VectorEnv:
    """Base of the adapters; see the module's contract.

    Attributes:
        num_envs: environments stepped together; rows, where there are several agents.
        agents: who is who among the rows; None where each is an environment with one agent.
        padded: observations or actions of several agents are wider than some agent's own.
        observation_space: of one environment, unflattened.
        action_space: of one environment.
        layout: where the parts of an observation are in a flat row, and the rows' dtype.
        actions: what `step` takes.
        resets_at_once: no reset rows; final observations come in `info`.
        rebuilds: `seeded` makes environments beside these, which go on undisturbed.
        splits: several cores can step them at once.
        overlaps: between `send` and `receive` they step while this process does something else.
        sent: the actions of a step that begins when it is received.
        measured: environments that tell what a step costs: enough to share what a call costs.
    """

    agents: Agents | None = None
    padded = False
    sent: Any = None
    resets_at_once = False
    rebuilds = True
    splits = True
    overlaps = False
    measured = 64

    def __init__(
        self, num_envs: int, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]
    ) -> None:
        self.num_envs = num_envs
        self.observation_space = observation_space
        self.action_space = action_space
        self.layout = layout(observation_space)
        self.actions = ActionSpace.of(action_space)

    @property
    def named(self) -> dict[str, Any]:
        """The keys of `env` in a configuration that make such an environment again; empty where there are none."""
        return {}

    @property
    def observation_size(self) -> int:
        """O, width of a flattened observation."""
        return self.layout.stop

    @property
    def environments(self) -> int:
        """Environments of one trial, before `seeded` has made those of all trials."""
        return self.num_envs if self.agents is None else self.num_envs // self.agents.rows

    def refuse_another_number(self, name: str, environments: int) -> None:
        """Refuse to be another number of environments than what was made, which cannot be made anew."""
        if environments != self.environments:
            raise UserError(
                f"{name} has {self.environments} environments and cannot be rebuilt with {environments}; a pack of "
                f"several seeds needs {ANEW}"
            )

    def arranged(self, share: bool | Sequence[Sequence[str]], states: bool) -> VectorEnv:
        """The same environments of several agents, whose rows are arranged anew.

        Args:
            share: one network for all agents, one for each, or one for each of these groups of names.
            states: the shared state is a part of every observation, which STATES reads.
        """
        raise UserError(f"{type(self).__name__}: this environment has one agent; IPPO and MAPPO need several")

    def of_each(self, environments: int) -> VectorEnv:
        """The same, for trials of so many environments each, where several agents make that matter to `seeded`."""
        return self

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes everywhere → observations `[N, O]` float32, info."""
        raise NotImplementedError

    def step(self, actions: Any) -> Step:
        """One step of every environment.

        Args:
            actions: `[N]` integers, or `[N, A]` real numbers.

        Returns:
            observations `[N, O]`, rewards `[N]` float32, terminated `[N]`, truncated `[N]`, info.
        """
        raise NotImplementedError

    @property
    def halves(self) -> Sequence[VectorEnv]:
        """Environments that step at the same time, each in threads of its own: this alone, or `runner.envs.halves`."""
        return (self,)

    def cut(self, rows: Any) -> Sequence[Any]:
        """Rows `[P·N, …]` of any library as those of each part."""
        return (rows,)

    def joined(self, rows: Sequence[Any], concatenate: Callable[..., Any] = np.concatenate) -> Any:
        """The inverse of `cut`."""
        return rows[0]

    def send(self, actions: Any) -> None:
        """Begin a step, of which `receive` gives what `step` returns; one at a time."""
        self.sent = actions

    def receive(self) -> Step:
        """The step that `send` began."""
        return self.step(self.sent)

    def step_some(self, actions: np.ndarray, indices: np.ndarray) -> Step:
        """One step of these environments; of the others nobody looks at what happens.

        Args:
            actions: of all environments, as `step` takes them.
            indices: `[K]`, each once.

        Returns:
            What `step` returns, of these environments: K rows in their order.
        """
        observations, rewards, terminated, truncated, info = self.step(actions)
        told = {name: info[name][indices] for name in info if name == ABSENT or name.startswith("episode_")}
        return observations[indices], rewards[indices], terminated[indices], truncated[indices], told

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """The same environment with `len(seeds)` environments seeded as given; it may be this object.

        Args:
            seeds: one per environment, 0 to 2³¹ − 1.
            threads: stepping threads, None for the adapter's own choice.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def opened(self, seeds: Sequence[int], threads: int | None = None) -> Iterator[VectorEnv]:
        """The environments of `seeded` for the length of a block, closed afterwards unless they are this object."""
        env = self.seeded(seeds, threads)
        try:
            yield env
        finally:
            if env is not self:
                close(env)

    def drawn(self) -> VectorEnv:
        """The same, whose environments can be drawn: pixels, not a window."""
        raise UserError(f"{type(self).__name__}: cannot be filmed")

    def render(self, indices: Sequence[int]) -> np.ndarray:
        """Pictures `[B, H, W, 3]` uint8 of these environments, which must not be stepping."""
        raise UserError(f"{type(self).__name__}: cannot be filmed")

    def check_described(self, task: str | None, arguments: Mapping[str, Any]) -> None:
        """Refuse a task and arguments of a configuration that contradict what this environment is known to be.

        The last parts of names are compared: a class may be known by several modules.
        """
        known = self.named
        if task is not None and known and task.rpartition(":")[2] != known["id"].rpartition(":")[2]:
            raise UserError(f"env.id: the configuration says {task}, the environment is {known['id']}")
        for name, value in arguments.items():
            if name in known and known[name] != value:
                has = shown(known[name], 60)
                raise UserError(f"env.{name}: the configuration says {shown(value, 60)}, the environment has {has}")

    def close(self) -> None:
        """Release the environments."""

    def seen(self, observations: Any, info: Mapping[str, Any]) -> Any:
        """The part of a step that a policy sees, numpy or traced: observations as in `observation_space`."""
        return observations

    def flatten(self, observations: Any, rows: int | None = None) -> np.ndarray:
        """Observations as the environment gives them → `[N, O]`, uint8 where they are nothing else, else float32."""
        rows = self.num_envs if rows is None else rows
        flat = isinstance(observations, np.ndarray) and observations.shape == (rows, self.observation_size)
        if flat and (not self.layout.byte or observations.dtype == np.uint8):
            return observations.astype(self.layout.dtype, copy=False)
        found = np.empty((rows, self.observation_size), self.layout.dtype)
        flatten_observations(self.layout, observations, found)
        return found


def close(env: Any) -> None:
    """Close an environment, whose last words are not worth the end of anything else."""
    try:
        getattr(env, "close", lambda: None)()
    except Exception as error:
        log.warning("an environment could not be closed: %s", last_words(error))


def of_spec(spec: Any) -> dict[str, Any]:
    """`VectorEnv.named` of what gymnasium has made by a specification, if it is that and nothing around it."""
    if spec is None or spec.id not in gymnasium.registry or spec.additional_wrappers:
        return {}
    arguments = {name: value for name, value in spec.kwargs.items() if name not in ("num_envs", "vectorization_mode")}
    registered = gymnasium.spec(spec.id)
    for name in ("max_episode_steps",):
        if getattr(spec, name) != getattr(registered, name):
            arguments[name] = getattr(spec, name)
        elif name in arguments:
            del arguments[name]
    arguments = {name: value for name, value in arguments.items() if not _same(registered.kwargs.get(name), value)}
    return {"id": f"gymnasium:{spec.id}", **arguments} if plain(arguments) else {}


def _same(one: Any, other: Any) -> bool:
    """Two arguments are equal; of objects only the same one is, since arrays do not compare to one answer."""
    return one is other or (plain({"one": one, "other": other}) and one == other)


def plain(arguments: Mapping[str, Any]) -> bool:
    """A file can hold these arguments: there are no objects among them."""
    try:
        json.dumps(arguments)
    except (TypeError, ValueError):
        return False
    return True


def check_finite(
    observations: np.ndarray, rewards: np.ndarray, seeds: Sequence[int | None], numbers: Sequence[int], whole: int
) -> None:
    """Refuse numbers of environments that are not finite.

    Args:
        observations: `[N, O]`.
        rewards: `[N]`.
        seeds: of the environment of each row.
        numbers: of these environments, counted from 0.
        whole: how many environments there are, with those that have no row here.
    """
    for name, values in (("a reward", rewards[:, None]), ("an observation", observations)):
        if values.dtype == np.uint8 or np.isfinite(values).all():
            continue
        row, place = np.argwhere(~np.isfinite(values))[0].tolist()
        where = f" (number {place} of {values.shape[1]})" if values.shape[1] > 1 else ""
        words = f"the environment with seed {seeds[row]} gave {name} of {values[row][place]}{where}"
        raise FailedEnvironmentError(f"{words}; allowed: finite numbers", numbers[row], whole)


def episode_info(info: Mapping[str, Any], truncated: Any) -> dict[str, Any]:
    """The score's own rewards and ends, where an EnvPool step's info has them; numpy or traced arrays.

    Atari: raw score and real game over, whatever clipping and episodic life show the learner.
    """
    if "reward" not in info or "terminated" not in info:
        return {}
    return {"episode_rewards": info["reward"], "episode_ends": info["terminated"].astype(bool) | truncated}

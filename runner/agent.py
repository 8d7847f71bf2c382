"""The policies of a runner, as skrl's agent: act, save, load."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.checkpoints import checkpoint
from runner.checkpoints import skrl as skrl_checkpoint
from runner.config.numbers import whole
from runner.envs.agents import acting
from runner.envs.agents.roster import Agents
from runner.envs.base import VectorEnv
from runner.envs.observations import as_array, flatten_batch, like, tensor_in
from runner.errors import UserError, shown
from runner.files import expanded, write_whole
from runner.training.members import Members
from runner.training.state import MemberState

log = logging.getLogger(__name__)


class Agent:
    """The policies of a runner: act, save, load."""

    def __init__(self, members: Members, env: VectorEnv, experiment_dir: Path) -> None:
        self._members = members
        self._env = env
        self._draws = 0
        self.experiment_dir = experiment_dir
        """Folder that `run("train")` makes and writes, each member of a pack into one of its own."""

    def act(
        self,
        observations: Any,
        state: Any = None,
        deterministic: bool = False,
        *,
        timestep: int | None = None,
        timesteps: int | None = None,
    ) -> Any:
        """Actions for a batch of observations; of a recurrent policy `act(observations, state)` → actions, state.

        skrl's call `act(observations, timestep=0, timesteps=0)` gives what it gives there: sampled actions, None, and
        a mapping with the most probable ones as `mean_actions`, of several agents one such mapping for each. Actions
        that are one number are a column `[N, 1]` then.

        Args:
            observations: `[N, …]` as the environment gives them (a Dict of such, a Tuple of such), or flat rows
                `[N, O]`; numpy, torch or another array library; any N. Of several agents, a mapping of such by name.
            state: what a recurrent policy remembers `[N, M]`, as the last call returned it, with zeros in rows whose
                episode begins; None where all do. Of several agents, a mapping of such by name, without those whose
                episodes begin. The second argument may also be `deterministic`.
            deterministic: the most probable action instead of a sample.
            timestep, timesteps: of skrl's call; their values, and the shared states before them, are not read.

        Returns:
            `[N, …]` actions in the shape and dtype of the action space; tensors for tensors. Of a recurrent policy
            these and the state after.
        """
        if timestep is not None or timesteps is not None:
            return self._act_as_skrl(observations)
        if isinstance(state, bool):
            state, deterministic = None, state
        if self._members.pack.trials != 1:
            raise UserError(
                f"agent.act: this runner trains {self._members.pack.trials} members; act with a runner of one seed"
            )
        if state is not None and not self._members.network.policy_memory:
            raise UserError(
                "agent.act: found a state, but this policy is feed-forward; allowed: agent.act(observations)"
            )
        if self._env.agents is not None:
            return self._act_together(self._env.agents, observations, state, deterministic)
        try:
            flat = flatten_batch(self._env.observation_space, self._env.layout, observations)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"agent.act: observations do not fit [N, {self._env.observation_size}] "
                f"({self._env.observation_space}): {error}"
            ) from None
        carry = None if state is None else self._checked(as_array(state), len(flat))
        self._draws += 1
        carry, actions = self._members.choose(carry, flat, deterministic, self._draws)
        found = _in_library(observations, actions.astype(self._env.actions.dtype))
        return found if carry is None else (found, _in_library(observations, carry))

    def _act_as_skrl(self, observations: Any) -> tuple[Any, None, dict[str, Any]]:
        """The answer of `act` of skrl's agents, without log-probabilities."""
        if self._members.network.policy_memory:
            raise UserError(
                "agent.act: a recurrent policy needs its state back; allowed: actions, state = agent.act(observations, "
                "state) without timestep and timesteps"
            )
        sampled, modes = self.act(observations), self.act(observations, deterministic=True)
        if self._env.agents is None:
            return _columns(sampled), None, {"mean_actions": _columns(modes)}
        sampled = {name: _columns(own) for name, own in sampled.items()}
        return sampled, None, {name: {"mean_actions": _columns(own)} for name, own in modes.items()}

    def _act_together(self, agents: Agents, observations: Any, state: Any, deterministic: bool) -> Any:
        """`act` of several agents: mappings by name, of all agents or those that are there."""
        _check_names("observations, as the environment itself gives them", observations, agents.names)
        try:
            if not observations:
                raise ValueError("there are none")
            if self._members.pack.static.models.policy.reads("STATES"):
                raise ValueError("the policy reads STATES, and observations of agents have none")
            rows = acting.rows_of(self._env, observations)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"agent.act: observations do not fit the agents' spaces: {error}") from None
        carry, count = None, len(rows) // agents.rows
        if state is not None:
            _check_names("state", state, agents.names)
            cells = np.zeros((count, len(agents.names), self._members.network.policy_memory), np.float32)
            for name, own in state.items():
                cells[:, agents.names.index(name)] = self._checked(as_array(own), count)
            carry = agents.rows_of(cells, count)
        self._draws += 1
        carry, actions = self._members.choose(carry, rows, deterministic, self._draws)
        chosen, names = acting.by_agent(self._env, actions), [name for name in agents.names if name in observations]
        given = {name: _in_library(observations[name], chosen[name]) for name in names}
        if carry is None:
            return given
        cells = agents.of_rows(carry, count)
        return given, {name: _in_library(observations[name], cells[:, agents.names.index(name)]) for name in names}

    def _checked(self, state: np.ndarray, rows: int) -> np.ndarray:
        needed = rows, self._members.network.policy_memory
        if state.shape != needed or state.dtype.kind not in "fiu":
            raise UserError(
                f"agent.act: state: found shape {list(state.shape)} of {state.dtype}; allowed: numbers "
                f"{list(needed)}, as agent.act returned them"
            )
        if not np.isfinite(state).all():
            raise UserError("agent.act: state: found numbers that are not finite; allowed: finite numbers")
        return state.astype(np.float32)

    def set_running_mode(self, mode: str) -> None:
        """Do nothing but check the mode, which skrl's agents must be told: here `act` never learns."""
        if mode not in ("train", "eval"):
            raise UserError(f"agent.set_running_mode: found {shown(mode)}; allowed: 'train' or 'eval'")

    def enable_training_mode(self, enabled: bool = True, *, apply_to_models: bool = False) -> None:
        """Do nothing: what skrl 2.x calls `set_running_mode`."""

    def save(self, path: str | Path | Sequence[str | Path], member: int | None = None) -> None:
        """Write checkpoints, each whole or not at all: one file per trial, or that of one `member` of a pack alone.

        A trial of several agents is one file, of all of them.

        They are safetensors files; with the ending `.pt`, files that skrl 2.x loads.
        """
        pack, paths = self._members.pack, list(map(expanded, _paths(path, "save")))
        one = None if member is None else whole("agent.save: member", member, 0)
        if one is not None and one >= pack.trials:
            raise UserError(f"agent.save: no member {member}; allowed: 0 to {pack.trials - 1}")
        members = range(pack.trials) if one is None else [one]
        if len(paths) != len(members) or len(set(paths)) != len(paths):
            raise UserError(
                f"agent.save: found {', '.join(map(str, paths))} for {len(members)} of {pack.trials} members; allowed: "
                "a path for each, all different, as agent.load takes them, or one path with member=0, 1, …"
            )
        for file in paths:
            if file.suffix in (".pickle", ".onnx", ".pt2"):
                what = "pickles" if file.suffix == ".pickle" else "exported policies"
                raise UserError(
                    f"{file}: {what} are not written; allowed: a name ending in .safetensors, of which `launch export` "
                    "makes a policy, or .pt for skrl"
                )
            if file.suffix == ".pt" and self._env.agents is not None and self._env.padded:
                raise UserError(
                    f"{file}: these agents have different spaces, which are padded here and not in skrl; allowed: a "
                    "name ending in .safetensors"
                )
        states = self._members.states()
        for file, one in zip(paths, members, strict=True):
            parts = (
                [states[member] for member in pack.members(one)],
                pack.names,
                self._members.network,
                pack.configs[one],
            )
            data = skrl_checkpoint.write(*parts) if file.suffix == ".pt" else checkpoint.of_trial(*parts, self._env)
            try:
                write_whole(file, data)
            except (OSError, ValueError) as error:
                raise UserError(f"{file}: cannot be written: {getattr(error, 'strerror', None) or error}") from None

    def load(self, path: str | Path | Sequence[str | Path]) -> None:
        """Continue from, or act with, checkpoints, one per trial: this program's, or skrl's `.pt` and `.pickle`.

        skrl's say nothing of the timestep: training from them begins at 0, with their parameters, statistics, moments.
        A learning rate that a schedule has left where it is goes on, but where the configuration has another than the
        checkpoint's own had.
        """
        paths = _paths(path, "load")
        if len(paths) != self._members.pack.trials:
            raise UserError(
                f"agent.load: {len(paths)} checkpoints for {self._members.pack.trials} members; give one per member"
            )
        self.restore([state for trial, file in enumerate(paths) for state in self._read(file, trial)])

    def _read(self, path: str | Path, trial: int) -> list[MemberState]:
        data, network, pack = checkpoint.read_file(path), self._members.network, self._members.pack
        if checkpoint.pickled(data):
            return skrl_checkpoint.read_trial(data, pack.names, network, pack.configs[trial], str(path))
        states = checkpoint.trial_from(data, pack.names, network, str(path))
        if checkpoint.learning_rate(data, str(path)) == pack.configs[trial].agent.learning_rate:
            return states
        rates = [pack.members_hyper[member].learning_rate for member in pack.members(trial)]
        return [
            replace(state, counters=replace(state.counters, learning_rate=rate))
            for state, rate in zip(states, rates, strict=True)
        ]

    def restore(self, states: Sequence[MemberState]) -> None:
        """Continue from states that are already in memory, whatever number of updates they took to their timestep."""
        rollouts, timestep = self._members.pack.static.agent.rollouts, int(states[0].counters.timestep)
        if any(state.counters.timestep != timestep for state in states):
            raise UserError("agent.load: the members' checkpoints are of different timesteps; a pack advances together")
        update, beyond = divmod(timestep, rollouts)
        if beyond:
            log.warning(
                "agent.load: timestep %d of the checkpoint is no multiple of agent.rollouts %d; training would go on "
                "from %d",
                *(timestep, rollouts, timestep - beyond),
            )
        self.adopt([replace(state, counters=replace(state.counters, update=update)) for state in states])

    def adopt(self, states: Sequence[MemberState]) -> None:
        """Act as these states do, whatever their timesteps; training goes on from them only if these are equal."""
        agent, network = self._members.pack.static.agent, self._members.network
        of_states = agent.state_preprocessor is not None and agent.observation_preprocessor is None
        observed = "state_preprocessor" if of_states else "observation_preprocessor"
        for state in states:
            for name, moments, wanted in (
                (observed, state.observation_statistics, bool(network.scalings)),
                ("value_preprocessor", state.value_statistics, agent.value_preprocessor is not None),
            ):
                if (moments is not None) != wanted:
                    has = "has no statistics" if moments is None else "carries statistics"
                    raise UserError(
                        f"agent.load: agent.{name} is {getattr(agent, name)!r}, but the checkpoint {has} for it"
                    )
        self._members.restore(states)


def _paths(path: Any, verb: str) -> list[str | Path]:
    """The paths that `agent.save` or `agent.load` was given."""
    paths = [path] if isinstance(path, str | Path) or not isinstance(path, Sequence) else list(path)
    for one in paths:
        if not isinstance(one, str | Path):
            raise UserError(f"agent.{verb}: found {shown(one, 80)}; allowed: a path, or a list of them, one per member")
    return paths


def _check_names(what: str, given: Any, names: Sequence[str]) -> None:
    """Refuse what is no mapping by agent."""
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        found = ", ".join(map(str, given)) if isinstance(given, Mapping) else "no mapping"
        raise UserError(f"agent.act: {what}: found {found}; allowed: by agent, {', '.join(names)}")


def _columns(actions: Any) -> Any:
    """Actions `[N, …]` as skrl has them: of one number a column."""
    return actions[:, None] if actions.ndim == 1 else actions


def _in_library(observations: Any, values: np.ndarray) -> Any:
    """An array as one of the library that the observations are of."""
    tensor = tensor_in(observations)
    return values if tensor is None else like(tensor, values)

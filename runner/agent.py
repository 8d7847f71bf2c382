"""The policies of a runner, as skrl's agent: act, save, load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runner.checkpoints import checkpoint
from runner.checkpoints import skrl as skrl_checkpoint
from runner.checkpoints.checkpoint import MemberState
from runner.config import Config
from runner.envs.base import VectorEnv
from runner.envs.observations import flatten_batch, like, tensor_in
from runner.errors import UserError
from runner.files import expanded, write_whole
from runner.training.learning import Learning


class Agent:
    """The policies of a runner: act, save, load.

    Attributes:
        experiment_dir: where `run("train")` writes, each member of a pack into a folder of its own; made only then.
    """

    def __init__(self, learning: Learning, env: VectorEnv, experiment_dir: Path) -> None:
        self._learning = learning
        self._env = env
        self._draws = 0
        self.experiment_dir = experiment_dir

    def act(self, observations: Any, deterministic: bool = False) -> Any:
        """Actions for a batch of observations.

        Args:
            observations: `[N, …]` as the environment gives them (a Dict of such, a Tuple of such), or flat rows
                `[N, O]`; numpy, torch or another array library; any N.
            deterministic: the most probable action instead of a sample.

        Returns:
            `[N, …]` actions in the shape and dtype of the action space; tensors for tensors.

        Raises:
            UserError: observations that do not fit the environment's space, or a runner of several members.
        """
        if self._learning.pack.size != 1:
            raise UserError(
                f"agent.act: this runner trains {self._learning.pack.size} members; act with a runner of one seed"
            )
        try:
            flat = flatten_batch(self._env.observation_space, self._env.layout, observations)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"agent.act: observations do not fit [N, {self._env.observation_size}] "
                f"({self._env.observation_space}): {error}"
            ) from None
        self._draws += 1
        actions = self._learning.choose(flat, deterministic, self._draws).astype(self._env.actions.dtype)
        tensor = tensor_in(observations)
        return actions if tensor is None else like(tensor, actions)

    def save(self, path: str | Path | Sequence[str | Path], member: int | None = None) -> None:
        """Write checkpoints, each whole or not at all: one file, or one per member.

        Args:
            path: of a safetensors file; with the ending `.pt`, of a file that skrl 2.x loads.
            member: of a pack, to write it alone.

        Raises:
            UserError: not one path per member, no such member, a network that skrl cannot have, or a file cannot be
                written.
        """
        pack, paths = self._learning.pack, list(map(expanded, [path] if isinstance(path, str | Path) else path))
        if member is not None and not 0 <= member < pack.size:
            raise UserError(f"agent.save: no member {member}; allowed: 0 to {pack.size - 1}")
        members = range(pack.size) if member is None else [member]
        if len(paths) != len(members) or len(set(paths)) != len(paths):
            raise UserError(
                f"agent.save: found {', '.join(map(str, paths))} for {len(members)} of {pack.size} members; allowed: a "
                "path for each, all different, as agent.load takes them, or one path with member=0, 1, …"
            )
        for file in paths:
            if file.suffix == ".pickle":
                raise UserError(
                    f"{file}: pickles are not written; allowed: a name ending in .safetensors, or .pt for skrl"
                )
        states = self._learning.states()
        for file, one in zip(paths, members, strict=True):
            to_bytes = skrl_checkpoint.write if file.suffix == ".pt" else checkpoint.to_bytes
            data = to_bytes(states[one], self._learning.network, pack.configs[one])
            try:
                write_whole(file, data)
            except OSError as error:
                raise UserError(f"{file}: cannot be written: {error.strerror}") from None

    def load(self, path: str | Path | Sequence[str | Path]) -> None:
        """Continue from, or act with, a checkpoint: one file, or one per member.

        Args:
            path: of this program's files, or of skrl's (`.pt`, or `.pickle` of its JAX). skrl's say nothing of the
                timestep: training from them begins at 0, with their parameters, statistics and moments.

        Raises:
            UserError: missing, corrupted, foreign, of another network, or of unequal progress.
        """
        paths = [path] if isinstance(path, str | Path) else list(path)
        if len(paths) != self._learning.pack.size:
            raise UserError(
                f"agent.load: {len(paths)} checkpoints for {self._learning.pack.size} members; give one per member"
            )
        self.restore([self._read(p, config) for p, config in zip(paths, self._learning.pack.configs, strict=True)])

    def _read(self, path: str | Path, config: Config) -> MemberState:
        data, network = checkpoint.read_file(path), self._learning.network
        if skrl_checkpoint.recognizes(data):
            return skrl_checkpoint.read(data, network, config, str(path))
        return checkpoint.from_bytes(data, network, str(path))

    def restore(self, states: Sequence[MemberState]) -> None:
        """Continue from states that are already in memory.

        Raises:
            UserError: of unequal progress, or with other statistics than the configuration asks for.
        """
        if len({state.counters.update for state in states}) != 1:
            raise UserError("agent.load: the members' checkpoints are of different timesteps; a pack advances together")
        self.adopt(states)

    def adopt(self, states: Sequence[MemberState]) -> None:
        """Act as these states do, whatever their timesteps; training goes on from them only if these are equal.

        Raises:
            UserError: with other statistics than the configuration asks for.
        """
        agent, network = self._learning.pack.static.agent, self._learning.network
        for state in states:
            for name, moments, wanted in (
                ("observation_preprocessor", state.observation_statistics, bool(network.scalings)),
                ("value_preprocessor", state.value_statistics, agent.value_preprocessor is not None),
            ):
                if (moments is not None) != wanted:
                    has = "has no statistics" if moments is None else "carries statistics"
                    raise UserError(
                        f"agent.load: agent.{name} is {getattr(agent, name)!r}, but the checkpoint {has} for it"
                    )
        self._learning.restore(states)

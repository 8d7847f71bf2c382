"""The Runner that both backends share: skrl's contract over one pack.

A Runner is built from an environment and a configuration, and writes nothing until `run("train")`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from runner import checkpoint, skrl_checkpoint, weights_and_biases
from runner.checkpoint import MemberState
from runner.config import Config, resolve
from runner.config.load import read_yaml
from runner.config.schema import too_many_mini_batches
from runner.envs.base import VectorEnv, environment_seeds, wrap_env
from runner.errors import UserError
from runner.evaluate import Episode, play
from runner.files import expanded, write_whole
from runner.learning import Learning
from runner.observations import flatten_batch, like, tensor_in
from runner.pack import Pack
from runner.tracking import Report, TensorBoard

log = logging.getLogger(__name__)


class Agent:
    """The policies of a runner: act, save, load.

    Attributes:
        experiment_dir: where `run("train")` writes; made only then.
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

    def save(self, path: str | Path, member: int = 0) -> None:
        """Write one member's checkpoint, whole or not at all.

        Args:
            path: of a safetensors file; with the ending `.pt`, of a file that skrl 2.x loads.
            member: of a pack.

        Raises:
            UserError: no such member, a network that skrl cannot have, or the file cannot be written.
        """
        path = expanded(path)
        kind = path.suffix
        if kind == ".pickle":
            raise UserError(f"{path}: pickles are not written; allowed: a name ending in .safetensors, or .pt for skrl")
        states = self._learning.states()
        if not 0 <= member < len(states):
            raise UserError(f"agent.save: no member {member}; allowed: 0 to {len(states) - 1}")
        to_bytes = skrl_checkpoint.write if kind == ".pt" else checkpoint.to_bytes
        data = to_bytes(states[member], self._learning.network, self._learning.pack.configs[member])
        try:
            write_whole(path, data)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None

    def load(self, path: str | Path | Sequence[str | Path]) -> None:
        """Continue from, or act with, a checkpoint: one file, or one per member.

        Args:
            path: of this program's files, or of skrl's (`.pt`, or `.pickle` of its JAX).

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


class Runner:
    """Trains and evaluates PPO on one environment, for one seed or a pack of seeds.

    Attributes:
        agent: the policies.
        cfg: the resolved configuration, as plain data.
        config: the same, typed.
    """

    backend: ClassVar[Literal["torch", "jax"]]
    learning: ClassVar[type[Learning]]

    def __init__(
        self,
        env: Any,
        cfg: Mapping[str, Any] | Config,
        seeds: Sequence[int] | None = None,
        *,
        threads: int | None = None,
        configs: Sequence[Config] | None = None,
    ) -> None:
        """Build everything that needs no environment step.

        Args:
            env: anything that `wrap_env` takes, N environments. An EnvPool pool is rebuilt from its specification with
                the seeds that follow from the configuration's.
            cfg: a configuration, as `load_cfg_from_yaml` returns it or in canonical form.
            seeds: train one member per seed as one batched program; default the configuration's own seed.
            threads: EnvPool threads; default the cores this process may use.
            configs: one configuration per member, instead of `seeds`, where members differ in Hyper numbers.

        Raises:
            UserError: configuration and environment do not fit, or a pack over an environment that cannot be rebuilt.
        """
        self.env = wrap_env(env)
        config = cfg if isinstance(cfg, Config) else resolve(cfg)[0]
        config = self._with_environment(config)
        if configs is not None:
            members = [self._with_environment(c) for c in configs]
        else:
            chosen = [config.seed if config.seed is not None else _fresh_seed()] if seeds is None else list(seeds)
            members = [config.model_copy(update={"seed": int(seed)}) for seed in chosen]
        if not members or any((c.seed or 0) < 0 for c in members):
            raise UserError(f"seeds: found {seeds!r}; allowed: one or more numbers, each 0 or greater")
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise UserError(f"seeds: found {list(seeds)!r}: a seed is given twice and would train the same run twice")
        pack = Pack.of(members)
        self.config = members[0]
        self.cfg = self.config.dump()
        if pack.size > 1:
            _refuse_fixed(self.env, pack.size)
        self._threads = threads
        self._learning = self.learning(pack, self.env.layout, self.env.actions)
        self.agent = Agent(self._learning, self.env, _experiment_directory(config))

    @staticmethod
    def load_cfg_from_yaml(path: str | Path) -> dict[str, Any]:
        """Read a YAML file, as skrl does: an error is logged and gives `{}`."""
        try:
            return read_yaml(path)[0]
        except UserError as error:
            log.error("%s", error)
            return {}

    def run(self, mode: str = "train") -> list[Episode] | None:
        """Train to the configured length, or evaluate.

        Returns:
            For "eval" one episode per environment, also logged; nothing is written.

        Raises:
            ValueError: another mode.
            UserError: the experiment directory cannot be written.
        """
        if mode == "train":
            self._train()
            return None
        if mode == "eval":
            episodes = self.evaluate()
            self._print(episodes)
            return episodes
        raise ValueError(f"run: unknown mode {mode!r}; allowed: 'train' or 'eval'")

    @property
    def compiles(self) -> bool:
        """Training begins with compiling its programs, which takes seconds."""
        return self._learning.compiles

    @property
    def finished(self) -> bool:
        """Trained to the configured length."""
        return self._learning.updates >= self.config.updates

    def reports(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Report]:
        """Train, yielding what is due; for callers that keep records and checkpoints themselves.

        Args:
            stop: asked after every update; True ends training there, with a last report and checkpoint.
        """
        evaluation = self.config.evaluation
        if evaluation.interval:
            if not self.env.rebuilds:
                raise UserError(f"evaluation.interval: a second {type(self.env).__name__} cannot be made; allowed: 0")
            self._learning.examine = partial(self.evaluate, None, evaluation.episodes, None, evaluation.episodes)
        yield from self._learning.train(self._seeded(self._learning.timestep), stop)

    def evaluate(
        self,
        deterministic: bool | None = None,
        episodes: int | None = None,
        seed: int | None = None,
        at_once: int | None = None,
    ) -> list[Episode]:
        """Let every member play whole episodes, the same number each, every one in an environment of its own.

        Args:
            deterministic: default the opposite of `trainer.stochastic_evaluation`.
            episodes: of each member; default one for each of its environments.
            seed: of the episodes, the same for all members; default each member's own.
            at_once: environments of a member that are stepped together; default its environments.

        Raises:
            UserError: an environment that cannot be rebuilt with so many, or an episode that does not end.
        """
        if deterministic is None:
            deterministic = not self.config.trainer.stochastic_evaluation
        envs = self.config.env.num_envs or 0
        return play(
            lambda seeds: self.env.seeded(seeds, self._threads),
            lambda observations, draw: self._learning.choose(observations, bool(deterministic), draw),
            self._learning.pack.seeds if seed is None else [seed] * self._learning.pack.size,
            episodes or envs,
            at_once or envs,
        )

    def _print(self, episodes: Sequence[Episode]) -> None:
        for member, seed in enumerate(self._learning.pack.seeds):
            returns = np.array([e.ret for e in episodes if e.member == member])
            spread = f"{returns.mean():.2f} ± {returns.std():.2f} (min {returns.min():.2f}, max {returns.max():.2f})"
            print(f"seed {seed}: {len(returns)} episodes, return {spread}")

    def states(self) -> list[MemberState]:
        """Every member's state, in order."""
        return self._learning.states()

    def checkpoint(self, member: int, state: MemberState) -> bytes:
        """One member's state as the bytes of a checkpoint file."""
        return checkpoint.to_bytes(state, self._learning.network, self._learning.pack.configs[member])

    def restore(self, data: Sequence[bytes], only_act: bool = False) -> None:
        """Continue from checkpoints, one per member; or only act as they do, whatever their timesteps.

        Raises:
            UserError: see `Agent.load`.
        """
        states = [checkpoint.from_bytes(d, self._learning.network) for d in data]
        (self.agent.adopt if only_act else self.agent.restore)(states)

    def _seeded(self, timestep: int) -> VectorEnv:
        """The environments of all members, reset at `timestep`."""
        envs = self.config.env.num_envs or 0
        seeds = [s for seed in self._learning.pack.seeds for s in environment_seeds(seed, envs, timestep)]
        return self.env.seeded(seeds, self._threads)

    def _with_environment(self, config: Config) -> Config:
        """The configuration of this environment, which its number must not contradict, and of this backend."""
        if config.env.num_envs not in (None, self.env.num_envs):
            raise UserError(
                f"env.num_envs: the configuration says {config.env.num_envs}, the environment has {self.env.num_envs}"
            )
        rows = config.agent.rollouts * self.env.num_envs
        if config.agent.mini_batches > rows:
            raise UserError(too_many_mini_batches(config.agent.mini_batches, config.agent.rollouts, self.env.num_envs))
        env = config.env.model_copy(update={"num_envs": self.env.num_envs})
        return config.model_copy(update={"env": env, "backend": self.backend})

    def _train(self) -> None:
        """Train with skrl's files: event files in the experiment directory, checkpoints below it."""
        directory = self.agent.experiment_dir
        pack = self._learning.pack
        folders = _member_folders(directory, pack.seeds)
        experiment = self.config.agent.experiment
        if experiment.wandb:
            weights_and_biases.check(experiment.wandb_kwargs, several=pack.size > 1)
        keeps = self.config.interval("checkpoint_interval") > 0
        with contextlib.ExitStack() as stack:
            try:
                boards = [stack.enter_context(contextlib.closing(TensorBoard(folder))) for folder in folders]
            except OSError as error:
                raise UserError(f"{directory}: cannot be written: {error.strerror}") from None
            runs = None
            if experiment.wandb:
                runs = stack.enter_context(weights_and_biases.PackRuns(directory, folders, pack.configs))
            for report in self.reports():
                for board, record in zip(boards, report.records, strict=True):
                    if record is not None:
                        board.write(record.env_steps, record.values, time.time())
                if runs is not None:
                    runs.write(report.records, report.diverged)
                if keeps and (report.checkpoint or report.best):
                    self._save(folders, report)
                for member in report.diverged:
                    log.error("seed %s diverged: a number is not finite", pack.seeds[member])

    def _save(self, folders: Sequence[Path], report: Report) -> None:
        for member, (folder, state) in enumerate(zip(folders, self.states(), strict=True)):
            data = self.checkpoint(member, state)
            checkpoints = folder / "checkpoints"
            if report.checkpoint:
                write_whole(checkpoints / f"agent_{self._learning.timestep}.safetensors", data)
            if member in report.best:
                write_whole(checkpoints / "best_agent.safetensors", data)


def _refuse_fixed(env: VectorEnv, members: int) -> None:
    """A pack needs an environment that can be rebuilt larger."""
    from runner.envs.gymnasium import GymnasiumVector

    if isinstance(env, GymnasiumVector):
        raise UserError(
            f"seeds: a pack of {members} members needs an EnvPool environment, which can be rebuilt with members x "
            f"num_envs environments; {type(env.env).__name__} cannot"
        )


def _fresh_seed() -> int:
    """A seed for `seed: null`, from the operating system."""
    return int(np.random.SeedSequence().generate_state(1)[0])


def _experiment_directory(config: Config) -> Path:
    """skrl's layout: directory (default `runs`) / experiment name (default the time)."""
    experiment = config.agent.experiment
    name = experiment.experiment_name or f"{datetime.now():%y-%m-%d_%H-%M-%S-%f}_{config.agent.cls}"
    return expanded(experiment.directory or "runs").absolute() / name


def _member_folders(directory: Path, seeds: Sequence[int]) -> list[Path]:
    if len(seeds) == 1:
        return [directory]
    # Members of equal seed differ in Hyper numbers; their place in the pack tells them apart.
    names = [f"seed_{s}" if seeds.count(s) == 1 else f"seed_{s}_member_{i}" for i, s in enumerate(seeds)]
    return [directory / name for name in names]

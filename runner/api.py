"""The Runner that both backends share: skrl's contract over one pack.

A Runner is built from an environment and a configuration, and writes nothing until `run("train")`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from operator import index
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from runner import group as groups
from runner.agent import Agent
from runner.checkpoints import checkpoint
from runner.config import Config, resolve
from runner.config.load import read_yaml
from runner.config.numbers import whole
from runner.draws import environment_seeds, fresh_seed
from runner.envs import halves
from runner.envs.agents.fitting import fitted
from runner.envs.base import ANEW, VectorEnv
from runner.envs.wrap import wrap_env
from runner.errors import UserError, shown
from runner.files import expanded
from runner.group import Group
from runner.training.evaluate import Episode, play
from runner.training.loop import train
from runner.training.members import Backend, Members
from runner.training.pack import Hyper, Pack
from runner.training.progress import Progress, say
from runner.training.state import Counters, MemberState
from runner.training.tracking import Report
from runner.training.writing import write

log = logging.getLogger(__name__)


class Runner:
    """Trains and evaluates PPO on one environment, for one seed or a pack of seeds.

    Attributes:
        agent: the policies.
        configs: the resolved configuration of every trial.
    """

    backend: ClassVar[Literal["torch", "jax"]]
    numerics: ClassVar[Backend]

    def __init__(
        self,
        env: Any,
        cfg: Mapping[str, Any] | Config,
        seeds: Sequence[int] | None = None,
        *,
        threads: int | None = None,
        configs: Sequence[Config | Mapping[str, Any]] | None = None,
        group: Group | None = None,
    ) -> None:
        """Build everything that needs no environment step.

        Args:
            env: anything that `wrap_env` takes, N environments. An EnvPool pool is rebuilt from its specification with
                the seeds that follow from the configuration's.
            cfg: a configuration, as `load_cfg_from_yaml` returns it or in canonical form.
            seeds: train one trial per seed as one batched program; default the configuration's own seed.
            threads: that step EnvPool's environments, default the cores that this process may use; processes that
                step environments of Python, default this one.
            configs: one configuration per trial, instead of `seeds`, where trials differ in Hyper numbers.
            group: this process's place among those that train together, which has joined them; default by
                `trainer.devices`, as torchrun says.
        """
        config = cfg if isinstance(cfg, Config) else resolve(cfg)[0]
        self.env = fitted(wrap_env(env), config)
        config = self._with_environment(config)
        if configs is not None:
            members = [self._with_environment(c if isinstance(c, Config) else resolve(c)[0]) for c in configs]
        else:
            own = config.seed if config.seed is not None else fresh_seed()
            members = [config.model_copy(update={"seed": seed}) for seed in ([own] if seeds is None else _whole(seeds))]
        pack = Pack.of(members, self.env.agents)
        _note_single_rows(pack)
        self.configs = pack.configs
        if pack.trials > 1:
            _refuse_fixed(self.env, pack.trials)
        self._threads = None if threads is None else whole("threads", threads)
        self._stepped: VectorEnv | None = None
        self._members = Members(self.numerics, pack, self.env.layout, self.env.actions, self._joined(group, config))
        self.agent = Agent(self._members, self.env, _experiment_directory(config))

    @property
    def config(self) -> Config:
        """The resolved configuration."""
        if len(self.configs) != 1:
            raise UserError(
                f"runner.config: this runner trains {len(self.configs)} members; runner.configs has them all"
            )
        return self.configs[0]

    @property
    def cfg(self) -> dict[str, Any]:
        """The same as plain data."""
        return self.config.dump()

    @classmethod
    def of_checkpoints(cls, task: VectorEnv, config: Config, files: Sequence[bytes], threads: int, seed: int) -> Runner:
        """A runner whose trials are checkpoints of one policy, which it can only evaluate.

        Stochastic actions are drawn from `seed` for all of them: no score depends on a place in the batch.
        """
        members = [config.model_copy(update={"seed": seed})] * len(files)
        runner = cls(task, members[0], configs=members, threads=threads)
        runner.restore(files, only_act=True)
        return runner

    @staticmethod
    def load_cfg_from_yaml(path: str | Path) -> dict[str, Any]:
        """Read a YAML file, as skrl does: an error is logged and gives `{}`."""
        try:
            return read_yaml(path)[0]
        except UserError as error:
            log.error("%s", error)
            return {}

    def run(self, mode: str = "train") -> list[Episode] | None:
        """Train to the configured length; or, for "eval", give and log one episode per environment."""
        if mode == "train":
            self._train()
            return None
        if mode == "eval":
            episodes = self.evaluate()
            self._print(episodes)
            return episodes
        raise UserError(f"run: unknown mode {mode!r}; allowed: 'train' or 'eval'")

    @property
    def compiles(self) -> bool:
        """Training begins with compiling its programs, which takes seconds."""
        return self._members.compiles

    @property
    def finished(self) -> bool:
        """Trained to the configured length."""
        return self._members.finished

    @property
    def timestep(self) -> int:
        """Steps of every environment so far."""
        return self._members.timestep

    def reports(self, stop: Callable[[], bool] = lambda: False, until: int | None = None) -> Iterator[Report]:
        """Train, yielding what is due, until `stop()` after an update, or a timestep; a last checkpoint ends it.

        For callers that keep records and checkpoints themselves.
        """
        evaluation, evaluate = self._static.evaluation, None
        if not self._placed and self._static.trainer.devices > self._members.group.size:
            Group.of_variables(self._static.trainer.devices)  # says what is missing
        if evaluation.interval:
            if not self.env.rebuilds:
                raise UserError(f"evaluation.interval: a second {_name(self.env)} cannot be made; allowed: 0")
            evaluate = partial(self.evaluate, None, evaluation.episodes, None, evaluation.episodes)
        seeds, members = self._seeds(self._members.timestep), self._members.pack.size
        choice, gpu = self._static.env.half_pools, self.numerics.sees_gpu()
        with halves.opened(self.env, seeds, self._threads, members, choice, gpu) as env:
            self._stepped = env
            try:
                yield from train(self._members, env, stop, evaluate, until)
            finally:
                self._stepped = None

    def evaluate(
        self,
        deterministic: bool | None = None,
        episodes: int | None = None,
        seed: int | None = None,
        at_once: int | None = None,
        around: Callable[[VectorEnv], VectorEnv] = lambda env: env,
    ) -> list[Episode]:
        """Let every trial play whole episodes, the same number each, every one in an environment of its own.

        Args:
            deterministic: default the opposite of `trainer.stochastic_evaluation`.
            episodes: of each trial; default one for each of its environments.
            seed: of the episodes, the same for all trials; default each trial's own.
            at_once: environments of a trial that are stepped together; default its environments.
            around: puts the environments into something that watches them, such as a camera.
        """
        if self._stepped is self.env:
            raise UserError(
                f"evaluate: {_name(self.env)} is in the middle of training, and a second one cannot be made; allowed: "
                "when training is over or given up"
            )
        if deterministic is None:
            deterministic = not self._static.trainer.stochastic_evaluation
        envs, pack = self._static.env.num_envs or 0, self._members.pack
        episodes = envs if episodes is None else whole("evaluate: episodes", episodes)
        at_once = envs if at_once is None else whole("evaluate: at_once", at_once)
        drawn = pack.trial_seeds if seed is None else [whole("evaluate: seed", seed, 0)] * pack.trials

        @contextmanager
        def opened(seeds: Sequence[int]) -> Iterator[VectorEnv]:
            with self.env.of_each(at_once).opened(seeds, self._threads) as env:
                yield around(env)

        return play(
            opened,
            lambda carry, observations, draw: self._members.choose(carry, observations, bool(deterministic), draw),
            drawn,
            episodes,
            at_once,
            team_return=self._static.agent.team_return,
        )

    def _print(self, episodes: Sequence[Episode]) -> None:
        for member, seed in enumerate(self._members.pack.trial_seeds):
            own = [e for e in episodes if e.member == member]
            returns = np.array([e.ret for e in own])
            spread = f" ± {returns.std():.2f} (min {returns.min():.2f}, max {returns.max():.2f})"
            number, more = len(returns), spread if len(returns) > 1 else ""
            episodes_of = f"{number} episodes" if number > 1 else f"{number} episode"
            means = (f"{name} {np.mean([e.each[name] for e in own]):.2f}" for name in own[0].each)
            each = f"; {', '.join(means)}" if own[0].each else ""
            say(f"seed {seed}: {episodes_of}, return {returns.mean():.2f}{more}{each}")

    def states(self) -> list[MemberState]:
        """Every member's state, in order."""
        return self._members.states()

    def checkpoint(self, trial: int, *states: MemberState) -> bytes:
        """One trial, the states of its members, as the bytes of a checkpoint file."""
        pack = self._members.pack
        return checkpoint.of_trial(states, pack.names, self._members.network, pack.configs[trial], self.env)

    def checkpoints(self) -> list[tuple[Counters, Callable[[], bytes]]]:
        """The standing of every trial, and what makes its checkpoint."""
        states, pack = self.states(), self._members.pack
        return [
            (states[its[0]].counters, partial(self.checkpoint, trial, *(states[member] for member in its)))
            for trial, its in enumerate(map(pack.members, range(pack.trials)))
        ]

    def restore(self, data: Sequence[bytes], only_act: bool = False) -> None:
        """Continue from checkpoints, one per trial; or only act as they do, whatever their timesteps."""
        network, names = self._members.network, self._members.pack.names
        states = [state for d in data for state in checkpoint.trial_from(d, names, network)]
        (self.agent.adopt if only_act else self.agent.restore)(states)

    def exploit(self, copies: Mapping[int, tuple[bytes | int, Mapping[str, float], float]]) -> None:
        """Let trials go on as copies of checkpoints, or of other trials of the pack as they are now.

        With each come its Hyper numbers and the factor of its learning rate.
        """
        pack, network = self._members.pack, self._members.network
        found: dict[int, tuple[MemberState | int, Hyper, float]] = {}
        for trial, (data, hyper, rate) in copies.items():
            sources: list[MemberState | int] = (
                [*pack.members(data)] if isinstance(data, int) else [*checkpoint.trial_from(data, pack.names, network)]
            )
            for member, source in zip(pack.members(trial), sources, strict=True):
                own = {name: getattr(pack.members_hyper[member], name) for name in self._static.agent.of_agents}
                found[member] = source, Hyper(**{**hyper, **own}), rate
        self._members.exploit(found)

    @property
    def _static(self) -> Config:
        """Any member's configuration, for what all share."""
        return self._members.pack.static

    def _seeds(self, timestep: int) -> list[int]:
        """Seeds of the environments of all members, reset at `timestep`, of which this process steps its part."""
        envs = self._static.env.num_envs or 0
        own = self._members.group.own(envs)
        return [s for seed in self._members.pack.trial_seeds for s in environment_seeds(seed, envs, timestep)[own]]

    def _joined(self, group: Group | None, config: Config) -> Group:
        """The group of this process, which it has joined."""
        self._placed = group is not None
        if group is None:
            devices = config.trainer.devices
            group = Group.of_variables(devices) if devices > 1 and Group.started() else Group()
        if group.size > 1:
            groups.refuse(self.env, config, group.size)
            self.numerics.join(group)
        return group

    def _with_environment(self, config: Config) -> Config:
        """The configuration of this environment, which its number must not contradict, and of this backend."""
        envs = self.env.environments
        if config.env.num_envs not in (None, envs):
            raise UserError(f"env.num_envs: the configuration says {config.env.num_envs}, the environment has {envs}")
        try:
            config.check_mini_batches(envs)
        except ValueError as error:
            raise UserError(str(error)) from None
        # Before its own fill what is not said.
        self.env.check_described(config.env.id, config.env.model_extra or {})
        named = {} if config.env.id is not None else self.env.named
        env = config.env.model_copy(update={**named, "num_envs": envs})
        return config.model_copy(update={"env": env, "backend": self.backend})

    def _train(self) -> None:
        """Train with skrl's files, and say so where there is nothing left to train."""
        now, trainer = self._members.timestep, self._static.trainer
        if self._members.over:
            why = (
                f"timestep {now} is the end of trainer.timesteps {trainer.timesteps}; to go on, make a Runner with a "
                "greater trainer.timesteps and agent.load what agent.save of this one writes"
                if self.finished
                else "every member has diverged"
            )
            log.warning("run('train'): nothing is left to train, and nothing was written: %s", why)
            return
        if self._members.group.rank:  # the first process writes
            for _ in self.reports():
                pass
            return
        progress = Progress(lambda: self._members.timestep, self._static.length, not trainer.disable_progressbar)
        write(self, self._members.pack, self.agent.experiment_dir, progress)


def _whole(seeds: Sequence[int]) -> list[int]:
    """Seeds as Python's integers, of whatever library they are."""
    try:
        given = list(seeds)
        whole = [index(seed) for seed in given if not isinstance(seed, bool)]
    except TypeError:
        given, whole = [], []
    if not given or len(whole) < len(given) or not all(0 <= seed < 2**63 for seed in whole):
        raise UserError(f"seeds: found {shown(given or seeds)}; allowed: one or more whole numbers from 0 below 2**63")
    if len(set(whole)) < len(whole):
        raise UserError(f"seeds: found {shown(whole)}: a seed is given twice and would train the same run twice")
    return whole


def _name(env: VectorEnv) -> str:
    """The name of an environment's class, as whoever gave it knows it."""
    return type(getattr(env, "env", env)).__name__


def _refuse_fixed(env: VectorEnv, members: int) -> None:
    """A pack needs an environment that can be rebuilt larger."""
    if not env.rebuilds:
        raise UserError(
            f"seeds: {_name(env)} is made already, and a pack of {members} members has environments of its own for "
            f"each; allowed: one seed, or {ANEW}"
        )


def _note_single_rows(pack: Pack) -> None:
    """Say that nothing will be normalised where there is a single row to do it over."""
    config, agent = pack.static, pack.static.agent
    rows = agent.rollouts * pack.rows
    of = {"rollout": 1, "minibatch": agent.mini_batches}.get(agent.advantage_normalization)
    if of is not None and rows // of < 2:
        log.warning(
            "agent.advantage_normalization: %s: a %s of a single row has no deviation, so its advantage stays as it is "
            "(agent.rollouts %d x num_envs %d in %d parts)",
            *(agent.advantage_normalization, agent.advantage_normalization),
            *(agent.rollouts, config.env.num_envs, of),
        )


def _experiment_directory(config: Config) -> Path:
    """skrl's layout: directory (default `runs`) / experiment name (default the time)."""
    experiment = config.agent.experiment
    name = experiment.experiment_name or f"{datetime.now():%y-%m-%d_%H-%M-%S-%f}_{config.agent.cls}"
    return expanded(experiment.directory or "runs").absolute() / name

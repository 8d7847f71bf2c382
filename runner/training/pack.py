"""Pack = Static + Hyper[P] + seeds[P]: which trials may train together, and the numbers in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from runner.config import Config
from runner.config.marks import OF_MEMBERS, Mark, dump_without, marked, text
from runner.config.schedules import KLAdaptiveLR
from runner.config.schema import Agent
from runner.draws import seed_of_group
from runner.envs.agents.roster import Agents
from runner.errors import UserError
from runner.networks.parameters import Network


class Hyper(NamedTuple):
    """Per-member numbers; names and meaning as in `runner.config.schema.Agent`.

    In a `Pack` each is `[P]` float64 as configured. A backend holds what `effective` gives on its device: torch
    `[P, 1]` float32, JAX `[P]`, which are scalars inside its functions of one member.
    """

    learning_rate: Any
    value_learning_rate: Any
    adam_epsilon: Any
    discount_factor: Any
    gae_lambda: Any
    ratio_clip: Any
    value_clip: Any
    entropy_loss_scale: Any
    value_loss_scale: Any
    grad_norm_clip: Any
    kl_threshold: Any
    rewards_shaper_scale: Any
    alpha: Any
    scheduler_kl_threshold: Any
    scheduler_min_lr: Any
    scheduler_max_lr: Any
    scheduler_kl_factor: Any
    scheduler_lr_factor: Any

    def effective(self) -> Hyper:
        """Float32 `[P]` each, as the update uses them: clips and thresholds that are off (0) become infinite."""
        rows = {name: np.array(row, np.float32) for name, row in self._asdict().items()}
        for name in ("value_clip", "grad_norm_clip", "kl_threshold"):
            rows[name][rows[name] <= 0] = np.inf
        return Hyper(**rows)


_SCHEDULER = "scheduler_"


def hyper_of(config: Config, agent: str = "") -> dict[str, float]:
    """The Hyper numbers of a configuration, for one of several agents; of a schedule that it has not the defaults."""
    return _numbers(config.agent.of(agent))


def changes_of(config: Config, agent: str = "") -> list[tuple[int, dict[str, float]]]:
    """The timesteps at which a configuration's Hyper numbers change, and what they are from then on."""
    phases = config.agent.phases() if config.agent.changes else []
    return [(timestep, _numbers(section.of(agent))) for timestep, section in phases]


def _numbers(agent: Agent) -> dict[str, float]:
    rates = agent.learning_rate if isinstance(agent.learning_rate, list) else [agent.learning_rate] * 2
    numbers = {name: getattr(agent, name) for name in marked(agent, Mark.HYPER)}
    numbers |= {"learning_rate": rates[0], "value_learning_rate": rates[1]}
    schedule = {**KLAdaptiveLR().model_dump(), **agent.learning_rate_scheduler_kwargs.model_dump()}
    numbers |= {_SCHEDULER + name: schedule[name] for name in marked(KLAdaptiveLR, Mark.HYPER)}
    return {name: float(numbers[name]) for name in Hyper._fields}


def keys_of(numbers: Mapping[str, float], agent: Agent) -> dict[str, Any]:
    """The keys of an agent section that have these Hyper numbers: the inverse of `hyper_of`."""
    keys: dict[str, Any] = {name: numbers[name] for name in marked(agent, Mark.HYPER)}
    if (rates := [numbers["learning_rate"], numbers["value_learning_rate"]])[0] != rates[1]:
        keys["learning_rate"] = rates
    if agent.learning_rate_scheduler == "KLAdaptiveLR":
        schedule = {name: numbers[_SCHEDULER + name] for name in marked(KLAdaptiveLR, Mark.HYPER)}
        keys["learning_rate_scheduler_kwargs"] = schedule
    return keys


def static_key(config: Config) -> str:
    """Canonical text of everything that must be equal for two trials to share a pack: their Static signature."""
    return text(dump_without(config, (*OF_MEMBERS, Mark.NAME)))


def program_key(config: Config) -> str:
    """Canonical text of everything that an update's arithmetic depends on besides shapes and Hyper numbers."""
    learned = dump_without(config, (Mark.HYPER, Mark.CHANGES, Mark.NAME, Mark.OUTPUT))
    return text({name: learned[name] for name in ("models", "agent")})


def policy_key(config: Config) -> str:
    """Canonical text of everything that actions depend on besides parameters and statistics."""
    data = dump_without(config, (Mark.OUTPUT,))
    agent = {name: data["agent"][name] for name in marked(config.agent, Mark.ACTING) if name in data["agent"]}
    env = {name: value for name, value in data["env"].items() if name != "num_envs"}
    return text({"env": env, "models": data["models"], "agent": agent, "backend": data["backend"]})


def identity(config: Config) -> str:
    """Canonical text of what is trained: everything but length, evaluation, logging, output and place."""
    return text(dump_without(config, (Mark.LENGTH, Mark.OUTPUT, Mark.NAME, Mark.PLACE)))


@dataclass(frozen=True)
class Pack:
    """Trials that train as one batched program: each is a member, or as many as it has groups of agents, side by side.

    Attributes:
        configs: one per trial; equal but for Hyper numbers, seed and output names.
        hyper: the members' Hyper numbers, stacked.
        agents: those of every trial; None where there is one, which is one group.
    """

    configs: tuple[Config, ...]
    hyper: Hyper
    agents: Agents | None = None

    @classmethod
    def of(cls, configs: Sequence[Config], agents: Agents | None = None) -> Pack:
        """Stack configurations.

        Raises:
            UserError: there are none, or they differ in more than Hyper numbers and seeds.
        """
        if len({static_key(config) for config in configs}) != 1:
            raise UserError(
                f"configurations of one pack: found {len(configs)}, not of one Static signature; allowed: one or "
                "more that differ in Hyper numbers, such as rates and clips, and seeds alone"
            )
        rows = [hyper_of(config, agent) for config in configs for agent in (agents.firsts if agents else [""])]
        stacked = Hyper(**{name: np.array([r[name] for r in rows], float) for name in rows[0]})
        return cls(tuple(configs), stacked, agents)

    @property
    def static(self) -> Config:
        """Any trial's configuration, for what all share."""
        return self.configs[0]

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.configs)

    @property
    def groups(self) -> int:
        """G, members of a trial."""
        return 1 if self.agents is None else len(self.agents.groups)

    @property
    def size(self) -> int:
        """P, members of all trials."""
        return self.trials * self.groups

    @property
    def rows(self) -> int:
        """N, rows of a member: an environment has one for every agent of a group."""
        return (self.static.env.num_envs or 0) * (1 if self.agents is None else self.agents.width)

    @property
    def names(self) -> list[str]:
        """Names of a trial's members in records and files; empty texts where there is one."""
        if self.agents is None or self.groups == 1:
            return [""]
        return ["+".join(group) for group in self.agents.groups]

    @property
    def firsts(self) -> list[str]:
        """The first agent of each member of a trial; an empty name where there is one."""
        return self.agents.firsts if self.agents is not None else [""]

    def members(self, trial: int) -> range:
        """The members of a trial."""
        return range(trial * self.groups, (trial + 1) * self.groups)

    @property
    def members_hyper(self) -> list[Hyper]:
        """Hyper numbers of every member."""
        return [Hyper(*row) for row in zip(*self.hyper, strict=True)]

    @property
    def seeds(self) -> list[int]:
        """Seed of every member: a trial's own is that of its first."""
        return [seed_of_group(seed, group) for seed in self.trial_seeds for group in range(self.groups)]

    @property
    def trial_seeds(self) -> list[int]:
        """Seed of every trial."""
        return [config.seed or 0 for config in self.configs]


@dataclass(frozen=True)
class Rules:
    """The Static side of an update; equal rules make equal programs, so they key them.

    Attributes:
        network: the parameters' layout.
        entropy: any member has an entropy bonus.
        two_rates: any member's value parameters have a learning rate of their own.
        compiled: the update is.
        program: text of everything in the configuration that the update reads, see `program_key`.
        config: where to read it.
        processes: that learn together, each from a part of every minibatch.
    """

    network: Network
    entropy: bool
    two_rates: bool
    compiled: bool
    program: str
    config: Config = field(compare=False)
    processes: int = 1

    @classmethod
    def of(cls, network: Network, config: Config, hyper: Hyper, compiled: bool, processes: int = 1) -> Rules:
        """Those of a pack with these Hyper numbers `[P]`."""
        entropy = bool(np.any(hyper.entropy_loss_scale))
        two_rates = bool(np.any(hyper.value_learning_rate != hyper.learning_rate))
        return cls(network, entropy, two_rates, compiled, program_key(config), config, processes)

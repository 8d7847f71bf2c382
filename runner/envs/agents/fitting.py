"""Environments of several agents as a configuration wants them, and the refusal of what does not go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runner.config import Config
from runner.envs.agents.roster import Agents
from runner.envs.base import VectorEnv
from runner.errors import UserError, did_you_mean, shown


def fitted(env: VectorEnv, config: Config) -> VectorEnv:
    """The environment, its rows arranged as agents share parameters, with the shared state where a network reads it.

    Raises:
        UserError: the algorithm is of one agent and the environment of several, or the other way round.
    """
    agent, agents = config.agent, env.agents
    if agents is None and agent.several:
        raise UserError(
            f"agent.class: {agent.cls} is of several agents, and this environment has one; allowed here: PPO, RPO, A2C"
        )
    if agents is None:
        return env
    if not agent.several:
        raise UserError(
            f"agent.class: {agent.cls} is of one agent, and this environment has {len(agents.names)} "
            f"({', '.join(agents.names)}); allowed here: IPPO, MAPPO"
        )
    found = env.arranged(agent.share_parameters, config.models.reads("STATES"))
    assert found.agents is not None
    for name, numbers in agent.of_agents.items():
        _check(f"agent.{name}", numbers, found.agents)
    return found


def _check(key: str, numbers: Mapping[str, Any], agents: Agents) -> None:
    """Refuse numbers that are not of each agent, or differ between those who share a network."""
    for name in numbers:
        if name not in agents.names:
            allowed = did_you_mean(name, agents.names) or f" Allowed: {', '.join(agents.names)}"
            raise UserError(f"{key}: this environment has no agent {shown(name, 40)}.{allowed}")
    if missing := [name for name in agents.names if name not in numbers]:
        raise UserError(f"{key}: none of {', '.join(missing)}; allowed: one of each agent, or one for all")
    for group in agents.groups:
        if any(numbers[name] != numbers[group[0]] for name in group):
            raise UserError(f"{key}: {', '.join(group)} share parameters; allowed: one for all of them")

"""Environments of several agents as a configuration wants them, and the refusal of what does not go together."""

from __future__ import annotations

from runner.config import Config
from runner.envs.base import VectorEnv
from runner.errors import UserError


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
    return env.arranged(agent.share_parameters, config.models.reads("STATES"))

"""Observations and actions of several agents by their names, as `agent.act` takes and gives them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from runner.envs.observations import as_array, flatten_observations
from runner.envs.spaces import Layout


def rows_of(env: Any, observations: Mapping[str, Any]) -> np.ndarray:
    """`{agent: [N, …]}` as the rows that policies read, zeros for agents that are left out.

    Args:
        env: of several agents, whose spaces these are.
        observations: of one agent or more, any N.

    Raises:
        ValueError: they do not fit an agent's space, or are of different numbers of environments.
    """
    agents, common = env.agents, env.common
    flat = {name: _flat(common.layouts[agents.names.index(name)], own, name) for name, own in observations.items()}
    counts = {name: len(rows) for name, rows in flat.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"numbers of environments differ: {counts}")
    count = next(iter(counts.values()))
    cells = np.zeros((count, len(agents.names), env.observation_size), env.layout.dtype)
    for name, rows in flat.items():
        agent = agents.names.index(name)
        cells[:, agent, : common.columns] = common.padded(agent, rows)
    found: np.ndarray = agents.rows_of(cells, count)
    return found


def by_agent(env: Any, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Actions of rows as each agent's own, `{agent: [N, …]}`."""
    agents, common, actions = env.agents, env.common, env.actions
    cells = agents.of_rows(rows, len(rows) // agents.rows)
    found = {}
    for agent, name in enumerate(agents.names):
        own = cells[:, agent].reshape(len(cells), -1)
        if common.starts is not None:
            own = own - actions.low + common.starts[agent]
        found[name] = own.reshape(len(cells), *actions.shape).astype(actions.dtype)
    return found


def _flat(parts: Layout, observations: Any, name: str) -> np.ndarray:
    leaf = observations
    while isinstance(leaf, Mapping | tuple):
        leaf = next(iter(leaf.values() if isinstance(leaf, Mapping) else leaf))
    array = as_array(leaf)
    if not array.ndim or (not parts.children and array.size != len(array) * parts.stop):
        raise ValueError(f"{name}: found shape {list(array.shape)}; allowed: [N, {', '.join(map(str, parts.shape))}]")
    rows = np.zeros((len(array), parts.stop), parts.dtype)
    flatten_observations(parts, observations, rows)
    if not np.isfinite(rows).all():
        raise ValueError(f"{name}: found numbers that are not finite; allowed: finite numbers in float32")
    return rows

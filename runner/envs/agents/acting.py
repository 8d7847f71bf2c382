"""Observations and actions of several agents by their names, as `agent.act` takes and gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from runner.envs.observations import flatten_batch
from runner.envs.spaces import ActionSpace, Layout


def rows_of(env: Any, observations: Mapping[str, Any]) -> np.ndarray:
    """`{agent: [N, …]}` as the rows that policies read, zeros for agents that are left out.

    Args:
        env: of several agents, whose spaces these are.
        observations: of one agent or more, any N.

    Raises:
        ValueError: they do not fit an agent's space, or are of different numbers of environments.
    """
    agents, common = env.agents, env.common
    numbers = {name: agents.names.index(name) for name in observations}
    flat = {
        name: flatten_batch(common.spaces[number], common.layouts[number], observations[name], name)
        for name, number in numbers.items()
    }
    counts = {name: len(rows) for name, rows in flat.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"numbers of environments differ: {counts}")
    count = next(iter(counts.values()))
    cells = np.zeros((count, len(agents.names), env.observation_size), env.layout.dtype)
    for name, rows in flat.items():
        cells[:, numbers[name], : common.columns] = common.padded(numbers[name], rows)
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


def own(env: Any, agent: str) -> tuple[Layout, ActionSpace, np.ndarray]:
    """One agent's own spaces, and the columns of its flat observation, followed by a 0 and a 1, that make a row."""
    number, common = env.agents.names.index(agent), env.common
    parts, gather, actions = common.layouts[number], common.gathers[number], env.actions
    columns = np.arange(parts.stop) if gather is None else gather
    columns = np.append(columns, np.full(env.observation_size - len(columns), parts.stop))  # of the shared state
    if common.starts is not None:
        actions = replace(actions, low=common.starts[number])
    return parts, actions, columns

"""EnvPool's tasks of several players as rows, step by step."""

from __future__ import annotations

import numpy as np

from runner.envs.agents.players import Players, of_task
from runner.envs.envpool import EnvPoolTask


def test_equals_the_pool_itself() -> None:
    task = EnvPoolTask("IntersectionMultiAgent-v1", 2)
    env, alone = of_task(task).seeded([3, 4], 1), task.seeded([3, 4], 1)
    assert isinstance(env, Players)
    agents, players, numbers = env.agents, len(env.agents.names), np.arange(2, dtype=np.int32)
    (name, array), rng = list(alone.pool.spec.action_array_spec.items())[-1], np.random.default_rng(0)
    seen, given = env.reset()[0], alone.pool.reset()[0]
    rewarded = set()
    for _ in range(150):
        assert np.array_equal(agents.of_rows(seen, 2), np.reshape(given, (2, players, -1)))
        actions = rng.integers(0, env.actions.sizes[0], (2, players))
        seen, rewards, terminated, truncated, _ = env.step(agents.rows_of(actions, 2))
        taken = {name: actions.reshape(-1).astype(array.dtype), "players.env_id": numbers.repeat(players)}
        given, *columns, _ = alone.pool.step({**taken, "env_id": numbers})
        assert rewards.dtype == np.float32
        assert np.array_equal(agents.of_rows(rewards, 2), np.reshape(columns[0], (2, players)))
        assert np.array_equal(agents.of_rows(terminated | truncated, 2)[:, 0], columns[1] | columns[2])
        rewarded.update(rewards.tolist())
    assert any(not reward.is_integer() for reward in rewarded)

"""Half-pools change no number: trained parameters, records and episodes are bit for bit those of one pool."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runner.config import resolve
from runner.envs.envpool import EnvPoolTask
from runner.envs.halves import Halves, halved, middle
from runner.errors import UserError
from runner.training.pack import identity, policy_key, static_key
from tests.runner.builders import TASKS, both, fingerprint, make_config, make_env, plain_config, runner_class, told

pytestmark = pytest.mark.usefixtures("optimised")
GRU = {
    "models.policy.network.0.layers": [{"gru": 8}],
    "models.value.network.0.layers": [{"gru": 8}],
    "agent.sequence_length": 4,
}
CASES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "discrete": ("CartPole-v1", 64, {}),
    "continuous": ("HalfCheetah-v4", 48, {}),
    "rows that cannot be acted on apart": ("CartPole-v1", 32, {}),
    "recurrent": ("CartPole-v1", 64, GRU),
    "first at random": ("CartPole-v1", 64, {"agent.random_timesteps": 8, "trainer.timesteps": 24}),
}


def trained(backend: str, case: str, half_pools: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, list[int]]:
    """Everything that two updates of two members leave behind, what they report, and the sizes of what is acted on."""
    task, envs, changes = CASES[case]
    policy, arguments = TASKS[task]
    config = make_config({"env.half_pools": half_pools, "trainer.timesteps": 16, **changes}, policy)
    runner = runner_class(backend)(EnvPoolTask(task, envs, arguments), config, seeds=[5, 6], threads=2)
    sizes: list[int] = []
    with monkeypatch.context() as patch:
        rollout = __import__(f"runner.{backend}.rollout", fromlist=["Collector"])
        if backend == "torch":
            inner = rollout.Collector._receive

            def receive(self: Any, part: Any, t: int, columns: Any) -> Any:
                sizes.append(part.env.num_envs)
                return inner(self, part, t, columns)

            patch.setattr(rollout.Collector, "_receive", receive)
        reports = [told(report) for report in runner.reports()]
    return [fingerprint(state) for state in runner.states()], reports, sizes


@pytest.mark.parametrize(("backend", "case"), both(CASES, ["continuous"]))
def test_training_is_bit_equal_to_that_of_one_pool(backend: str, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states, reports, whole = trained(backend, case, False, monkeypatch)
    *again, sizes = trained(backend, case, True, monkeypatch)
    assert again == [states, reports]
    if backend == "torch":
        envs = 2 * CASES[case][1]
        halves = {2 * middle(envs // 2), envs - 2 * middle(envs // 2)}
        assert set(whole) == {envs} and set(sizes) == ({envs} if case.startswith("rows") else halves)


def test_rows_are_members_side_by_side() -> None:
    seeds = [10, 11, 12, 13, 14, 20, 21, 22, 23, 24]
    env = make_env("Pendulum-v1", 5)
    one = env.seeded(seeds, 1)
    halves = Halves([env.seeded([10, 11, 20, 21], 1), env.seeded([12, 13, 14, 22, 23, 24], 1)], 2)
    np.testing.assert_array_equal(halves.reset()[0], one.reset()[0])
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = rng.uniform(-1, 1, (10, 1)).astype(np.float32)
        for ours, theirs in zip(halves.step(actions)[:4], one.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    rows = rng.normal(size=(10, 3))
    np.testing.assert_array_equal(halves.joined(halves.cut(rows)), rows)


def test_by_themselves_they_are_made_where_a_gpu_acts() -> None:
    env, several = EnvPoolTask("Pendulum-v1", 8), make_env("Pendulum-v1", 1)
    assert halved("auto", env, 8, gpu=True) and not halved("auto", env, 8, gpu=False)
    assert not halved("auto", env, 1, gpu=True)
    assert not halved(False, env, 8, gpu=True) and halved(True, env, 8, gpu=False)
    several.overlaps = False
    assert not halved("auto", several, 8, gpu=True)
    with pytest.raises(UserError, match=r"env\.half_pools: found True.*not an EnvPool task.*allowed: auto or False"):
        halved(True, several, 8, gpu=False)
    with pytest.raises(UserError, match="num_envs is 1"):
        halved(True, env, 1, gpu=False)


def test_the_cut_leaves_blocks_of_rows_whole() -> None:
    assert [middle(envs) for envs in (2, 3, 32, 48, 64, 100, 1000)] == [1, 1, 16, 24, 32, 48, 496]


def test_they_are_no_part_of_what_a_trial_is() -> None:
    plain, other = (resolve(plain_config(changes))[0] for changes in ({}, {"env.half_pools": True}))
    assert identity(plain) == identity(other) and policy_key(plain) == policy_key(other)
    assert static_key(plain) != static_key(other), "members of one pack are stepped in one way"

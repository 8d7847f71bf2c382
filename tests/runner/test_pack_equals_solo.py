"""L1: a member of a pack gets what it would get alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from runner.config import Config
from runner.draws import environment_seeds
from runner.envs.base import Step, VectorEnv
from runner.training.state import MemberState
from tests.runner.builders import (
    TASKS,
    assert_same,
    both,
    fingerprint,
    make_config,
    make_env,
    numbers,
    runner_class,
)

pytestmark = pytest.mark.usefixtures("optimised")

SEEDS = (5, 6, 7)
ENVS = 3
ENTROPY = {"agent.entropy_loss_scale": 0.1}
UNEQUAL: dict[str, tuple[Any, ...]] = {
    "agent.learning_rate": (1e-3, 3e-2, 1e-4),
    "agent.discount_factor": (0.99, 0.9, 1.0),
    "agent.entropy_loss_scale": (0.0, 0.1, 0.0),
    "agent.grad_norm_clip": (0.5, 0.0, 0.1),
    "agent.value_clip": (0.0, 0.2, 0.01),
    "agent.kl_threshold": (0.0, 0.001, 0.0),
    "agent.rewards_shaper_scale": (1.0, 0.1, 3.0),
}


def members(task: str, unequal: bool = False, **changes: Any) -> list[Config]:
    policy, _ = TASKS[task]
    configs = []
    for index, seed in enumerate(SEEDS):
        own = {name: values[index] for name, values in UNEQUAL.items()} if unequal else {}
        configs.append(make_config({"seed": seed, **own, **changes}, policy))
    return configs


def trained(backend: str, task: str, configs: list[Config], env: VectorEnv | None = None) -> list[MemberState]:
    env = make_env(task, ENVS, TASKS[task][1]) if env is None else env
    runner = runner_class(backend)(env, configs[0], configs=configs, threads=1)
    for _ in runner.reports():
        pass
    return runner.states()


@pytest.mark.parametrize("task", TASKS)
def test_environments_are_bit_equal_under_the_same_actions(task: str) -> None:
    env = make_env(task, ENVS, TASKS[task][1])
    rng = np.random.default_rng(0)
    pool = env.seeded([s for seed in SEEDS for s in environment_seeds(seed, ENVS)], 2)
    alone = [env.seeded(environment_seeds(seed, ENVS), 1) for seed in SEEDS]
    together = [pool.reset()[0]]
    apart = [np.concatenate([e.reset()[0] for e in alone])]
    ends = 0
    for _ in range(15):
        if env.actions.discrete:
            actions: Any = rng.integers(0, env.actions.units, len(SEEDS) * ENVS)
        else:
            actions = rng.uniform(-1, 1, (len(SEEDS) * ENVS, env.actions.units))
        step = pool.step(actions)
        parts = [e.step(a) for e, a in zip(alone, np.split(actions, len(SEEDS)), strict=True)]
        together += list(step[:4])
        apart += [np.concatenate([part[i] for part in parts]) for i in range(4)]
        ends += int((step[2] | step[3]).sum())
    assert ends > 0
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(one, other)


# JAX compiles every shape for seconds: members that differ in all numbers show what equal ones would.
UNEQUAL_AND_EQUAL = [(task, unequal) for task in TASKS for unequal in (False, True)]


@pytest.mark.parametrize(("backend", "case"), both(UNEQUAL_AND_EQUAL, jax=[("Pendulum-v1", True)]))
def test_one_iteration_in_a_pack_equals_the_solo_run(backend: str, case: tuple[str, bool]) -> None:
    task, unequal = case
    configs = members(task, unequal)
    pack = trained(backend, task, configs)
    for index, config in enumerate(configs):
        (solo,) = trained(backend, task, [config])
        assert_same(pack[index], solo, rtol=1e-6)
    assert len({fingerprint(state) for state in pack}) == len(SEEDS)


@pytest.mark.parametrize(("backend", "task"), both(TASKS, jax=["Pendulum-v1"]))
def test_the_order_of_members_does_not_matter(backend: str, task: str) -> None:
    configs = members(task, unequal=True)
    forwards = trained(backend, task, configs)
    backwards = trained(backend, task, configs[::-1])
    for one, other in zip(forwards, backwards[::-1], strict=True):
        assert_same(one, other, rtol=1e-6)


def test_equal_seeds_in_a_pack_are_equal_members() -> None:
    config = make_config({"seed": 3, "trainer.timesteps": 24})
    one, other = trained("torch", "Pendulum-v1", [config, config])
    assert_same(one, other, rtol=1e-6)


DIVERGING = [(task, scheduler) for task in ("CartPole-v1", "Pendulum-v1") for scheduler in (None, "KLAdaptiveLR")]


@pytest.mark.parametrize(("backend", "case"), both(DIVERGING, jax=[("Pendulum-v1", None)]))
def test_a_member_that_diverges_is_frozen_and_leaves_its_mates_alone(
    backend: str, case: tuple[str, str | None]
) -> None:
    task, scheduler = case
    changes = {"trainer.timesteps": 32, "agent.learning_rate_scheduler": scheduler, **ENTROPY}
    configs = members(task, **changes)
    policy = TASKS[task][0]
    # Value clipping would keep the loss finite whatever the parameters.
    sick = make_config({"seed": SEEDS[1], "agent.learning_rate": 1e30, "agent.value_clip": 0.0, **changes}, policy)
    env = make_env(task, ENVS, TASKS[task][1])
    runner = runner_class(backend)(env, sick, configs=[configs[0], sick, configs[2]], threads=1)
    reports = list(runner.reports())
    states = runner.states()

    for index in (0, 2):
        (solo,) = trained(backend, task, [configs[index]])
        assert_same(states[index], solo, rtol=1e-6)
    assert [state.counters.diverged for state in states] == [False, True, False]
    assert all(np.isfinite(value).all() for value in numbers(states[1]).values())
    assert [member for report in reports for member in report.diverged] == [1]
    assert states[1].counters.records == 1, "the update that diverged is reported, none after it"
    for report in reports[1:]:
        assert report.records[0] is not None and report.records[2] is not None
    assert reports[-1].records[1] is None
    assert states[0].counters.records == states[2].counters.records == len(reports) - 1


def test_a_pack_whose_members_all_diverge_ends(backend: str) -> None:
    config = make_config({"agent.learning_rate": 1e30, "trainer.timesteps": 10**9, **ENTROPY})
    states = trained(backend, "Pendulum-v1", [config])
    assert states[0].counters.diverged and states[0].counters.timestep < 10**9


class PoisonedMember(VectorEnv):
    """Gives the second member of a pack rewards that are no numbers."""

    def __init__(self, inner: VectorEnv, poison: float) -> None:
        super().__init__(inner.num_envs, inner.observation_space, inner.action_space)
        self.inner, self.poison = inner, poison

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        return self.inner.reset()

    def step(self, actions: Any) -> Step:
        observations, rewards, terminated, truncated, info = self.inner.step(actions)
        rewards[ENVS : 2 * ENVS] = self.poison
        return observations, rewards, terminated, truncated, info

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        whole = PoisonedMember(self.inner.seeded(seeds, threads), self.poison)
        whole.num_envs = len(seeds)
        return whole


POISONS = [float("nan"), float("inf"), 1e38, -1e30]


@pytest.mark.parametrize(("backend", "poison"), both(POISONS, jax=POISONS))
def test_a_member_with_poisoned_experience_is_frozen_alone(
    backend: str, poison: float, caplog: pytest.LogCaptureFixture
) -> None:
    configs = members("Pendulum-v1", **ENTROPY)
    healthy = trained(backend, "Pendulum-v1", configs)
    env = PoisonedMember(make_env("Pendulum-v1", ENVS, TASKS["Pendulum-v1"][1]), poison)
    states = trained(backend, "Pendulum-v1", configs, env)
    assert [state.counters.diverged for state in states] == [False, True, False]
    for index in (0, 2):
        assert_same(states[index], healthy[index], rtol=1e-6)
    assert all(np.isfinite(value).all() for value in numbers(states[1]).values())
    assert f"seed {SEEDS[1]} diverged at timestep 0: the environment gave a reward" in caplog.text


def test_the_seeds_of_environments_follow_from_seed_index_and_timestep_alone() -> None:
    def spread(lists: Iterable[list[int]]) -> set[int]:
        return {s for seeds in lists for s in seeds}

    every = [environment_seeds(seed, 50, timestep) for seed in range(5) for timestep in (0, 16, 32)]
    assert len(spread(every)) == 5 * 3 * 50, "two environments share a seed"
    assert environment_seeds(3, 50, 16)[:7] == environment_seeds(3, 7, 16)
    expected = int(np.random.SeedSequence((3, 4, 16)).generate_state(1)[0] >> 1)
    assert environment_seeds(3, 5, 16)[4] == expected
    assert all(0 <= s < 2**31 for s in spread(every))

"""The options beside PPO's own: an update with each is the same in both backends, and does what it says."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.runner.jax.problem import joined, numbers_of, solve, torch_solve
from tests.runner.torch.problem import ROWS, A, P, Problem
from tests.runner.torch.test_equals_oracle import close

EPOCHS = 3
VALUE_RATES = (2e-3, 6e-4, 2e-4)
OPTIONS: dict[str, dict[str, Any]] = {
    "RPO": {"agent.class": "RPO"},
    "A2C": {"agent.class": "A2C"},
    "two rates": {"models.separate": True},
    "a counted schedule": {"agent.learning_rate_scheduler": "linear"},
    "reduction mean": {"models.policy.reduction": "mean"},
    "reduction prod": {"models.policy.reduction": "prod"},
    "reduction none": {"models.policy.reduction": "none"},
    "clipped means": {"models.policy.clip_mean_actions": True, "models.policy.output": "5 * ACTIONS"},
}
TOGETHER = (("RPO", "a counted schedule"), ("A2C",), ("two rates", "clipped means", "reduction none"))
"""Every program is compiled for seconds, so several options share one."""


def problem_of(*names: str, **changes: Any) -> tuple[Problem, np.ndarray | None, np.ndarray | None]:
    """A random update with these options, its rates `[P, E]` and its shifts `[E, P, B, A]`."""
    epochs = 1 if "A2C" in names else EPOCHS
    keys = {"agent.learning_epochs": epochs, "agent.mini_batches": 3, **changes}
    for name in names:
        keys |= OPTIONS[name]
    two = "two rates" in names
    problem = Problem.random(keys, {"value_learning_rate": VALUE_RATES} if two else {})
    if two:
        assert problem.rules.two_rates
    rng = np.random.default_rng(0)
    counted = "a counted schedule" in names
    rates = rng.uniform(1e-4, 1e-2, (P, epochs)).astype(np.float32) if counted else None
    shifts = rng.normal(size=(epochs, P, ROWS, A)).astype(np.float32) if "RPO" in names else None
    return problem, rates, shifts


@pytest.mark.parametrize("names", TOGETHER, ids=" and ".join)
def test_an_update_is_the_same_in_both_backends(names: tuple[str, ...]) -> None:
    problem, rates, shifts = problem_of(*names)
    theirs, metrics, _ = torch_solve(problem, None, rates, shifts)
    mine, ours, _ = solve(problem, None, rates, shifts)
    for p in range(P):
        one, other = (joined(numbers_of(problem, learner, p)) for learner in (mine, theirs))
        for part, value in one.items():
            close(value, other[part], part)
        close(jnp.stack(ours)[:, p], torch.cat(metrics, 1)[p])
    if rates is not None:
        np.testing.assert_array_equal(theirs.optimizer.learning_rate[:, 0], rates[:, -1])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_changes_what_is_learned(name: str) -> None:
    problem, rates, shifts = problem_of(name)
    same = {key: value for key, value in OPTIONS[name].items() if key.endswith(("separate", "output"))}
    plain, *_ = problem_of(**same, **{"agent.learning_epochs": problem.config.agent.learning_epochs})
    plain.orders = problem.orders
    learned, otherwise = (
        torch_solve(*these)[0].optimizer.parameters for these in ((problem, None, rates, shifts), (plain,))
    )
    assert learned.isfinite().all()
    assert all(not torch.allclose(one, other, atol=1e-6) for one, other in zip(learned, otherwise, strict=True))


def test_two_rates_are_each_its_own_parameters() -> None:
    """Adam's direction is the same: only the lengths of the value's steps differ, in proportion."""
    once = {"agent.mini_batches": 1, "agent.learning_epochs": 1}
    one, two = Problem.random({**once, "models.separate": True}), problem_of("two rates", **once)[0]
    two.orders = one.orders
    after = [torch_solve(problem)[0].optimizer.parameters for problem in (one, two)]
    before, of_value = one.learner.optimizer.parameters, one.network.of_value()
    assert of_value.any() and not of_value.all()
    close(after[0][:, ~of_value], after[1][:, ~of_value])
    for p, (rate, other) in enumerate(zip((1e-3, 3e-4, 2e-3), VALUE_RATES, strict=True)):
        steps = [(x[p] - before[p])[of_value] for x in after]
        np.testing.assert_allclose(steps[1], steps[0] * (other / rate), rtol=1e-2, atol=1e-6)


def test_what_rpo_adds_is_no_change_of_the_policy() -> None:
    """Its KL is PPO's at the first step, so that it neither stops an epoch nor lowers an adaptive learning rate."""
    once = {"agent.mini_batches": 1, "agent.learning_epochs": 1}
    plain, robust = problem_of(**once), problem_of("RPO", **once)
    assert robust[2] is not None
    one, other = (torch_solve(problem, None, *extra)[1] for problem, *extra in (plain, (*robust[:2], robust[2][:1])))
    close(one.kl, other.kl)
    assert not torch.allclose(one.policy_loss, other.policy_loss, rtol=1e-2)

"""L4: every torch function, and the whole update, equals tests/oracle.py; three members with nothing in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from runner.torch import accelerate, advantages, preprocessors, schedulers
from runner.torch.loss import Batch, loss
from runner.torch.update import minibatch_step, update
from tests import oracle
from tests.runner.torch.problem import HYPER, ROWS, A, O, P, Problem, hyper_of

RTOL = 1e-5


def fresh_statistics(members: int, features: int) -> preprocessors.Statistics:
    """Before any row: one pseudo-row of mean 0 and variance 1."""
    shape, one = (members, features), torch.ones(members, 1, dtype=torch.float64)
    return preprocessors.Statistics(
        torch.zeros(shape, dtype=torch.float64), torch.ones(shape, dtype=torch.float64), one
    )


def close(actual: Any, expected: Any, what: str = "", rtol: float = RTOL) -> None:
    """Equal to `rtol` of the largest number."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    scale = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale, err_msg=what)


# ---------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_and_returns_equal_the_oracle(bootstrap: bool) -> None:
    rng = np.random.default_rng(3)
    rewards, values = rng.normal(size=(P, 30, 4)), rng.normal(size=(P, 31, 4))
    ended = rng.random((P, 30, 4)) < 0.2
    terminated = ended & (rng.random(ended.shape) < 0.5)
    hyper = hyper_of(HYPER)
    both = advantages.gae(
        torch.tensor(rewards).float(),
        torch.tensor(values[:, :-1]).float(),
        torch.tensor(values[:, 1:]).float(),
        torch.tensor(terminated if bootstrap else ended),
        torch.tensor(ended),
        hyper.discount_factor,
        hyper.gae_lambda,
    )
    for p in range(P):
        expected = oracle.gae(
            rewards=rewards[p],
            values=values[p],
            terminated=terminated[p],
            truncated=ended[p] & ~terminated[p],
            discount_factor=HYPER["discount_factor"][p],
            gae_lambda=HYPER["gae_lambda"][p],
            time_limit_bootstrap=bootstrap,
        )
        for actual, wanted, what in zip(both, expected, ("advantages", "returns"), strict=True):
            close(actual[p], wanted, what)


@pytest.mark.parametrize("rows", [50, 3, 1, 0])
def test_normalised_advantages_equal_the_oracle_whatever_the_number_of_valid_rows(rows: int) -> None:
    rng = np.random.default_rng(rows)
    values, valid = rng.normal(3, 20, size=(P, 60)), np.zeros((P, 60), bool)
    valid[:, rng.permutation(60)[:rows]] = True
    valid[2] = True
    actual = advantages.normalize(torch.tensor(values).float(), torch.tensor(valid).float())
    for p in range(P):
        close(actual[p], oracle.normalize_advantages(values[p], valid[p]), rtol=1e-4)


def test_advantages_whose_variance_overflows_are_no_numbers_instead_of_zeros() -> None:
    overflowed, healthy = advantages.normalize(torch.tensor([[1e30, -1e30, 3.0], [1.0, 2.0, 3.0]]), torch.ones(2, 3))
    assert overflowed.isnan().all() and healthy.isfinite().all()


def test_statistics_of_many_batches_equal_the_oracle() -> None:
    rng = np.random.default_rng(4)
    statistics = fresh_statistics(P, O)
    scalers = [oracle.RunningStandardScaler(O) for _ in range(P)]
    for size in (20, 1, 7, 64):
        rows = (rng.normal(size=(P, size, O)) * 10 + 100 * np.arange(P)[:, None, None]).astype(np.float32)
        valid = rng.random((P, size)) < 0.7
        valid[0, 1:] = False  # one row, or none
        statistics = preprocessors.absorb(statistics, torch.tensor(rows), torch.tensor(valid).float())
        for p, scaler in enumerate(scalers):
            scaler.absorb(rows[p][valid[p]])
            close(statistics.mean[p], scaler.mean, rtol=1e-12)
            close(statistics.variance[p], scaler.variance, rtol=1e-12)
            assert float(statistics.seen[p, 0]) == scaler.count
    ready = preprocessors.scaler(statistics, 1e-8, 1.5)
    rows = (rng.normal(size=(P, 30, O)) * 40).astype(np.float32)
    for p, scaler in enumerate(scalers):
        scaler.clip_threshold = 1.5
        close(ready.normalize(torch.tensor(rows))[p], scaler.normalize(rows[p]))
        close(ready.denormalize(torch.tensor(rows))[p], scaler.inverse(rows[p]))


def test_a_batch_without_valid_rows_leaves_the_statistics_alone() -> None:
    before = preprocessors.Statistics(*(torch.full((P, k), 3.5, dtype=torch.float64) for k in (O, O, 1)))
    after = preprocessors.absorb(before, torch.randn(P, 5, O), torch.zeros(P, 5))
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_statistics_keep_their_precision_far_from_zero() -> None:
    rng = np.random.default_rng(5)
    rows = (1e6 + rng.normal(size=(1, 4000, 1))).astype(np.float32)
    statistics = fresh_statistics(1, 1)
    for part in np.split(rows, 40, axis=1):
        statistics = preprocessors.absorb(statistics, torch.tensor(part), torch.ones(1, part.shape[1]))
    scaler = oracle.RunningStandardScaler(1)
    scaler.absorb(rows[0])
    close(statistics.variance[0], scaler.variance, rtol=1e-6)


def test_the_kl_schedule_equals_the_oracle() -> None:
    hyper = hyper_of(HYPER)
    names = ("kl_threshold", "kl_factor", "lr_factor", "min_lr", "max_lr")
    for kl in (0.0, 1e-3, 0.0041, 0.017, 0.08, 0.4, 10.0, float("nan")):
        for rate in (1e-7, 1e-5, 3e-4, 9e-3, 0.1):
            after = schedulers.kl_adaptive(torch.full((P, 1), rate), torch.full((P, 1), kl), hyper)
            for p in range(P):
                threshold, *rest = (HYPER[f"scheduler_{name}"][p] for name in names)
                close(after[p, 0], oracle.kl_adaptive(rate, kl, threshold, *rest))


# ---------------------------------------------------------------------------------------------- loss and step

LOSSES: dict[str, tuple[dict[str, Any], dict[str, tuple[float, ...]], str]] = {
    "gaussian shared": ({}, {}, "GaussianMixin"),
    "gaussian separate": ({"models.separate": True}, {}, "GaussianMixin"),
    "categorical shared": ({}, {}, "CategoricalMixin"),
    "categorical separate": ({"models.separate": True}, {}, "CategoricalMixin"),
    "value loss max": ({"agent.value_loss": "max"}, {}, "GaussianMixin"),
    "gaussian entropy": ({}, {"entropy_loss_scale": (0.02, 0.0, 0.3)}, "GaussianMixin"),
    "categorical entropy": ({}, {"entropy_loss_scale": (0.02, 0.0, 0.3)}, "CategoricalMixin"),
    "unclipped log_std": ({"models.policy.clip_log_std": False}, {}, "GaussianMixin"),
    "fixed log_std": ({"models.policy.fixed_log_std": True}, {"entropy_loss_scale": (0.1, 0.1, 0.1)}, "GaussianMixin"),
}


def _batch(problem: Problem) -> tuple[Batch, list[dict[str, Any]]]:
    """Rows with ratios and value changes on both sides of every clip, and the same for the oracle."""
    rng = np.random.default_rng(11)
    observations = rng.normal(size=(P, ROWS, O)).astype(np.float32)
    valid = rng.random((P, ROWS)) < 0.8
    gaussian = problem.network.distribution.gaussian
    actions = rng.normal(size=(P, ROWS, A)).astype(np.float32) if gaussian else rng.integers(0, A, (P, ROWS))
    columns = {name: np.empty((P, ROWS)) for name in ("log_probs", "values", "advantages", "returns")}
    for p in range(P):
        named = problem.named(p, problem.learner.optimizer.parameters)
        output, value = oracle.forward(named, observations[p], **problem.network_options())
        if gaussian:
            policy = problem.config.models.policy
            bounds = (policy.min_log_std, policy.max_log_std) if policy.clip_log_std else (-99.0, 99.0)
            now = oracle.gaussian_log_prob(output, named["policy.log_std"], actions[p], *bounds)
        else:
            now = oracle.categorical_log_prob(output, actions[p])
        columns["log_probs"][p] = now + rng.normal(size=ROWS) * 0.3
        columns["values"][p] = value + rng.normal(size=ROWS) * 0.2
        columns["returns"][p] = value + rng.normal(size=ROWS)
        columns["advantages"][p] = rng.normal(size=ROWS)
    columns = {name: c.astype(np.float32) for name, c in columns.items()}
    weight = torch.tensor(valid / valid.sum(1, keepdims=True)).float()
    tensors = {name: torch.tensor(c) for name, c in columns.items()}
    batch = Batch(
        torch.tensor(observations),
        torch.tensor(actions.reshape(P, ROWS, -1)),
        tensors["log_probs"],
        tensors["advantages"],
        tensors["returns"],
        tensors["values"],
        weight,
    )
    for_oracle = [
        {"observations": observations[p], "actions": actions[p], "valid": valid[p]}
        | {name: c[p] for name, c in columns.items()}
        for p in range(P)
    ]
    return batch, for_oracle


@pytest.fixture(params=LOSSES.values(), ids=list(LOSSES))
def problem(request: pytest.FixtureRequest) -> Problem:
    changes, numbers, policy = request.param
    return Problem.random(changes, numbers, policy)


def _oracle_loss(problem: Problem, p: int, rows: dict[str, Any]) -> oracle.Loss:
    options = problem.loss_options(p)
    if not problem.config.models.policy.clip_log_std:
        options |= {"min_log_std": -99.0, "max_log_std": 99.0}
    return oracle.loss(problem.named(p, problem.learner.optimizer.parameters), **rows, **options)


@pytest.mark.parametrize("gradient_of", [accelerate.eager_gradient, accelerate.functional_gradient])
def test_loss_and_every_gradient_leaf_equal_the_oracle(problem: Problem, gradient_of: Any) -> None:
    batch, for_oracle = _batch(problem)
    gradient, parts = gradient_of(
        lambda flat: loss(flat, batch, problem.hyper, problem.rules), problem.learner.optimizer.parameters
    )
    for p in range(P):
        expected = _oracle_loss(problem, p, for_oracle[p])
        wanted = (expected.policy, expected.value, expected.entropy, expected.kl, expected.clip_fraction)
        close([float(part[p, 0]) for part in parts], wanted, "losses")
        assert 0 < expected.clip_fraction < 1
        for name, leaf in problem.named(p, gradient).items():
            close(leaf, expected.gradient[name], name)


def test_a_minibatch_step_equals_the_oracle(problem: Problem) -> None:
    batch, for_oracle = _batch(problem)
    optimizer = problem.learner.optimizer
    active = torch.tensor([[True], [True], [False]])
    after, metrics, still = minibatch_step(optimizer, batch, problem.hyper, active, problem.rules)
    assert still.flatten().tolist() == [True, True, False]
    for p in range(2):
        expected = _oracle_loss(problem, p, for_oracle[p])
        close(metrics.gradient_norm[p, 0], oracle.global_norm(expected.gradient))
        clipped = oracle.clip_gradients(expected.gradient, problem.number("grad_norm_clip", p))
        adam = problem.adam(p)
        rate = problem.number("learning_rate", p)
        moved = adam.step(problem.named(p, optimizer.parameters), clipped, rate)
        for name, value in problem.named(p, after.parameters).items():
            before = problem.named(p, optimizer.parameters)[name]
            close((value - before) / rate, (moved[name] - before) / rate, name, rtol=1e-3)
            close(value, moved[name], name)
        for mine, theirs in ((after.first_moment, adam.first), (after.second_moment, adam.second)):
            for name, value in problem.named(p, mine).items():
                close(value, theirs[name], name)
        assert float(after.steps[p, 0]) == adam.step_count
    for mine, before in zip(after, optimizer, strict=True):
        assert torch.equal(mine[2], before[2]), "a member that is not active moved"


# ---------------------------------------------------------------------------------------------- update

LR = "agent.learning_rate_scheduler"
UPDATES: dict[str, tuple[dict[str, Any], dict[str, tuple[float, ...]], str]] = {
    "two minibatches": ({}, {}, "GaussianMixin"),
    "one minibatch": ({"agent.mini_batches": 1}, {}, "GaussianMixin"),
    "three uneven minibatches": ({"agent.mini_batches": 3}, {}, "GaussianMixin"),
    "a minibatch per row": ({"agent.mini_batches": ROWS}, {}, "GaussianMixin"),
    "frozen, one minibatch": ({"agent.mini_batches": 1, "agent.observation_statistics": "frozen"}, {}, "GaussianMixin"),
    "frozen, three": ({"agent.mini_batches": 3, "agent.observation_statistics": "frozen"}, {}, "GaussianMixin"),
    "categorical": ({"agent.mini_batches": 3}, {"entropy_loss_scale": (0.02, 0.0, 0.1)}, "CategoricalMixin"),
    "separate": ({"models.separate": True, "agent.mini_batches": 3}, {}, "GaussianMixin"),
    "value loss max": ({"agent.value_loss": "max"}, {}, "GaussianMixin"),
    "entropy": ({}, {"entropy_loss_scale": (0.02, 0.0, 0.3)}, "GaussianMixin"),
    "kl stop": (
        {"agent.mini_batches": 3, LR: "KLAdaptiveLR"},
        {"kl_threshold": (0.02, 0.002, np.inf)},
        "GaussianMixin",
    ),
    "kl stop, one minibatch": ({"agent.mini_batches": 1}, {"kl_threshold": (0.001, np.inf, 0.02)}, "GaussianMixin"),
    "normalised per minibatch": (
        {"agent.advantage_normalization": "minibatch", "agent.mini_batches": 3},
        {},
        "GaussianMixin",
    ),
    "not normalised": ({"agent.advantage_normalization": "none"}, {}, "GaussianMixin"),
    "truncation is termination": ({"agent.time_limit_bootstrap": False}, {}, "GaussianMixin"),
    "no statistics": (
        {"agent.observation_preprocessor": None, "agent.value_preprocessor": None},
        {},
        "GaussianMixin",
    ),
    "adaptive rate": ({LR: "KLAdaptiveLR", "agent.mini_batches": 3}, {}, "GaussianMixin"),
    "fixed log_std": ({"models.policy.fixed_log_std": True}, {"entropy_loss_scale": (0.1, 0.1, 0.1)}, "GaussianMixin"),
}


@pytest.fixture(params=UPDATES.values(), ids=list(UPDATES))
def case(request: pytest.FixtureRequest) -> Problem:
    changes, numbers, policy = request.param
    return Problem.random({"agent.learning_epochs": 3, **changes}, numbers, policy)


def _solve(problem: Problem, alive: tuple[bool, ...] = (True, True, True)) -> Any:
    return update(
        problem.learner,
        problem.rollout,
        problem.orders,
        torch.tensor(alive).unsqueeze(1),
        problem.rules,
    )


def test_the_whole_update_equals_the_oracle(case: Problem) -> None:
    learner, metrics, explained = _solve(case)
    stops = 0
    for p in range(P):
        expected = case.oracle_update(p)
        before = case.named(p, case.learner.optimizer.parameters)
        rate = case.number("learning_rate", p)
        for name, value in case.named(p, learner.optimizer.parameters).items():
            close((value - before[name]) / rate, (expected.parameters[name] - before[name]) / rate, name, rtol=1e-3)
            close(value, expected.parameters[name], name, rtol=2e-5)
        for mine, theirs in (
            (learner.optimizer.first_moment, expected.adam.first),
            (learner.optimizer.second_moment, expected.adam.second),
        ):
            for name, value in case.named(p, mine).items():
                close(value, theirs[name], name, rtol=1e-4)
        assert float(learner.optimizer.steps[p, 0]) == expected.adam.step_count
        close(learner.optimizer.learning_rate[p, 0] / rate, expected.learning_rate / rate)
        for statistics, scaler in (
            (learner.observation_statistics, expected.observation_scaler),
            (learner.value_statistics, expected.value_scaler),
        ):
            assert (statistics is None) == (scaler is None)
            if statistics is not None and scaler is not None:
                close(statistics.mean[p], scaler.mean)
                close(statistics.variance[p], scaler.variance)
                assert float(statistics.seen[p, 0]) == scaler.count
        done = expected.minibatches
        stops += sum(not m.applied for m in done)
        for name in ("policy", "value", "entropy", "kl", "clip_fraction"):
            column = {"kl": "kl", "clip_fraction": "clip_fraction"}.get(name, f"{name}_loss")
            mean = float(np.mean([getattr(m.loss, name) for m in done]))
            close(getattr(metrics, column)[p, 0], mean, column, rtol=1e-4)
        close(metrics.gradient_norm[p, 0], np.mean([m.gradient_norm for m in done]), rtol=1e-4)
        assert explained[p].isfinite()
    assert (stops > 0) == any(np.isfinite(case.numbers["kl_threshold"])), "the case does not meet its KL threshold"


def test_explained_variance_is_that_of_the_valid_returns() -> None:
    problem = Problem.random()
    _, _, explained = _solve(problem)
    for p in range(P):
        rollout = problem.rollout
        scaler = problem.scaler(p, problem.learner.value_statistics)
        assert scaler is not None
        values = scaler.inverse(problem.oracle_forward(p, rollout.observations[p].numpy())[1][..., None])[..., 0]
        ended, terminated = rollout.ended[p].numpy(), rollout.terminated[p].numpy()
        returns = oracle.gae(
            rewards=rollout.rewards[p].numpy() * problem.number("rewards_shaper_scale", p),
            values=values,
            terminated=terminated,
            truncated=ended & ~terminated,
            discount_factor=problem.number("discount_factor", p),
            gae_lambda=problem.number("gae_lambda", p),
        )[1]
        valid = rollout.valid[p].numpy().astype(bool)
        close(explained[p, 0], 1 - np.var((returns - values[:-1])[valid]) / np.var(returns[valid]), rtol=1e-4)


def test_a_member_that_is_not_alive_keeps_every_number() -> None:
    problem = Problem.random({"agent.mini_batches": 3, LR: "KLAdaptiveLR"})
    everyone = _solve(problem)[0]
    learner = _solve(problem, (True, False, True))[0]
    for mine, all_alive, before in zip(learner.optimizer, everyone.optimizer, problem.learner.optimizer, strict=True):
        assert torch.equal(mine[1], before[1])
        assert torch.equal(mine[[0, 2]], all_alive[[0, 2]])

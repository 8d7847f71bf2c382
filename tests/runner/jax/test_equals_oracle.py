"""L4: every JAX function, and the whole update, equals tests/oracle.py; three members with nothing in common."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from runner.jax import advantages, distributions, preprocessors, schedulers
from runner.jax.loss import loss
from runner.jax.preprocessors import Statistics
from runner.jax.update import Optimizer, minibatch_step
from runner.networks.policies import Distribution
from runner.training.pack import Rules
from tests import oracle
from tests.runner.jax.problem import (
    UPDATES,
    batch_of,
    hyper_of,
    learner_of,
    numbers_of,
    oracle_numbers_of,
    problem_of,
    schedule_of,
    solve,
    torch_solve,
)
from tests.runner.torch.problem import HYPER, A, O, P, Problem
from tests.runner.torch.test_equals_oracle import LOSSES, close
from tests.runner.torch.test_equals_oracle import _batch as batches_of
from tests.runner.torch.test_equals_oracle import _oracle_loss as oracle_loss

KL_FIELDS = ("kl_threshold", "kl_factor", "lr_factor", "min_lr", "max_lr")


def single(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_and_returns_equal_the_oracle(bootstrap: bool) -> None:
    rng = np.random.default_rng(3)
    rewards, values = single(P, 30, 4), single(P, 31, 4, seed=1)
    ended = rng.random((P, 30, 4)) < 0.2
    terminated = ended & (rng.random(ended.shape) < 0.5)
    gamma, decay = HYPER["discount_factor"], HYPER["gae_lambda"]
    both = jax.vmap(advantages.gae)(
        *map(jnp.asarray, (rewards, values[:, :-1], values[:, 1:], terminated if bootstrap else ended, ended)),
        jnp.asarray(gamma),
        jnp.asarray(decay),
    )
    for p in range(P):
        expected = oracle.gae(
            rewards=rewards[p],
            values=values[p],
            terminated=terminated[p],
            truncated=ended[p] & ~terminated[p],
            discount_factor=gamma[p],
            gae_lambda=decay[p],
            time_limit_bootstrap=bootstrap,
        )
        for actual, wanted, what in zip(both, expected, ("advantages", "returns"), strict=True):
            close(actual[p], wanted, what)


@pytest.mark.parametrize("rows", [50, 3, 1, 0])
def test_normalised_advantages_equal_the_oracle_whatever_the_number_of_valid_rows(rows: int) -> None:
    rng = np.random.default_rng(rows)
    values, valid = rng.normal(3, 20, size=60).astype(np.float32), np.zeros(60, bool)
    valid[rng.permutation(60)[:rows]] = True
    actual = np.asarray(advantages.normalize(jnp.asarray(values), jnp.asarray(valid, jnp.float32)))
    expected = oracle.normalize_advantages(values, valid)
    close(actual, expected)


def test_advantages_whose_variance_overflows_are_no_numbers_instead_of_zeros() -> None:
    assert np.isnan(advantages.normalize(jnp.array([1e30, -1e30, 3.0]), jnp.ones(3))).all()


def fresh_statistics() -> Statistics:
    """Of every member, before any row: one pseudo-row of mean 0 and variance 1."""
    with jax.enable_x64(True):
        zeros = jnp.zeros((P, O), jnp.float64)
        return Statistics(zeros, jnp.ones_like(zeros), jnp.ones(P, jnp.float64))


absorb = jax.jit(jax.vmap(preprocessors.absorb))


def test_statistics_of_many_batches_equal_the_oracle() -> None:
    rng = np.random.default_rng(4)
    statistics, scalers = fresh_statistics(), [oracle.RunningStandardScaler(O) for _ in range(P)]
    for size in (20, 1, 7, 64):
        rows = (rng.normal(size=(P, size, O)) * 10 + 100 * np.arange(P)[:, None, None]).astype(np.float32)
        valid = rng.random((P, size)) < 0.7
        valid[0, 1:] = False  # one row, or none
        statistics = absorb(statistics, rows, valid.astype(np.float32))
        for p, scaler in enumerate(scalers):
            scaler.absorb(rows[p][valid[p]])
            close(statistics.mean[p], scaler.mean, rtol=1e-12)
            close(statistics.variance[p], scaler.variance, rtol=1e-12)
            assert float(statistics.seen[p]) == scaler.count
    assert {x.dtype for x in statistics} == {np.dtype(np.float64)}
    rows = single(P, 30, O) * 40
    for p, scaler in enumerate(scalers):
        scaler.clip_threshold, scaler.epsilon = 1.5, 0.25
        ready = preprocessors.scaler(Statistics(*(x[p] for x in statistics)), 0.25, 1.5)
        close(ready.normalize(jnp.asarray(rows[p])), scaler.normalize(rows[p]))
        close(ready.denormalize(jnp.asarray(rows[p])), scaler.inverse(rows[p]))
        assert ready.normalize(jnp.asarray(rows[p])).dtype == np.float32


def test_one_valid_row_has_no_variance_and_a_batch_without_leaves_the_statistics_alone() -> None:
    before, rows = fresh_statistics(), single(P, 5, O)
    one = np.eye(P, 5, dtype=np.float32)
    after = absorb(before, rows, one)
    for p in range(P):
        scaler = oracle.RunningStandardScaler(O)
        scaler.absorb(rows[p, p : p + 1])
        close(after.variance[p], scaler.variance, rtol=1e-12)
        close(after.mean[p], scaler.mean, rtol=1e-12)
    for mine, theirs in zip(absorb(after, rows * np.float32(1e30), np.zeros_like(one)), after, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_statistics_keep_their_precision_far_from_zero_in_a_compiled_loop() -> None:
    rows = np.float32(1e6) + single(40, P, 100, O, seed=5)
    valid = np.ones(rows.shape[:3], np.float32)
    loop = jax.jit(lambda s: jax.lax.scan(lambda s, now: (jax.vmap(preprocessors.absorb)(s, *now), None), s, now)[0])
    now = (rows, valid)
    statistics = loop(fresh_statistics())
    for p in range(P):
        scaler = oracle.RunningStandardScaler(O)
        for part in rows[:, p]:
            scaler.absorb(part)
        close(statistics.mean[p], scaler.mean, rtol=1e-12)
        close(statistics.variance[p], scaler.variance, rtol=1e-10)


def test_the_kl_schedule_equals_the_oracle() -> None:
    for kl in (0.0, 1e-3, 0.0041, 0.017, 0.08, 0.4, 10.0, float("inf"), float("nan")):
        for rate in (1e-7, 1e-5, 3e-4, 9e-3, 0.1):
            for p in range(P):
                rest = [HYPER[f"scheduler_{name}"][p] for name in KL_FIELDS]
                after = schedulers.kl_adaptive(*map(jnp.float32, (rate, kl)), schedule_of(jnp.float32, *rest))
                close(after, oracle.kl_adaptive(rate, kl, *rest))


def test_a_kl_at_a_threshold_of_the_schedule_changes_nothing_and_one_beside_it_does() -> None:
    rate, threshold = np.float32(1e-3), np.float32(0.008)
    for edge, beyond, changed in ((threshold * 2, np.inf, rate / 1.5), (threshold / 2, -np.inf, rate * 1.5)):
        hyper = schedule_of(jnp.float32, threshold, 2.0, 1.5, 1e-6, 1e-2)
        after = {
            kl: float(schedulers.kl_adaptive(*map(jnp.float32, (rate, kl)), hyper))
            for kl in (float(edge), float(np.nextafter(edge, np.float32(beyond))))
        }
        assert list(after.values()) == [float(rate), pytest.approx(float(changed))]
        for kl, mine in after.items():
            assert mine == pytest.approx(oracle.kl_adaptive(float(rate), kl, float(threshold)))


GAUSSIAN, CATEGORICAL = Distribution((), A, "sum"), Distribution((5,), 5, "sum")


def test_gaussian_log_probability_and_entropy_equal_the_oracle() -> None:
    mean, actions = single(50, A) * 3, single(50, A, seed=1) * 5
    for log_std in np.float32([[-3.0, 1.5], [0.0, 0.3], [-0.5, -0.5]]):
        arguments = jnp.asarray(mean), jnp.asarray(log_std)
        mine = distributions.log_prob(GAUSSIAN, *arguments, jnp.asarray(actions))
        close(mine, oracle.gaussian_log_prob(mean, log_std, actions))
        close(distributions.entropy(GAUSSIAN, *arguments), oracle.gaussian_entropy(mean, log_std))


def test_categorical_log_probability_and_entropy_equal_the_oracle() -> None:
    logits = single(50, 5) * np.repeat(np.float32([1.0, 60.0]), 25)[:, None]
    actions = np.random.default_rng(0).integers(0, 5, 50).astype(np.int32)
    double = logits.astype(np.float64)
    mine = distributions.log_prob(CATEGORICAL, jnp.asarray(logits), None, jnp.asarray(actions[:, None]))
    close(mine, oracle.categorical_log_prob(double, actions))
    close(distributions.entropy(CATEGORICAL, jnp.asarray(logits), None), oracle.categorical_entropy(double))


# ---------------------------------------------------------------------------------------------- loss and step


def _gradient_and_step(rules: Rules, optimizer: Optimizer, *rest: Any) -> Any:
    batch, hyper, active = rest
    (total, parts), gradient = jax.value_and_grad(loss, has_aux=True)(optimizer.parameters, batch, hyper, rules)
    return total, parts, gradient, minibatch_step(optimizer, batch, hyper, active, rules)


@pytest.fixture(params=LOSSES.values(), ids=list(LOSSES), scope="module")
def solved(request: pytest.FixtureRequest) -> tuple[Problem, list[dict[str, Any]], Any]:
    """A problem, its rows for the oracle, and JAX's gradient and step; the last member is not active."""
    problem = Problem.random(*request.param)
    batch, for_oracle = batches_of(problem)
    arrays = learner_of(problem.learner).optimizer, batch_of(batch), hyper_of(problem.hyper)
    both = jax.jit(jax.vmap(functools.partial(_gradient_and_step, problem.rules)))
    return problem, for_oracle, both(*arrays, jnp.array([True, True, False]))


def test_loss_and_every_gradient_leaf_equal_the_oracle(solved: tuple[Problem, list[dict[str, Any]], Any]) -> None:
    problem, for_oracle, (total, parts, gradient, _) = solved
    for p in range(P):
        expected = oracle_loss(problem, p, for_oracle[p])
        wanted = (expected.policy, expected.value, expected.entropy, expected.kl, expected.clip_fraction)
        close([float(part[p]) for part in parts], wanted, "losses")
        close(total[p], expected.total, "total")
        assert 0 < expected.clip_fraction < 1
        for name, leaf in problem.network.split(np.asarray(gradient[p])).items():
            close(leaf, expected.gradient[name], name)


def test_a_minibatch_step_equals_the_oracle(solved: tuple[Problem, list[dict[str, Any]], Any]) -> None:
    problem, for_oracle, (*_, (after, metrics, still)) = solved
    assert still.tolist() == [True, True, False]
    learner = learner_of(problem.learner)
    for p in range(2):
        expected = oracle_loss(problem, p, for_oracle[p])
        close(metrics.gradient_norm[p], oracle.global_norm(expected.gradient))
        before = problem.named(p, problem.learner.optimizer.parameters)
        adam, rate = problem.adam(p), problem.number("learning_rate", p)
        clipped = oracle.clip_gradients(expected.gradient, problem.number("grad_norm_clip", p))
        moved = adam.step(before, clipped, rate)
        mine = numbers_of(problem, learner._replace(optimizer=after), p)
        for name, value in moved.items():
            close(mine[f"parameters {name}"], value, name)
            change = (mine[f"parameters {name}"] - before[name]) / rate
            close(change, (value - before[name]) / rate, name, rtol=1e-3)
            close(mine[f"first_moment {name}"], adam.first[name], name)
            close(mine[f"second_moment {name}"], adam.second[name], name)
        assert mine["steps"] == adam.step_count
    for new, old in zip(after, learner.optimizer, strict=True):
        np.testing.assert_array_equal(new[2], old[2], "a member that is not active moved")


# ---------------------------------------------------------------------------------------------- update


def equals_the_oracle(problem: Problem, answer: Any, p: int, expected: oracle.Update) -> None:
    """Every number that an update leaves behind of member p."""
    learner, metrics, _ = answer
    mine, theirs = numbers_of(problem, learner, p), oracle_numbers_of(expected)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        close(
            mine[name] / value if name == "learning_rate" else mine[name],
            value / value if name == "learning_rate" else value,
            name,
        )
    before, rate = problem.named(p, problem.learner.optimizer.parameters), problem.number("learning_rate", p)
    for name, old in before.items():
        change, wanted = ((numbers[f"parameters {name}"] - old) / rate for numbers in (mine, theirs))
        close(change, wanted, f"change of {name}", rtol=1e-3)
    done = expected.minibatches
    for name in ("policy", "value", "entropy", "kl", "clip_fraction"):
        column = name if name in ("kl", "clip_fraction") else f"{name}_loss"
        close(getattr(metrics, column)[p], np.mean([getattr(m.loss, name) for m in done]), column, rtol=1e-4)
    close(metrics.gradient_norm[p], np.mean([m.gradient_norm for m in done]), "gradient_norm")


def explained_variance(problem: Problem, p: int) -> float:
    """Of the oracle's returns by its values."""
    rollout, ended = problem.rollout, problem.rollout.ended[p].numpy()
    scaler = problem.scaler(p, problem.learner.value_statistics)
    values = problem.oracle_forward(p, rollout.observations[p].numpy())[1]
    values = values if scaler is None else scaler.inverse(values[..., None])[..., 0]
    terminated = rollout.terminated[p].numpy()
    returns = oracle.gae(
        rewards=rollout.rewards[p].numpy() * problem.number("rewards_shaper_scale", p),
        values=values,
        terminated=terminated,
        truncated=ended & ~terminated,
        discount_factor=problem.number("discount_factor", p),
        gae_lambda=problem.number("gae_lambda", p),
        time_limit_bootstrap=problem.config.agent.time_limit_bootstrap,
    )[1]
    valid = rollout.valid[p].numpy().astype(bool)
    return float(1 - np.var((returns - values[:-1])[valid]) / np.var(returns[valid]))


@pytest.mark.parametrize("name", UPDATES)
def test_the_whole_update_equals_the_oracle(name: str) -> None:
    problem = problem_of(name)
    answer = solve(problem)
    stops = 0
    for p in range(P):
        expected = problem.oracle_update(p)
        equals_the_oracle(problem, answer, p, expected)
        close(answer[2][p], explained_variance(problem, p), "explained variance", rtol=1e-4)
        stops += sum(not m.applied for m in expected.minibatches)
    assert (stops > 0) == any(np.isfinite(problem.numbers["kl_threshold"])), "the case does not meet its KL threshold"
    if problem.config.agent.learning_rate_scheduler is not None:
        assert (answer[0].optimizer.learning_rate != problem.hyper.learning_rate.numpy()[:, 0]).any()


def reset_at_once(problem: Problem) -> tuple[Problem, Problem]:
    """The problem in environments that reset at once, and the same experience as the oracle reads it.

    The oracle's has the final observation as a row of its own, which is no experience; its environments are filled up
    to equal length with more such rows, after a truncation that leaves the last step's advantage as it is.
    """
    rollout = problem.rollout
    members, steps, envs = rollout.rewards.shape
    ended = rollout.ended[:1].expand(members, -1, -1).clone()
    ended[:, -1, 0] = True
    terminated = ended & (torch.tensor(single(*ended.shape, seed=7)) < 0)
    final = torch.tensor(single(members, steps, envs, O, seed=8) * 3)
    rows = ended[0].flatten().nonzero()[:, 0]
    at_once = rollout._replace(
        ended=ended,
        terminated=terminated,
        valid=torch.ones_like(rollout.valid),
        final_rows=rows.expand(members, -1),
        final_observations=final.flatten(1, 2)[:, rows],
    )
    length = steps + int(ended[0].sum(0).max()) + 1
    columns = []
    for n in range(envs):
        where, seen, last = [], [], []  # step of every row, its observation, whether it is there for a reset alone
        for t in range(steps):
            where, seen, last = [*where, t], [*seen, rollout.observations[:, t, n]], [*last, False]
            if ended[0, t, n]:
                where, seen, last = [*where, t], [*seen, final[:, t, n]], [*last, True]
        fill = length - len(where)
        seen += [rollout.observations[:, steps, n]] * (fill + 1)
        where, last = where + [steps - 1] * fill, last + [True] * fill
        dummy = torch.tensor(last)
        over = ended[:, where, n] & ~dummy
        over[:, len(where) - fill - 1 :] = True
        columns.append(
            (
                torch.stack(seen, 1),
                rollout.actions[:, where, n],
                rollout.outputs[:, where, n],
                rollout.rewards[:, where, n],
                terminated[:, where, n] & ~dummy,
                over,
                (~dummy).float().expand(members, -1),
            )
        )
    told = at_once._replace(
        **dict(zip(rollout._fields, (torch.stack(x, 2) for x in zip(*columns, strict=True)), strict=False)),
        final_rows=None,
    )
    nothing_before = np.zeros((members, envs), bool)
    return tuple(replace(problem, rollout=r, ended_before=nothing_before) for r in (at_once, told))  # type: ignore[return-value]


def test_final_observations_of_environments_that_reset_at_once_are_bootstrapped_from() -> None:
    changes = {
        "agent.learning_epochs": 3,
        "agent.mini_batches": 1,
        "agent.observation_statistics": "frozen",
        "agent.advantage_normalization": "minibatch",
    }
    problem = Problem.random(changes, {"kl_threshold": (0.001, np.inf, 0.02)})
    at_once, told = reset_at_once(problem)
    ended, terminated = at_once.rollout.ended, at_once.rollout.terminated
    assert terminated.any() and (ended & ~terminated).any() and ended[:, -1].any(), "an end at the rollout's end too"
    for answer in (solve(at_once), torch_solve(at_once)):
        for p in range(P):
            expected = told.oracle_update(p)
            np.testing.assert_array_equal(expected.valid, told.rollout.valid[p].numpy().astype(bool))
            equals_the_oracle(at_once, answer, p, expected)

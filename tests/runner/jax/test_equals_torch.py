"""L4: JAX equals torch, on random numbers and in whole runs on real environments, where both draw the same noise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from runner.config.network.expressions import ACTIVATIONS
from runner.jax import Runner, models, preprocessors, schedulers
from runner.jax import advantages as gae
from runner.jax import train as jax_train
from runner.jax.rollout import Collector, Rollout
from runner.networks.parameters import LOG_STD
from runner.torch import Runner as TorchRunner
from runner.torch import advantages as torch_gae
from runner.torch import models as torch_models
from runner.torch import preprocessors as torch_preprocessors
from runner.torch import schedulers as torch_schedulers
from runner.torch import train as torch_train
from runner.training import tracking
from runner.training.pack import Rules
from runner.training.reporting import COLUMNS
from runner.training.state import MemberState
from runner.training.tracking import Record
from tests.records import untimed
from tests.runner.builders import TASKS, assert_same, make_config, make_env, make_network
from tests.runner.jax.problem import (
    LR,
    UPDATES,
    joined,
    learner_of,
    numbers_of,
    oracle_numbers_of,
    orders_of,
    problem_of,
    rollout_of,
    schedule_of,
    solve,
    statistics_of,
    torch_solve,
)
from tests.runner.torch.problem import O, P, Problem
from tests.runner.torch.test_equals_oracle import close

# ---------------------------------------------------------------------------------------------- pieces


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@pytest.mark.parametrize("name", ["gelu", "softmax"])
def test_networks_and_their_gradients_are_equal(name: str) -> None:
    changes = {
        "models.policy.network.0.activations": name,
        "models.value.network.0.activations": name,
        "models.policy.output": f"-3 * {name}(ACTIONS)",
    }
    network = make_network(make_config(changes), O, 5)
    flat = np.stack([network.initial(p) for p in range(P)])
    observations = normal(P, 30, O, scale=5)
    weights, value_weights = normal(P, 30, 5, seed=1), normal(P, 30, seed=2)

    def weighted(flat: jax.Array) -> Any:
        def one(flat: jax.Array, rows: jax.Array) -> Any:
            return models.policy_and_value(network, models.cut(network, flat), rows)

        outputs, values = jax.vmap(one)(flat, jnp.asarray(observations))
        return (outputs * weights).sum() + (values * value_weights).sum(), (outputs, values)

    (_, mine), gradient = jax.jit(jax.value_and_grad(weighted, has_aux=True))(flat)
    leaf = torch.tensor(flat, requires_grad=True)
    theirs = torch_models.policy_and_value(network, torch_models.cut(network, leaf), torch.tensor(observations))
    ((theirs[0] * torch.tensor(weights)).sum() + (theirs[1] * torch.tensor(value_weights)).sum()).backward()  # type: ignore[no-untyped-call]
    for one, other, what in zip(mine, theirs, ("outputs", "values"), strict=True):
        close(one, other.detach(), what)
    assert leaf.grad is not None
    for p in range(P):
        wanted = network.split(leaf.grad[p].numpy())
        for parameter, value in network.split(np.asarray(gradient[p])).items():
            close(value, wanted[parameter], parameter)


def test_advantages_are_equal() -> None:
    rng = np.random.default_rng(0)
    columns = [normal(P, 30, 4, seed=s) for s in range(3)]
    ended = rng.random((P, 30, 4)) < 0.2
    columns += [ended & (rng.random(ended.shape) < 0.5), ended]
    numbers = [rng.uniform(0.5, 1, (P, 1)).astype(np.float32) for _ in range(2)]
    mine = jax.vmap(gae.gae)(*map(jnp.asarray, columns), *(jnp.asarray(x[:, 0]) for x in numbers))
    theirs = torch_gae.gae(*map(torch.tensor, columns), *map(torch.tensor, numbers))
    for one, other in zip(mine, theirs, strict=True):
        close(one, other)
    advantages, valid = columns[0].reshape(P, -1), normal(P, 120, seed=5) > 0
    valid[0], valid[1] = False, np.arange(120) == 7
    weight = valid.astype(np.float32)
    one = jax.vmap(gae.normalize)(jnp.asarray(advantages), jnp.asarray(weight))
    close(one, torch_gae.normalize(torch.tensor(advantages), torch.tensor(weight)))


def test_statistics_are_equal_in_double_precision() -> None:
    rows, valid = 1e6 + normal(P, 60, O), (normal(P, 60, seed=1) > 0).astype(np.float32)
    valid[0], valid[1] = 0, np.arange(60) == 7
    rng = np.random.default_rng(2)
    before = torch_preprocessors.Statistics(
        *(torch.tensor(rng.uniform(1, 5, (P, size)), dtype=torch.float64) for size in (O, O, 1))
    )
    theirs = torch_preprocessors.absorb(before, torch.tensor(rows), torch.tensor(valid))
    mine = jax.vmap(preprocessors.absorb)(statistics_of(before), jnp.asarray(rows), jnp.asarray(valid))
    ready = torch_preprocessors.scaler(theirs, 1e-2, 1.5)
    for p in range(P):
        for one, other in zip(mine, theirs, strict=True):
            close(np.ravel(one[p]), other[p], rtol=1e-12)
        scaler = preprocessors.scaler(preprocessors.Statistics(*(x[p] for x in mine)), 1e-2, 1.5)
        close(scaler.normalize(jnp.asarray(rows[p])), ready.normalize(torch.tensor(rows))[p])
        close(scaler.denormalize(jnp.asarray(rows[p] - 1e6)), ready.denormalize(torch.tensor(rows - 1e6))[p])


def test_the_kl_schedule_is_equal_on_both_sides_of_its_thresholds() -> None:
    """Bit for bit, with factors that float32 cannot hold; rates inside and outside the limits."""
    threshold, kl_factor, lr_factor, low, high = (np.float32(x) for x in (0.008, 1.7, 1.3, 1e-5, 1e-2))
    edges = [threshold * kl_factor, threshold / kl_factor]
    beside = [np.nextafter(edge, np.float32(to)) for edge in edges for to in (-np.inf, np.inf)]
    kls = np.float32([*edges, *beside, 0, threshold, 1, np.inf, np.nan])
    rates = np.float32([1e-6, 1e-5, 3e-4, 1e-2, 0.1])
    kl, rate = (x.ravel() for x in np.meshgrid(kls, rates))
    rest = [np.full_like(kl, x) for x in (threshold, kl_factor, lr_factor, low, high)]
    mine = jax.vmap(schedulers.kl_adaptive)(*map(jnp.asarray, (rate, kl)), schedule_of(jnp.asarray, *rest))
    columns = [torch.tensor(x)[:, None] for x in (rate, kl)]
    theirs = torch_schedulers.kl_adaptive(*columns, schedule_of(lambda x: torch.tensor(x)[:, None], *rest))
    np.testing.assert_array_equal(mine, theirs[:, 0])
    assert {0.769, 1.0, 1.3} <= set(np.round(np.asarray(mine, np.float64) / rate, 3))


# ---------------------------------------------------------------------------------------------- update


@pytest.mark.parametrize("name", UPDATES)
def test_the_whole_update_equals_torch(name: str) -> None:
    problem = problem_of(name)
    learner, metrics, explained = solve(problem)
    torch_learner, torch_metrics, torch_explained = torch_solve(problem)
    for p in range(P):
        mine, theirs = (numbers_of(problem, x, p) for x in (learner, torch_learner))
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            close(mine[key], value, key)
        assert mine["steps"] == theirs["steps"] and mine["learning_rate"] == theirs["learning_rate"]
        before = problem.named(p, problem.learner.optimizer.parameters)
        for key, old in before.items():
            change, wanted = ((x[f"parameters {key}"] - old) / theirs["learning_rate"] for x in (mine, theirs))
            close(change, wanted, f"change of {key}", rtol=1e-3)
    for column, one, other in zip(metrics._fields, metrics, torch_metrics, strict=True):
        close(one, other[:, 0], column)
    close(explained, torch_explained[:, 0], "explained variance")


def test_the_adaptive_rate_takes_the_same_path_over_epochs_and_updates_of_the_same_data() -> None:
    for name, count in (
        ("one epoch of one minibatch, adaptive rate", 12),
        ("kl stop in uneven minibatches, adaptive rate", 4),
    ):
        problem = problem_of(name)
        learner, torch_learner = learner_of(problem.learner), problem.learner
        path = [problem.hyper.learning_rate.numpy()[:, 0]]
        for _ in range(count):
            problem.learner = torch_learner
            expected = [problem.oracle_update(p).learning_rate for p in range(P)]
            learner, torch_learner = solve(problem, learner)[0], torch_solve(problem)[0]
            path.append(np.asarray(learner.optimizer.learning_rate))
            np.testing.assert_allclose(path[-1], torch_learner.optimizer.learning_rate[:, 0], rtol=1e-6)
            np.testing.assert_allclose(path[-1], expected, rtol=1e-5)
        moves = np.sign(np.diff(np.stack(path), axis=0))
        assert {-1, 0, 1} <= set(moves.flat), "a path that goes up, down and stays"


# ---------------------------------------------------------------------------------------------- real environments

SEEDS, ENVS = (5, 6), 3
STEPS = {"CartPole-v1": 19, "Pendulum-v1": 11, "HalfCheetah-v4": 13}
"""A rollout's: the second one begins with reset rows."""
MINI_BATCHES = {"CartPole-v1": 1, "Pendulum-v1": 5, "HalfCheetah-v4": 2}


@dataclass
class Run:
    """What three updates of one backend leave behind."""

    runner: Any
    states: list[list[MemberState]]  # after each update
    records: list[list[Record]]
    rollouts: list[Any]
    updates: list[tuple[Any, ...]]  # arguments and result of torch's


def trained(kind: type, task: str) -> Run:
    policy, arguments = TASKS[task]
    changes = {
        "agent.learning_epochs": 3,
        "agent.mini_batches": MINI_BATCHES[task],
        "agent.entropy_loss_scale": 0.01,
        "agent.learning_rate": 3e-3,
        LR: "KLAdaptiveLR",
        "agent.rollouts": STEPS[task],
        "agent.experiment.write_interval": STEPS[task],
        "trainer.timesteps": 3 * STEPS[task],
        "models.policy.clip_actions": policy == "GaussianMixin",
    }
    runner = kind(make_env(task, ENVS, arguments), make_config(changes, policy), seeds=SEEDS, threads=1)
    run = Run(runner, [], [], [], [])
    collect, update = Collector.collect, torch_train.update

    def collecting(self: Collector, *rest: Any) -> Rollout:
        run.rollouts.append(collect(self, *rest))
        return run.rollouts[-1]

    def updating(*now: Any) -> Any:
        run.updates.append((now, update(*now)))
        run.rollouts.append(rollout_of(now[1]))
        return run.updates[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Collector, "collect", collecting)
        patch.setattr(torch_train, "update", updating)
        for report in runner.reports():
            if report.records[0] is not None:
                run.records.append(report.records)  # type: ignore[arg-type]
                run.states.append(runner.states())
    return run


@pytest.fixture(scope="module", params=TASKS)
def runs(request: pytest.FixtureRequest) -> Iterator[tuple[Run, Run]]:
    """A run of torch and one of JAX."""
    yield trained(TorchRunner, request.param), trained(Runner, request.param)


def test_both_take_the_same_actions_and_learn_the_same_in_the_first_update(runs: tuple[Run, Run]) -> None:
    theirs, mine = runs
    assert len(theirs.rollouts) == len(mine.rollouts) == 3
    for name, one, other in zip(Rollout._fields, mine.rollouts[0], theirs.rollouts[0], strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert one.dtype == other.dtype, name
            close(one, other, name)
    assert np.asarray(mine.rollouts[0].ended).any() and not np.asarray(mine.rollouts[0].valid).all()
    for one, other in zip(mine.states[0], theirs.states[0], strict=True):
        assert_same(one, other, rtol=1e-5)
        assert one.counters.learning_rate != pytest.approx(3e-3), "a rate that stays shows nothing"


def test_the_records_of_three_updates_are_equal(runs: tuple[Run, Run]) -> None:
    """Differences start in the last bit of float32, at 1e-7, and physics and contacts magnify them with time.

    Episodes of 5 to 9 steps, which start anew from the same seeds in both backends, are too short for that, and a
    cart-pole's actions are indices, which differ only where two logits are as near to each other.
    """
    theirs, mine = runs
    names: set[str] = set()
    for rows, torch_rows in zip(mine.records, theirs.records, strict=True):
        for one, other in zip(rows, torch_rows, strict=True):
            assert untimed(one.values).keys() == untimed(other.values).keys()
            assert (one.timestep, one.env_steps) == (other.timestep, other.env_steps)
            names |= one.values.keys()
            for name in untimed(one.values):
                assert one.values[name] == pytest.approx(other.values[name], rel=1e-3, abs=1e-5), name
    assert tracking.RETURN_MEAN in names and tracking.ENTROPY_LOSS in names


def test_an_update_on_torchs_own_rollout_equals_torch_and_the_oracle(runs: tuple[Run, Run]) -> None:
    """The program that training runs, on the second rollout of a run: it begins with reset rows."""
    (learner, rollout, orders, _, rules, *_), (after, metrics, explained) = runs[0].updates[1]
    before = ~rollout.valid[:, 0].numpy().astype(bool)
    problem = Problem(rules.config, {}, rules, learner, rollout, before, orders)
    mine, numbers, finite = jax_train._learned(
        problem.rules,
        learner_of(learner),
        rollout_of(rollout),
        orders_of(orders),
        np.ones(len(SEEDS), bool),
        None,
        None,
    )
    assert before.any() and finite.all()
    wanted = torch.cat([*metrics, explained, after.optimizer.learning_rate], 1)
    close(numbers[:, : wanted.shape[1]], wanted, "numbers")
    assert numbers.shape[1] == len(COLUMNS)
    for p in range(len(SEEDS)):
        of_jax, of_torch = (joined(numbers_of(problem, backend, p)) for backend in (mine, after))
        of_oracle = joined(oracle_numbers_of(problem.oracle_update(p)))
        assert of_jax.keys() == of_torch.keys() == of_oracle.keys()
        for name, value in of_oracle.items():
            close(of_jax[name], value, f"{name}, oracle")
            close(of_jax[name], of_torch[name], f"{name}, torch")
        rate = of_torch["learning_rate"]
        close(of_jax["learning_rate"] / rate, of_oracle["learning_rate"] / rate, "learning rate")
        assert rate != learner.optimizer.learning_rate[p], "a rate that stays shows nothing"


@pytest.mark.parametrize("deterministic", [True, False])
def test_both_act_alike_from_the_same_checkpoint(runs: tuple[Run, Run], deterministic: bool) -> None:
    theirs, mine = (run.runner for run in runs)
    mine.restore([theirs.checkpoint(member, state) for member, state in enumerate(theirs.states())])
    rows = normal(len(SEEDS) * 20, mine.env.observation_size)
    one, other = (r._members.choose(None, rows, deterministic, 3)[1] for r in (mine, theirs))
    assert one.shape == other.shape
    close(one, other)


def test_slopes_are_equal_at_the_corners() -> None:
    """A log_std that starts on its bound, and inputs of exactly 0."""
    raw, high = np.float32([0.0, -1.0, 0.5]), 0.0
    leaf = torch.tensor(raw[None, :, None], requires_grad=True)
    config = make_config({"models.policy.min_log_std": -1.0, "models.policy.max_log_std": high})
    rules = Rules(make_network(config, 3, 3), False, False, False, "", config)
    theirs = torch_models.log_std(rules, {LOG_STD: leaf})
    assert theirs is not None
    (slope,) = torch.autograd.grad(theirs.sum(), leaf)
    mine = jax.grad(lambda x: models.log_std(rules, {LOG_STD: x}).sum())(jnp.asarray(raw))
    np.testing.assert_array_equal(mine, slope[0, :, 0])

    @jax.jit
    def slopes(x: jax.Array) -> dict[str, jax.Array]:
        of_each = {name: f for name, f in models.ACTIVATIONS.items() if name != "softmax"}
        return {name: jax.grad(lambda x, f=f: f(x).sum())(x) for name, f in of_each.items()}

    of_jax = slopes(np.zeros((1, 1), np.float32))
    for name in set(ACTIVATIONS) - {"softmax"}:
        zero = torch.zeros(1, 1, 1, requires_grad=True)
        (slope,) = torch.autograd.grad(torch_models.ACTIVATIONS[name](zero).sum(), zero)
        close(of_jax[name][0], slope[0, 0], name)

"""The random update problem of tests/runner/torch/problem.py in JAX's form, and every backend's answer by name.

Axes: P member · T step · N environment · E epoch · B row. Rollouts are `[T, P, N, …]` here, `[P, T, N, …]` in torch.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from runner.jax import accelerate
from runner.jax.loss import Batch
from runner.jax.preprocessors import Statistics
from runner.jax.rollout import Rollout
from runner.jax.update import Learner, Optimizer, update
from runner.torch.update import update as torch_update
from runner.training.pack import Hyper, Rules
from tests import oracle
from tests.runner.torch.problem import ROWS, P, Problem

LR = "agent.learning_rate_scheduler"
KL = "KLAdaptiveLR"
ENTROPY = {"entropy_loss_scale": (0.02, 0.0, 0.3)}
CLIPPED = {"value_clip": (0.01, np.inf, 0.002)}  # of the size by which values change in an update
UPDATES: dict[str, tuple[dict[str, Any], dict[str, tuple[float, ...]], str]] = {
    "one epoch of one minibatch, adaptive rate": (
        {"agent.learning_epochs": 1, "agent.mini_batches": 1, LR: KL},
        # In twelve updates of the same data the second member's KL rises above its lower edge, the third's falls
        # below its upper one.
        {"scheduler_kl_threshold": (0.002, 0.057, 0.0134)},
        "GaussianMixin",
    ),
    "three uneven minibatches, separate, value loss max, entropy, adaptive rate": (
        {"agent.mini_batches": 3, "models.separate": True, "agent.value_loss": "max", LR: KL},
        {**ENTROPY, **CLIPPED},
        "GaussianMixin",
    ),
    "kl stop in uneven minibatches, adaptive rate": (
        {"agent.mini_batches": 3, LR: KL},
        {"kl_threshold": (0.02, 0.002, np.inf)},
        "GaussianMixin",
    ),
    "frozen, four minibatches, normalised per minibatch, truncation is termination": (
        {
            "agent.mini_batches": 4,
            "agent.observation_statistics": "frozen",
            "agent.advantage_normalization": "minibatch",
            "agent.time_limit_bootstrap": False,
        },
        {},
        "GaussianMixin",
    ),
    "categorical, entropy": ({"agent.mini_batches": 3}, {**ENTROPY, **CLIPPED}, "CategoricalMixin"),
    "no statistics, not normalised, fixed log_std, entropy": (
        {
            "agent.observation_preprocessor": None,
            "agent.value_preprocessor": None,
            "agent.advantage_normalization": "none",
            "models.policy.fixed_log_std": True,
        },
        ENTROPY,
        "GaussianMixin",
    ),
    "a minibatch per row, categorical, separate, value loss max": (
        {"agent.mini_batches": ROWS, "models.separate": True, "agent.value_loss": "max"},
        CLIPPED,
        "CategoricalMixin",
    ),
}


def problem_of(name: str) -> Problem:
    """One of `UPDATES`, of three epochs if it does not say."""
    changes, numbers, policy = UPDATES[name]
    return Problem.random({"agent.learning_epochs": 3, **changes}, numbers, policy)


# ---------------------------------------------------------------------------------------------- torch → JAX


def hyper_of(hyper: Any) -> Hyper:
    """`[P, 1]` → `[P]`."""
    return Hyper(**{name: jnp.asarray(column.numpy()[:, 0]) for name, column in hyper._asdict().items()})


def schedule_of(convert: Any, *numbers: Any) -> Hyper:
    """Hyper numbers of which only KLAdaptiveLR's are given: threshold, factors, least and largest rate."""
    names = ("kl_threshold", "kl_factor", "lr_factor", "min_lr", "max_lr")
    given = {f"scheduler_{name}": convert(x) for name, x in zip(names, numbers, strict=True)}
    return Hyper(**(dict.fromkeys(Hyper._fields, convert(numbers[0])) | given))


def statistics_of(statistics: Any) -> Statistics | None:
    if statistics is None:
        return None
    with jax.enable_x64(True):
        mean, variance, seen = (jnp.asarray(x.numpy()) for x in statistics)
        return Statistics(mean, variance, seen[:, 0])


def learner_of(learner: Any) -> Learner:
    parameters, first, second, steps, rate = (x.numpy() for x in learner.optimizer)
    optimizer = Optimizer(*map(jnp.asarray, (parameters, first, second, steps[:, 0].astype(np.int32), rate[:, 0])))
    statistics = map(statistics_of, (learner.observation_statistics, learner.value_statistics))
    return Learner(optimizer, *statistics, hyper_of(learner.hyper))


def batch_of(batch: Any) -> Batch:
    return Batch(*(None if x is None else jnp.asarray(_narrow(x.numpy())) for x in batch))


def rollout_of(rollout: Any) -> Rollout:
    """Time first; the observations of `final_rows` at their place in `[T, P, N, O]`, not a number elsewhere."""
    columns = (x.numpy().swapaxes(0, 1) for x in rollout[:7])
    observations, actions, outputs, rewards, terminated, ended, valid = map(_narrow, columns)
    final = None
    if rollout.final_rows is not None:
        members, steps, envs, size = observations[:-1].swapaxes(0, 1).shape
        flat = np.full((members, steps * envs, size), np.nan, np.float32)
        np.put_along_axis(flat, rollout.final_rows.numpy()[..., None], rollout.final_observations.numpy(), 1)
        final = jnp.asarray(flat.reshape(members, steps, envs, size).swapaxes(0, 1))
    arrays = (observations, actions, outputs, rewards, terminated, ended, valid.astype(bool))
    carry = None if rollout.carry is None else jnp.asarray(rollout.carry.numpy().swapaxes(0, 1))
    return Rollout(*map(jnp.asarray, arrays), final, carry)


def orders_of(orders: torch.Tensor | None) -> jax.Array | None:
    """`[E, P, B]`, None for time order."""
    return None if orders is None else jnp.asarray(_narrow(orders.numpy()))


def _narrow(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int32) if x.dtype == np.int64 else x


# ---------------------------------------------------------------------------------------------- answers


def _one_update(rules: Rules, *arrays: Any) -> Any:
    *most, rates, shifts = arrays
    return update(*most, rules, rates, shifts)


updates = accelerate.over_members(_one_update, [0, 1, 1, 0, 0, 1])
"""(rules, learner, rollout, orders, alive, rates, shifts) → (learner, metrics, explained variance), of all."""


def solve(
    problem: Problem,
    learner: Learner | None = None,
    rates: np.ndarray | None = None,
    shifts: np.ndarray | None = None,
) -> Any:
    """JAX's update of all members, compiled once per configuration; rates `[P, E]`, shifts `[E, P, B, A]`."""
    return updates(
        problem.rules,
        learner_of(problem.learner) if learner is None else learner,
        rollout_of(problem.rollout),
        orders_of(problem.orders),
        jnp.ones(P, bool),
        rates,
        shifts,
    )


def torch_solve(
    problem: Problem, learner: Any = None, rates: np.ndarray | None = None, shifts: np.ndarray | None = None
) -> Any:
    """Torch's update of all members, eager."""
    return torch_update(
        problem.learner if learner is None else learner,
        problem.rollout,
        problem.orders,
        torch.ones(P, 1, dtype=torch.bool),
        problem.rules,
        *(None if x is None else torch.from_numpy(x) for x in (rates, shifts)),
    )


def numbers_of(problem: Problem, learner: Any, p: int) -> dict[str, np.ndarray]:
    """Everything that learning changes of member p, by name; the learner is either backend's."""
    optimizer = learner.optimizer
    out = {name: np.asarray(getattr(optimizer, name)).reshape(-1)[p] for name in ("steps", "learning_rate")}
    for field in ("parameters", "first_moment", "second_moment"):
        leaves = problem.network.split(np.asarray(getattr(optimizer, field))[p])
        out |= {f"{field} {name}": leaf for name, leaf in leaves.items()}
    for field in ("observation_statistics", "value_statistics"):
        if (statistics := getattr(learner, field)) is not None:
            out |= {f"{field} {name}": np.asarray(getattr(statistics, name))[p] for name in ("mean", "variance")}
            out[f"{field} seen"] = np.asarray(statistics.seen).reshape(-1)[p]
    return out


def oracle_numbers_of(answer: oracle.Update) -> dict[str, np.ndarray]:
    """The same of the oracle's answer."""
    out: dict[str, Any] = {"steps": answer.adam.step_count, "learning_rate": answer.learning_rate}
    named = {"parameters": answer.parameters, "first_moment": answer.adam.first, "second_moment": answer.adam.second}
    for field, leaves in named.items():
        out |= {f"{field} {name}": leaf for name, leaf in leaves.items()}
    for field in ("observation", "value"):
        if (scaler := getattr(answer, f"{field}_scaler")) is not None:
            moments = {"mean": scaler.mean, "variance": scaler.variance, "seen": scaler.count}
            out |= {f"{field}_statistics {name}": value for name, value in moments.items()}
    return {name: np.asarray(value) for name, value in out.items()}


def joined(numbers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters as one array, moments as one each: where a leaf may be small by cancellation."""
    out: dict[str, list[np.ndarray]] = {}
    for name, value in numbers.items():
        field = name.partition(" ")[0]
        out.setdefault(name if "statistics" in field else field, []).append(np.ravel(value))
    return {name: np.concatenate(parts) for name, parts in out.items()}

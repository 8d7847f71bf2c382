"""Action distributions: the same in both backends, and those of torch.distributions."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from runner.jax import distributions
from runner.networks.policies import Distribution
from runner.torch import distributions as torch_distributions
from tests.runner.torch.test_equals_oracle import close


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape, scale=scale).astype(np.float32)


BOUNDS: dict[str, Any] = {"low": (-2.0, -1.0, -3.0), "high": (1.0, 2.0, 0.5)}
DISTRIBUTIONS: dict[str, Distribution] = {
    "Gaussian": Distribution((), 3, "sum"),
    **{f"Gaussian, {how}": Distribution((), 3, how) for how in ("mean", "prod", "none")},
    "Gaussian, clipped means": Distribution((), 3, "sum", clips_means=True, **BOUNDS),
    "categorical": Distribution((5,), 5, "none"),
    "categorical, masked": Distribution((5,), 5, "sum", mask=(0, 2, 4, 3, 1)),
    "categorical of probabilities": Distribution((5,), 5, "sum", probabilities=True),
    **{f"several, {how}": Distribution((2, 4, 3), 9, how) for how in ("sum", "mean", "prod", "none")},
    "several of probabilities": Distribution((2, 3), 5, "sum", probabilities=True),
    "several, masked": Distribution((2, 4), 6, "sum", mask=tuple(range(6))),
    "several, masked together": Distribution((2, 3), 5, "sum", mask=tuple(range(6)), joint=True),
    "three, masked together": Distribution((2, 2, 3), 7, "sum", mask=tuple(range(12)), joint=True),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions_and_their_slopes_are_equal(name: str) -> None:
    which = DISTRIBUTIONS[name]
    outputs, noise = normal(40, which.units, scale=3), normal(40, which.width, seed=1)
    outputs = np.abs(outputs) if which.probabilities else outputs
    rows = (normal(40, 12, seed=2) > 0).astype(np.float32)
    spread = np.float32([-3.0, 0.5, 0.1]) if which.gaussian else None
    mine = jnp.asarray(outputs), None if spread is None else jnp.asarray(spread)
    leaf = torch.tensor(outputs[None], requires_grad=True)
    theirs = leaf, None if spread is None else torch.tensor(spread)[None, None]

    def of_jax(raw: jax.Array) -> tuple[jax.Array, ...]:
        outputs = distributions.finished(which, raw, jnp.asarray(rows))
        actions = distributions.sample(which, outputs, mine[1], jnp.asarray(noise))
        found = distributions.log_prob(which, outputs, mine[1], jax.lax.stop_gradient(actions))
        modes = distributions.mode(which, outputs, mine[1])
        random = distributions.uniform(which, outputs, jnp.asarray(noise))
        return found, distributions.entropy(which, outputs, mine[1]), outputs, actions, modes, random

    def of_torch() -> tuple[torch.Tensor, ...]:
        outputs = torch_distributions.finished(which, theirs[0], torch.tensor(rows)[None])
        actions = torch_distributions.sample(which, outputs, theirs[1], torch.tensor(noise)[None])
        found = torch_distributions.log_prob(which, outputs, theirs[1], actions.detach())
        modes = torch_distributions.mode(which, outputs, theirs[1])
        random = torch_distributions.uniform(which, outputs, torch.tensor(noise)[None])
        return found, torch_distributions.entropy(which, outputs, theirs[1]), outputs, actions, modes, random

    answers = of_torch()
    assert answers[2].shape == (1, 40, which.width) and answers[3].shape == (1, 40, which.chosen)
    assert answers[0].shape == ((1, 40, which.chosen) if which.split else (1, 40))
    summed = jax.grad(lambda raw: sum(part.sum() for part in of_jax(raw)[:2]))
    of_each, slope = jax.jit(lambda raw: (of_jax(raw), summed(raw)))(mine[0])
    for one, other in zip(of_each, answers, strict=True):
        assert one.shape == other.shape[1:]
        close(one, other[0].detach())
    (wanted,) = torch.autograd.grad(answers[0].sum() + answers[1].sum(), leaf)
    close(slope, wanted[0])


@pytest.mark.parametrize("low", [-0.1, 0.3, 1e6])
def test_actions_of_no_policy_are_within_bounds(low: float) -> None:
    which = Distribution((), 3, "sum", low=(low,) * 3, high=(low + 1 / 3,) * 3)
    noise = np.concatenate([normal(50, 3), np.full((1, 3), 9), np.full((1, 3), -9)]).astype(np.float32)
    mine = np.asarray(distributions.uniform(which, jnp.zeros_like(noise), jnp.asarray(noise)))
    theirs = torch_distributions.uniform(which, torch.zeros(noise.shape)[None], torch.tensor(noise)[None])[0].numpy()
    for actions in (mine, theirs):
        assert actions.min() == np.float32(low) and actions.max() == np.float32(low + 1 / 3)
    half = Distribution((), 3, "sum", low=(0.0,) * 3, high=(float("inf"),) * 3)
    np.testing.assert_array_equal(distributions.uniform(half, jnp.zeros_like(noise), jnp.asarray(noise)), noise)


def reference(which: Distribution, outputs: torch.Tensor, rows: torch.Tensor) -> list[torch.distributions.Categorical]:
    """Of every discrete action, by torch.distributions; of all combinations where they are masked together."""
    parts = outputs.split(which.factors, -1)
    if which.probabilities:
        return [torch.distributions.Categorical(probs=part) for part in parts]
    if which.joint:
        rows_of_parts = zip(*parts, strict=True)
        sums = [[float(sum(xs)) for xs in itertools.product(*row)] for row in rows_of_parts]
        parts = (torch.tensor(sums),)
    if which.mask:
        possible = rows[:, list(which.mask)].bool().split([part.shape[-1] for part in parts], -1)
        parts = tuple(part.masked_fill(~mask, -torch.inf) for part, mask in zip(parts, possible, strict=True))
    return [torch.distributions.Categorical(logits=part) for part in parts]


@pytest.mark.parametrize("name", [name for name, which in DISTRIBUTIONS.items() if not which.gaussian])
def test_discrete_distributions_are_those_of_torch(name: str) -> None:
    which = DISTRIBUTIONS[name]
    outputs, noise = torch.tensor(normal(40, which.units, scale=3)), torch.tensor(normal(40, which.width, seed=1))
    outputs = outputs.abs() if which.probabilities else outputs
    rows = torch.tensor((normal(40, 12, seed=2) > 0).astype(np.float32))
    rows[:, [0, 2, 4]] = 1  # something is always possible
    ready = torch_distributions.finished(which, outputs[None], rows[None])
    actions = torch_distributions.sample(which, ready, None, noise[None])
    known = reference(which, outputs, rows)
    each = torch.stack([one.log_prob(column) for one, column in zip(known, actions[0].unbind(-1), strict=True)], -1)
    assert each.isfinite().all(), "an impossible action"
    reduced = {"sum": each.sum(-1), "mean": each.mean(-1), "prod": each.prod(-1), "none": each}[which.reduction]
    found = torch_distributions.log_prob(which, ready, None, actions)[0]
    close(found, reduced if which.split or reduced.dim() == 1 else reduced.squeeze(-1))
    close(torch_distributions.entropy(which, ready, None)[0], sum(finite_entropy(one) for one in known))
    random = torch_distributions.uniform(which, ready, noise[None])[0]
    chances = torch.stack([one.log_prob(column) for one, column in zip(known, random.unbind(-1), strict=True)], -1)
    assert chances.isfinite().all()


def finite_entropy(one: torch.distributions.Categorical) -> torch.Tensor:
    logits = one.logits
    return -torch.where(one.probs > 0, one.probs * logits, 0).sum(-1)

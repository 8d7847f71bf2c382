"""L4: activations and their slopes are equal to torch's, in programs as people run them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
import torch

from runner.config.network.expressions import ACTIVATIONS
from runner.jax import models
from runner.torch import models as torch_models
from tests.runner.torch.test_equals_oracle import close

pytestmark = pytest.mark.usefixtures("optimised")


def test_both_know_the_activations_of_the_configuration() -> None:
    assert set(models.ACTIVATIONS) == set(torch_models.ACTIVATIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_and_its_slope_are_equal_to_where_exponentials_overflow(name: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 7, 5)).astype(np.float32) * np.float32([1, 10, 100, 1000])[:, None, None]
    direction = rng.normal(size=(7, 5)).astype(np.float32)

    @jax.jit
    def both(rows: jax.Array, direction: jax.Array) -> Any:
        value, back = jax.vjp(models.ACTIVATIONS[name], rows)
        return value, back(direction)[0]

    for rows in x:
        mine, mine_slope = both(rows, direction)
        leaf = torch.tensor(rows.T[None], requires_grad=True)  # features first
        theirs = torch_models.ACTIVATIONS[name](leaf)
        (slope,) = torch.autograd.grad(theirs, leaf, torch.tensor(direction.T[None]))
        close(mine, theirs[0].T.detach(), name)
        close(mine_slope, slope[0].T, f"slope of {name}")

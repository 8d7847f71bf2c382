"""The shape checker of the tests catches what it should: in both backends, in functions and in methods."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import pytest
import torch
from jaxtyping import TypeCheckError

from runner.jax import advantages as jax_advantages
from runner.jax.preprocessors import Scaler as JaxScaler
from runner.torch import advantages
from runner.torch.preprocessors import Scaler


def test_wrong_shapes_are_caught_in_functions_and_methods() -> None:
    calls: list[Any] = [
        lambda: advantages.normalize(torch.zeros(2, 3), torch.zeros(2, 4)),
        lambda: jax_advantages.normalize(jnp.zeros(3), jnp.zeros(4)),
        lambda: Scaler(torch.zeros(1, 1, 3), torch.ones(1, 1, 3), 0.0, 5.0).normalize(torch.zeros(3)),
        lambda: JaxScaler(jnp.zeros(3), jnp.ones(3), 0.0, 5.0).normalize(jnp.zeros(3)),
    ]
    for call in calls:
        with pytest.raises(TypeCheckError):
            call()

"""The JAX backend: `Runner` and `wrap_env`."""

from __future__ import annotations

from typing import ClassVar, Literal

from runner import api as base
from runner.envs.wrap import wrap_env
from runner.jax.accelerate import device_name, sees_gpu
from runner.jax.train import Learning

__all__ = ["Runner", "device_name", "sees_gpu", "wrap_env"]


class Runner(base.Runner):
    """`runner.api.Runner` on JAX."""

    backend: ClassVar[Literal["torch", "jax"]] = "jax"
    learning: ClassVar[type[Learning]] = Learning

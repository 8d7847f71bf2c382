"""The JAX backend: `Runner` and `wrap_env`."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from runner import api as base
from runner.envs.wrap import wrap_env
from runner.jax import train
from runner.jax.accelerate import device_name, join, sees_gpu, share
from runner.training.members import Backend

__all__ = ["Runner", "device_name", "join", "sees_gpu", "share", "wrap_env"]


class Runner(base.Runner):
    """`runner.api.Runner` on JAX."""

    backend: ClassVar[Literal["torch", "jax"]] = "jax"
    numerics: ClassVar[Backend] = cast(Backend, train)

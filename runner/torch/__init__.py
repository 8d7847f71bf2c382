"""The torch backend: `Runner` and `wrap_env`."""

from __future__ import annotations

from typing import ClassVar, Literal, cast

from runner import api as base
from runner.envs.wrap import wrap_env
from runner.torch import train
from runner.torch.accelerate import device_name, join, sees_gpu, share
from runner.training.members import Backend

__all__ = ["Runner", "device_name", "join", "sees_gpu", "share", "wrap_env"]


class Runner(base.Runner):
    """`runner.api.Runner` on torch."""

    backend: ClassVar[Literal["torch", "jax"]] = "torch"
    numerics: ClassVar[Backend] = cast(Backend, train)

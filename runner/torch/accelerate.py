"""The way in which the update's functions run, eager or compiled, of which they know nothing."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from runner.config import Config
from runner.cores import worth_splitting
from runner.group import PATIENCE_SECONDS, Group
from runner.training.pack import Rules

log = logging.getLogger(__name__)

WORTH_COMPILING = 20_000
"""Minibatch steps from which compilation (10 to 15 s a process, about 1 ms saved per step) pays for itself."""


def device() -> torch.device:
    """The GPU if torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sees_gpu() -> bool:
    """Training would run on a GPU."""
    return device().type == "cuda"


def device_name() -> str:
    """The device that training runs on, for people: `cpu`, or `gpu` and its model."""
    return f"gpu {torch.cuda.get_device_name()}" if sees_gpu() else "cpu"


def multiplies_bfloat16() -> bool:
    """The device multiplies bfloat16 matrices faster than float32 ones."""
    return sees_gpu() and torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def settings(rules: Rules, rows: int) -> Iterator[None]:
    """Run our programs under the settings that they are written for: no tape, and one thread for little arithmetic.

    Splitting it costs more than it gives then, and where another process wants the core, torch's waiting threads make
    a run more than 20 times slower.

    Args:
        rules: give the network and the number of minibatches.
        rows: rows of a rollout of all members.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if worth_splitting(rules.config, rules.network.size, rows) else 1)
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        torch.set_num_threads(before)


def compiles(config: Config) -> bool:
    """This configuration's update is compiled.

    A function of the configuration alone (and of there being a compiler at all), never of measured time: compiled and
    eager arithmetic differ in the last bits, and a repeated run must repeat.
    """
    if config.models.recurrent:
        if config.compile is True:
            log.warning(
                "compile: True has no effect on networks with lstm or gru layers: a graph of every step of a sequence "
                "takes minutes to compile, so the update runs uncompiled"
            )
        return False
    if config.compile != "auto":
        return config.compile
    steps = config.updates * config.agent.learning_epochs * config.agent.mini_batches
    if steps < WORTH_COMPILING:
        return False
    if not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
        log.warning("no C++ compiler found: the update runs uncompiled, about 2.5 times slower; install g++ or clang")
        return False
    return True


def gradient(loss: Callable[[Tensor], Any], parameters: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradient of a loss of flat parameters, which also gives parts, and those parts."""
    return (functional_gradient if torch.compiler.is_compiling() else eager_gradient)(loss, parameters)


def eager_gradient(loss: Callable[[Tensor], Any], parameters: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradient by the autograd tape: the least overhead without a compiler."""
    leaf = parameters.detach().requires_grad_()
    # Anomaly detection would end the pack where one member diverges.
    with torch.enable_grad(), torch.autograd.set_detect_anomaly(False):
        total, parts = loss(leaf)
        (gradient,) = torch.autograd.grad(total, leaf)
    return gradient, tuple(part.detach() for part in parts)


def functional_gradient(loss: Callable[[Tensor], Any], parameters: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Gradient as a function transform, which the compiler can trace into one graph with what surrounds it."""
    gradient, (_, parts) = torch.func.grad_and_value(loss, has_aux=True)(parameters)
    return gradient, parts


def join(group: Group) -> None:
    """Meet the other processes of a group; once in a process's life."""
    if distributed.is_initialized():
        return
    if sees_gpu():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if sees_gpu() else "gloo",
        init_method=f"tcp://{group.address}" if group.address else "env://",
        rank=group.rank,
        world_size=group.size,
        timeout=timedelta(seconds=PATIENCE_SECONDS),
    )


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays that the processes of the group call this with, all of one shape, in order on a new axis in front."""
    return gathered(torch.from_numpy(array).unsqueeze(0), 0).numpy()


def gathered(arrays: Tensor, axis: int) -> Tensor:
    """The tensors that the processes of the group call this with, all of one shape, one after the other."""
    flat = arrays.contiguous()
    sent = flat.view(torch.uint8) if flat.dtype is torch.bool else flat
    parts = [torch.empty_like(sent) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, sent)
    return torch.cat([part.view(flat.dtype) for part in parts], axis)


def own(units: int, processes: int) -> slice:
    """The part of so many rows that this process of the group learns from."""
    rank = distributed.get_rank()
    return slice(units * rank // processes, units * (rank + 1) // processes)


def total(numbers: Tensor) -> Tensor:
    """The sum over the processes of the group, the same bits in all of them."""
    summed: Tensor = (_traced_total if torch.compiler.is_compiling() else _total)(numbers)
    return summed


def _total(numbers: Tensor) -> Tensor:
    summed = numbers.contiguous().clone()
    distributed.all_reduce(summed)
    return summed


_traced_total = torch.library.custom_op("sunflower::total", _total, mutates_args=())
"""`total`, into which the compiler does not look."""
_traced_total.register_fake(torch.empty_like)

"""How the update's functions run: eager or compiled. The functions themselves do not know."""

from __future__ import annotations

import contextlib
import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from runner.config import Config
from runner.cores import worth_splitting
from runner.torch.update import Batch, Learner, MinibatchStep, Rules, minibatch_step
from runner.training.pack import Hyper

log = logging.getLogger(__name__)

WORTH_COMPILING = 20_000
"""Minibatch steps from which compilation (10 to 15 s a process, about 1 ms saved per step) pays for itself."""


def device() -> torch.device:
    """The GPU if torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sees_gpu() -> bool:
    """Whether training would run on a GPU."""
    return device().type == "cuda"


def device_name() -> str:
    """What training runs on, for people: `cpu`, or `gpu` and its model."""
    return f"gpu {torch.cuda.get_device_name()}" if sees_gpu() else "cpu"


@contextlib.contextmanager
def few_threads(rules: Rules, rows: int) -> Iterator[None]:
    """Use one torch thread while the arithmetic of a minibatch is small.

    Splitting it costs more than it gives then, and where another process wants the core, torch's waiting threads make
    a run more than 20 times slower.

    Args:
        rules: give the network and the number of minibatches.
        rows: rows of a rollout of all members.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(before if worth_splitting(rules.config, rules.network.size, rows) else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compiles(config: Config) -> bool:
    """Whether this configuration's update is compiled.

    A function of the configuration alone (and of there being a compiler at all), never of measured time: compiled and
    eager arithmetic differ in the last bits, and a repeated run must repeat.
    """
    if config.compile != "auto":
        return config.compile
    steps = config.updates * config.agent.learning_epochs * config.agent.mini_batches
    if steps < WORTH_COMPILING:
        return False
    if not any(map(shutil.which, ("g++", "c++", "clang++", "cl"))):
        log.warning("no C++ compiler found: the update runs uncompiled, about 2.5 times slower; install g++ or clang")
        return False
    return True


def minibatch_stepper(rules: Rules) -> MinibatchStep:
    """`minibatch_step` for these rules, compiled or not."""
    if not compiles(rules.config):
        return functools.partial(minibatch_step, rules=rules, gradient=eager_gradient)
    step = functools.partial(minibatch_step, rules=rules, gradient=functional_gradient)
    return torch.compile(step, dynamic=False, fullgraph=True)


def warm_up(
    step: MinibatchStep,
    learner: Learner,
    hyper: Hyper,
    shape: tuple[int, int],
    rules: Rules,
) -> None:
    """Compile `step` for every shape that training will use, on rows of zeros.

    Args:
        step: a compiled `minibatch_step`.
        learner: gives the number of members and the device.
        hyper: the pack's.
        shape: (T, N) of a rollout.
        rules: the step's.
    """
    optimizer, distribution = learner.optimizer, rules.network.distribution
    members, device = optimizer.parameters.shape[0], optimizer.parameters.device
    raw = rules.network.observations.byte and learner.observation_statistics is None
    dtype = torch.uint8 if raw else torch.float32
    rows = torch.empty(shape[0] * shape[1])
    for size in {part.numel() for part in rows.tensor_split(rules.config.agent.mini_batches)}:
        zeros = functools.partial(torch.zeros, members, size, device=device)
        log_prob = zeros(distribution.chosen) if distribution.split else zeros()
        batch = Batch(
            zeros(rules.network.observation_size, dtype=dtype),
            zeros(distribution.chosen, dtype=torch.float32 if distribution.gaussian else torch.int64),
            log_prob,
            zeros(),
            zeros(),
            zeros(),
            zeros(),
            zeros(distribution.units) if rules.config.agent.cls == "RPO" else None,
        )
        step(optimizer, batch, hyper, torch.ones(members, 1, dtype=torch.bool, device=device))


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

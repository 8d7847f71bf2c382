"""The way in which functions run, eager, compiled or as CUDA graphs, of which they know nothing."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils import _pytree as pytree

from runner.config import Config
from runner.cores import usable_cores, worth_splitting
from runner.exchange import Exchange, meet
from runner.group import PATIENCE_SECONDS, Group
from runner.training.pack import Rules

log = logging.getLogger(__name__)

WORTH_COMPILING = 20_000
"""Minibatch steps from which compilation (10 to 15 s a process, about 1 ms saved per step) pays for itself."""
WARM_UP = 3
"""Runs before a capture, in which libraries choose their kernels and ask for memory."""
_exchange: Exchange | None = None
"""The memory that the group's processes share, where they do."""


def device() -> torch.device:
    """The GPU if torch sees one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sees_gpu() -> bool:
    """Training would run on a GPU."""
    return device().type == "cuda"


def share(part: float) -> None:
    """Take no more than this part of the GPU's memory, of which other processes have theirs."""
    torch.cuda.set_per_process_memory_fraction(part)


def device_name() -> str:
    """The device that training runs on, for people: `cpu`, or `gpu` and its model."""
    return f"gpu {torch.cuda.get_device_name()}" if sees_gpu() else "cpu"


def multiplies_bfloat16() -> bool:
    """The device multiplies bfloat16 matrices faster than float32 ones."""
    return sees_gpu() and torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def settings(rules: Rules, rows: int) -> Iterator[None]:
    """Those of `own_settings`, and one thread for little arithmetic.

    Splitting it costs more than it gives then, and where another process wants the core, torch's waiting threads make
    a run more than 20 times slower.

    Args:
        rules: give the network and the number of minibatches.
        rows: rows of a rollout of all members.
    """
    little = not worth_splitting(rules.config, rules.network.size, rows)
    with own_settings(rules.config.agent.tf32), _threads(1) if little else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def own_settings(tf32: bool = False) -> Iterator[None]:
    """Run our programs under the settings that they are written for.

    There is no tape, a GPU multiplies in TF32 if asked to, and there are no more threads than cores: of a container's
    quota torch knows nothing, nor of what this process was pinned to after its import.
    """
    with torch.inference_mode(False), torch.no_grad(), _products(tf32), _threads(_cores()):
        yield


_cores = functools.cache(usable_cores)


@contextlib.contextmanager
def _threads(most: int) -> Iterator[None]:
    """So many threads of arithmetic at most."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, most))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _products(tf32: bool) -> Iterator[None]:
    """Matrix products and convolutions on a GPU in TF32 or not, by algorithms that repeat themselves to the bit.

    torch spells TF32 in two ways, and raises where one is read after the other was written: an environment may have
    written either. The newer is read, both are written.
    """
    if not sees_gpu():
        yield
        return
    backends, cudnn = torch.backends, torch.backends.cudnn
    places = (backends.cuda, "matmul"), (backends.mkldnn, "matmul"), (cudnn, "conv"), (cudnn, "rnn")
    kinds: list[Any] = [getattr(place, name, None) for place, name in places]
    newer = [kind for kind in kinds if hasattr(kind, "fp32_precision")]  # none before torch 2.9
    with _quiet():
        older, precisions = _older(), [kind.fp32_precision for kind in newer]
    repeats = cudnn.deterministic, cudnn.benchmark

    def choose(product: str, convolution: bool, precisions: Sequence[str], deterministic: bool, times: bool) -> None:
        with _quiet():
            torch.set_float32_matmul_precision(product)
            cudnn.allow_tf32 = convolution
            for kind, precision in zip(newer, precisions, strict=True):
                kind.fp32_precision = precision
        cudnn.deterministic, cudnn.benchmark = deterministic, times

    choose("high" if tf32 else "highest", tf32, ["tf32" if tf32 else "ieee"] * len(newer), True, False)
    try:
        yield
    finally:
        choose(*older, precisions, *repeats)


def _older() -> tuple[str, bool]:
    """TF32 of products and of convolutions in torch's older words, as at first where newer ones have been used."""
    product, convolution = "highest", True
    with contextlib.suppress(RuntimeError):
        product = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        convolution = torch.backends.cudnn.allow_tf32
    return product, convolution


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's advice to spell TF32 in the newer way alone, which older versions do not know."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TF32.*")
        yield


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
    if steps < WORTH_COMPILING or (config.models.convolves and not sees_gpu()):  # faster by hand: `runner.torch.models`
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


class CudaGraph:
    """The operations of a function of no arguments on the GPU, recorded once.

    Attributes:
        outputs: its results; every replay writes them anew.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        """Warm up on a stream beside the current one, as PyTorch's documentation has it, and record."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # An environment's library may use the GPU in threads of its own meanwhile; and where recording fails, torch
        # leaves its own stream behind as the current one.
        recording = torch.cuda.graph(self._graph, capture_error_mode="thread_local")
        with torch.cuda.stream(torch.cuda.current_stream()), recording:
            self.outputs = function()

    def replay(self) -> None:
        """Do the same again, with what is in the memory of its inputs now."""
        self._graph.replay()


class Captured:
    """A function of trees of tensors, recorded once for each shape of its arguments and then replayed.

    What a call returns holds until the next call: it is in memory that every replay writes to (see `kept`). Where a
    function cannot be recorded it runs as it is, which is said once.
    """

    def __init__(self, function: Callable[..., Any], graph: Callable[[Callable[[], Any]], Any] = CudaGraph) -> None:
        self._function, self._graph = function, graph
        self._plans: dict[tuple[Any, ...], _Plan | None] = {}

    def __call__(self, *arguments: Any) -> Any:
        """The function's result for these arguments, those that are no tensors by value."""
        leaves = pytree.tree_leaves(arguments)
        key = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves)
        if key not in self._plans:
            self._plans[key] = self._recorded(arguments)
        plan = self._plans[key]
        return self._function(*arguments) if plan is None else plan(leaves)

    def _recorded(self, arguments: Any) -> _Plan | None:
        inputs = pytree.tree_map_only(Tensor, _alike, arguments)
        try:
            return _Plan(pytree.tree_leaves(inputs), self._graph(lambda: self._function(*inputs)))
        except RuntimeError as error:
            if None not in self._plans.values():
                log.warning("no CUDA graph of the training's operations, which run one by one, slower: %s", error)
            return None


def _alike(tensor: Tensor) -> Tensor:
    """A copy whose numbers lie in the tensor's order, since sums follow the order in memory; without its gaps."""
    return tensor.detach().clone()


class _Plan:
    """A recorded graph, and the memory that it reads."""

    def __init__(self, inputs: Sequence[Any], graph: Any) -> None:
        self._inputs, self._graph = inputs, graph
        # Weakly, so that a minibatch does not lie beside the next rollout.
        self._seen: list[tuple[Callable[[], Any], int]] = [(lambda: None, 0)] * len(inputs)

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """Replay with these arguments; what has not changed since the last time is not copied again."""
        changed: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for place, given in enumerate(leaves):
            if isinstance(given, Tensor):
                before, version = self._seen[place]
                if given is not before() or given._version != version:
                    self._seen[place] = weakref.ref(given), given._version
                    changed.setdefault(given.dtype, []).append((self._inputs[place], given))
        for pairs in changed.values():
            torch._foreach_copy_([own for own, _ in pairs], [given for _, given in pairs], non_blocking=True)
        self._graph.replay()
        # New objects, since a tensor's version does not count what a replay writes.
        return pytree.tree_map_only(Tensor, Tensor.detach, self._graph.outputs)


def kept(tree: Any) -> Any:
    """Results of functions that may be `captured`, in memory of their own."""
    return pytree.tree_map_only(Tensor, Tensor.clone, tree) if sees_gpu() else tree


def captured(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a CUDA graph, where there is a GPU; it samples nothing and does not wait for the host."""
    return Captured(function) if sees_gpu() else function


def constant(numbers: tuple[Any, ...], dtype: torch.dtype, where: torch.device) -> Tensor:
    """These numbers on the device, where they stay: a copy from the host would wait, and cannot be recorded."""
    if not torch.compiler.is_compiling():
        return _constant(numbers, dtype, where)
    if where.type == "cpu":  # whose memory is the host's; and exported programs run where this one is not installed
        return torch.tensor(numbers, dtype=dtype, device=where)
    kept: Tensor = _traced_constant(numbers, dtype, where)
    return kept


@functools.cache  # for good: recorded graphs read their memory
def _constant(numbers: tuple[Any, ...], dtype: torch.dtype, where: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=dtype, device=where)


@torch.library.custom_op("sunflower::constant", mutates_args=())
def _traced_constant(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`constant`, which the compiler would copy from the host at every call."""
    return _constant(tuple(numbers), dtype, device).clone()


@_traced_constant.register_fake
def _(numbers: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.empty(len(numbers), dtype=dtype, device=device)


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
    global _exchange
    _exchange = None if sees_gpu() else meet(group, gather)


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays that the processes of the group call this with, all of one shape, in order on a new axis in front."""
    return gathered(torch.from_numpy(array).unsqueeze(0), 0).numpy()


def gathered(arrays: Tensor, axis: int) -> Tensor:
    """The tensors that the processes of the group call this with, all of one shape, one after the other."""
    flat = arrays.contiguous()
    sent = flat.view(torch.uint8)
    if _exchange is not None:
        parts = list(torch.from_numpy(_exchange.gather(sent.numpy())))
    else:
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
    if _exchange is not None:
        return torch.from_numpy(_exchange.total(numbers.numpy()))
    summed = numbers.contiguous().clone()
    distributed.all_reduce(summed)
    return summed


_traced_total = torch.library.custom_op("sunflower::total", _total, mutates_args=())
"""`total`, into which the compiler does not look."""
_traced_total.register_fake(torch.empty_like)

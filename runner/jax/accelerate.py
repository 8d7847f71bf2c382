"""The making of compiled programs: over members, for which device, and kept on disk between runs."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from runner.config import Config
from runner.errors import UserError
from runner.exchange import Exchange, meet
from runner.group import PATIENCE_SECONDS, Group
from runner.training.pack import Rules

_settings: Any = jax.config  # whose attributes a type checker does not know
CACHE_BYTES = 1_000_000_000
"""Size at which the oldest compiled programs are dropped from the disk."""
_PROCESSES = "processes"
"""Axis of the processes that train together."""
_exchange: Exchange | None = None
"""The memory that the group's processes share, where they do."""


def sees_gpu() -> bool:
    """Training would run on a GPU."""
    return jax.default_backend() == "gpu"


def share(part: float) -> None:
    """Nothing: XLA has read its part of the GPU's memory, XLA_CLIENT_MEM_FRACTION, when it started."""


def multiplies_bfloat16() -> bool:
    """The device multiplies bfloat16 matrices faster than float32 ones."""
    return sees_gpu()


def compiles(config: Config) -> bool:
    """This configuration's update is compiled: always."""
    return True


def _threads() -> int:
    """Threads of XLA's CPU client, as it counts them itself."""
    named = os.environ.get("NPROC", "")
    if named.isdigit() and int(named):
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def device_name() -> str:
    """The device that training runs on, for people: `cpu`, or `gpu` and its model."""
    return f"gpu {jax.devices()[0].device_kind}" if sees_gpu() else "cpu"


def keep_programs() -> None:
    """Keep compiled programs in the user's cache directory, so that a second run does not wait for them.

    JAX's own settings win: JAX_COMPILATION_CACHE_DIR moves the directory, JAX_ENABLE_COMPILATION_CACHE=false turns it
    off. A user without a directory to write to compiles again every time. Each number of threads has a folder of its
    own there: XLA compiles for it, and gives last bits by it, but JAX would take a program for any other number.
    """
    folder = _settings.jax_compilation_cache_dir
    if folder is None:
        folder = programs_folder()
        if folder is None:
            _settings.update("jax_enable_compilation_cache", False)
            return
        _settings.update("jax_compilation_cache_max_size", CACHE_BYTES)
    if (threads := f"threads-{_threads()}") != Path(folder).name:
        _settings.update("jax_compilation_cache_dir", str(Path(folder) / threads))
        compilation_cache.reset_cache()  # an environment of JAX may have begun one of no folder
    # What takes a tenth of a second to compile is loaded in a hundredth.
    _settings.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def programs_folder() -> Path | None:
    """The folder for compiled programs in the user's cache directory; None where it cannot be written."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(cache) / "sunflower" / "jax"
    if not folder.is_absolute():  # nobody knows this user's home
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK | os.X_OK) else None


def settings(rules: Rules, rows: int) -> contextlib.AbstractContextManager[None]:
    """Those of `own_settings`, with products as the rules say, whatever the number of rows in a rollout."""
    return own_settings(rules.config.agent.tf32)


@contextlib.contextmanager
def own_settings(tf32: bool = False) -> Iterator[None]:
    """Run our programs under the settings that they are written for, whatever JAX_DEBUG_NANS and the like say.

    A number that is not finite freezes its member, and what is undefined is NaN: neither may end the pack. With 64-bit
    numbers or without compilation the results would be others. A GPU multiplies in TF32 only if asked to.
    """
    settings = [
        jax.enable_x64(False),
        jax.disable_jit(False),
        jax.debug_nans(False),
        jax.debug_infs(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ]
    if sees_gpu():
        settings.append(jax.default_matmul_precision("tensorfloat32" if tf32 else "highest"))
    with contextlib.ExitStack() as stack:
        for setting in settings:
            stack.enter_context(setting)
        yield


def put(arrays: Any) -> Any:
    """Arrays on the device, bound to it like those of other libraries: programs are compiled for either."""
    return jax.device_put(arrays, _settings.jax_default_device or jax.local_devices()[0])


def zeros(shapes: Any) -> Any:
    """Zeros of these shapes on the device."""
    return put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))


@contextlib.contextmanager
def not_kept() -> Iterator[None]:
    """Do not keep what is compiled here: a program that holds a pool's address is of no use to another process."""
    before = _settings.jax_persistent_cache_min_compile_time_secs
    _settings.update("jax_persistent_cache_min_compile_time_secs", float("inf"))
    try:
        yield
    finally:
        _settings.update("jax_persistent_cache_min_compile_time_secs", before)


def over_members(
    function: Callable[..., Any], in_axes: Sequence[int | None], donate: Sequence[int] = ()
) -> Callable[..., Any]:
    """Compile a function of one member for all members of a pack.

    Args:
        function: (static, *arrays) → arrays, of one member; `static` is hashable.
        in_axes: the members' axis in each of `arrays`, None for what all share.
        donate: which of `arrays` are not used afterwards, so that their memory is used again.
    """

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=[i + 1 for i in donate])
    @functools.wraps(function)
    def program(static: Any, *arrays: Any) -> Any:
        return jax.vmap(functools.partial(function, static), in_axes)(*arrays)

    return program


def join(group: Group) -> None:
    """Meet the other processes of a group; once in a process's life, before its first array."""
    if jax.distributed.is_initialized():
        return
    if not group.address:
        raise UserError(
            f"trainer.devices {group.size}: torchrun starts processes of torch; allowed in JAX: `launch`, or JAX_RANK, "
            "JAX_WORLD_SIZE and JAX_COORDINATOR_ADDR (HOST:PORT) in the environment of each process"
        )
    patience = int(PATIENCE_SECONDS)
    local = int(os.environ["JAX_LOCAL_RANK"]) if "JAX_LOCAL_RANK" in os.environ else None
    jax.distributed.initialize(group.address, group.size, group.rank, local, initialization_timeout=patience)
    global _exchange
    _exchange = None if sees_gpu() else meet(group, gather)


def gather(array: np.ndarray) -> np.ndarray:
    """The arrays that the processes of the group call this with, all of one shape, in order on a new axis in front."""
    if _exchange is not None:
        return _exchange.gather(array)
    # As bytes, of which JAX makes no 32-bit numbers.
    sent = np.frombuffer(array.tobytes(), np.uint8)[None]
    every: np.ndarray = np.asarray(gathered(sent, 0)).view(array.dtype)
    return every.reshape(-1, *array.shape)


def gathered(arrays: Any, axis: int) -> Any:
    """The arrays that the processes of the group call this with, all of one shape, one after the other."""
    if (exchange := _exchange) is not None:
        return jax.tree.map(lambda x: put(np.concatenate(exchange.gather(np.asarray(x)), axis)), arrays)
    parts = _everywhere(arrays, Spec(*[None] * axis, _PROCESSES))
    return _here(_gathering()(parts))


def total(numbers: Array) -> Array:
    """The sum over the processes of the group, the same bits in all of them."""
    if _exchange is not None:
        return put(_exchange.total(np.asarray(numbers)))
    summed: Array = _here(_summing()(_everywhere(numbers[None], Spec(_PROCESSES))))
    return summed


@functools.cache
def _mesh() -> Mesh:
    """The first device of every process."""
    first: dict[int, Any] = {}
    for device in jax.devices():
        first.setdefault(device.process_index, device)
    return Mesh(np.array([first[index] for index in sorted(first)]), (_PROCESSES,))


def _everywhere(arrays: Any, spec: Spec) -> Any:
    """Arrays of this process as parts of arrays of the group, or as what all of it have."""
    sharding, mesh = NamedSharding(_mesh(), spec), _mesh()

    def part(x: Any) -> Array:
        shape = [size * mesh.size if axis < len(spec) and spec[axis] else size for axis, size in enumerate(x.shape)]
        return jax.make_array_from_single_device_arrays(tuple(shape), sharding, [put(x)])

    return jax.tree.map(part, arrays)


@functools.cache
def _gathering() -> Any:
    """The program that gives every process all parts of arrays."""
    return jax.jit(lambda arrays: arrays, out_shardings=NamedSharding(_mesh(), Spec()))


@functools.cache
def _summing() -> Any:
    """The program that gives every process the sum over their parts of an array."""
    return jax.jit(lambda parts: parts.sum(0), out_shardings=NamedSharding(_mesh(), Spec()))


def _here(arrays: Any) -> Any:
    """This process's copy of arrays that all processes have."""
    return jax.tree.map(lambda x: x.addressable_data(0), arrays)

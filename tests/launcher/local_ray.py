"""A Ray for the launches of a test module."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def local_ray(num_cpus: int, num_gpus: int = 0) -> Iterator[list[str]]:
    """A Ray that this process is connected to, with so many logical cores and GPUs; the arguments that use it."""
    import ray

    with warnings.catch_warnings():
        # An earlier test may have started JAX; what is forked here becomes another program at once.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        ray.init(
            address="local",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            include_dashboard=False,
            object_store_memory=100_000_000,
            log_to_driver=False,
        )
    try:
        yield ["--address", "auto"]
    finally:
        ray.shutdown()

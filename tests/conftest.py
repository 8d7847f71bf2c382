"""Shape annotations are checked while tests run.

Programs that JAX compiles in tests are kept in a temporary directory, not in the user's.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator

import jax
import pytest

from tests import checking

# Annotations such as Mapping[str, Any] make beartype warn of deprecated typing spellings in third-party code.
warnings.filterwarnings("ignore", module="beartype")
checking.install(["runner.torch", "runner.jax"])

PROGRAMS = tempfile.mkdtemp(prefix="sunflower-programs-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS  # of other processes
jax.config.update("jax_compilation_cache_dir", PROGRAMS)
OPTIMISATIONS = "jax_disable_most_optimizations"
jax.config.update(OPTIMISATIONS, True)


@pytest.fixture(scope="module")
def optimised() -> Iterator[None]:
    """For a module whose programs must be those that people run: what is the same to the bit, and what is kept.

    Elsewhere XLA does not optimise them much: that takes longer than they run.
    """
    jax.clear_caches()
    jax.config.update(OPTIMISATIONS, False)
    yield
    jax.config.update(OPTIMISATIONS, True)
    jax.clear_caches()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts whole launches takes a minute here, and may take ten on a slow and busy machine."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.timeout(1800))


def pytest_collection_finish() -> None:
    """What was imported stays: a collection of garbage need not walk through it each time."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say plainly what a run of `-m gpu` has not shown."""
    if config.option.markexpr == "gpu":
        for report in terminalreporter.getreports("skipped"):
            terminalreporter.write_line(f"{report.nodeid}: {report.longrepr[-1].removeprefix('Skipped: ')}")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)

"""Shape annotations are checked while tests run.

Programs that JAX compiles in tests are kept in a temporary directory, not in the user's.

`pytest` alone runs in two processes: all of tests/launcher, where Ray starts, in one of them and in order, the other
files wherever there is time. A part of the suite, and what has a mark, runs in the process that was asked for it.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest
from jax._src import compiler
from xdist.scheduler import LoadFileScheduling

from tests import checking

# Annotations such as Mapping[str, Any] make beartype warn of deprecated typing spellings in third-party code.
warnings.filterwarnings("ignore", module="beartype")
checking.install(["runner.torch", "runner.jax"])

PROGRAMS = tempfile.mkdtemp(prefix="sunflower-programs-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS  # of other processes
jax.config.update("jax_compilation_cache_dir", PROGRAMS)
OPTIMISATIONS = "jax_disable_most_optimizations"
jax.config.update(OPTIMISATIONS, True)


def _quickly(*args: Any, compile_options: Callable[..., Any] = compiler.get_compile_options, **named: Any) -> Any:
    """How JAX compiles; where little is optimised, without XLA's fusion emitters, which take two thirds of the time."""
    options = compile_options(*args, **named)
    if options.executable_build_options.debug_options.xla_llvm_disable_expensive_passes:
        options.env_option_overrides = [*options.env_option_overrides, ("xla_cpu_use_fusion_emitters", False)]
    return options


if jax.__version_info__ < (0, 11):  # a later one may not know the option
    compiler.get_compile_options = _quickly


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


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes that run the tests; 0: this one."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "not cluster" in config.option.markexpr
    return 2 if whole else 0


class ByFile(LoadFileScheduling):
    """A file's tests run in one process, and those of tests/launcher, which share Rays and caches, all in the same.

    Those of a GPU wait for processes of their own, and run wherever there is time.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/runner/test_gpu.py"):
            return nodeid
        together = "tests/launcher/"
        return together if nodeid.startswith(together) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """How the tests are shared out."""
    return ByFile(config, log)


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

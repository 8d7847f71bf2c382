"""Shape annotations are checked while tests run.

Programs that JAX compiles in tests are kept in a temporary directory, not in the user's.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings

import pytest

from tests import checking

DEFAULT = "not slow and not cluster"
"""The marks of the default suite, as pyproject.toml has them."""

# Annotations such as Mapping[str, Any] make beartype warn of deprecated typing spellings in third-party code.
warnings.filterwarnings("ignore", module="beartype")
checking.install(["runner.torch", "runner.jax"])

PROGRAMS = tempfile.mkdtemp(prefix="sunflower-programs-")
# JAX reads it once, when it is imported, which EnvPool does; a plugin of pytest's may have been earlier.
os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS
if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_compilation_cache_dir", PROGRAMS)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The default suite runs in two processes, a module at a time, where pytest-xdist is installed.

    Tests that are named run in this one, and so do the faults of `-m cluster`, which have the machine to themselves.
    """
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and options.markexpr == DEFAULT
    alone = options.usepdb or options.capture == "no" or hasattr(config, "workerinput")
    if whole and not alone and getattr(options, "numprocesses", 0) is None:
        # Modules in their order, in which those that start Ray are early: many tests need not be long ones.
        options.numprocesses, options.dist, options.loadscopereorder = 2, "loadfile", False


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)

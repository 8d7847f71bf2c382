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

# Annotations such as Mapping[str, Any] make beartype warn of deprecated typing spellings in third-party code.
warnings.filterwarnings("ignore", module="beartype")
checking.install(["runner.torch", "runner.jax"])

PROGRAMS = tempfile.mkdtemp(prefix="sunflower-programs-")
# JAX reads it once, when it is imported, which EnvPool does; a plugin of pytest's may have been earlier.
os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS
if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_compilation_cache_dir", PROGRAMS)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)

"""Shape annotations are checked while tests run: jaxtyping's hook wraps every function of `runner` with beartype.

Programs that JAX compiles in tests are kept in a temporary directory, not in the user's.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings

import pytest
from jaxtyping import install_import_hook

# Annotations such as Mapping[str, Any] make beartype warn of deprecated typing spellings in third-party code.
warnings.filterwarnings("ignore", module="beartype")
install_import_hook(["runner.torch", "runner.jax"], "beartype.beartype")

PROGRAMS = tempfile.mkdtemp(prefix="sunflower-programs-")
# JAX reads it once, when it is imported, which EnvPool does.
os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)

"""Shape annotations are checked while tests run: jaxtyping's hook wraps every function of `runner` with beartype."""

from __future__ import annotations

import warnings

from jaxtyping import install_import_hook

# Annotations such as Mapping[str, Any] make beartype warn of deprecated typing spellings in third-party code.
warnings.filterwarnings("ignore", module="beartype")
install_import_hook(["runner.torch", "runner.jax"], "beartype.beartype")

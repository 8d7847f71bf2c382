"""Checks shape annotations while tests run: jaxtyping and beartype around every function and method of some packages.

jaxtyping's own import hook also wraps functions within functions, anew each time the outer one runs, which made tests
four times slower; those are left alone here.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

from beartype import beartype
from jaxtyping import jaxtyped

_check = jaxtyped(typechecker=beartype)


class Checked(importlib.abc.MetaPathFinder):
    """Wraps what modules of these packages define, as soon as they are imported."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = tuple(packages)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual specification, whose loader also wraps."""
        if not any(fullname == name or fullname.startswith(f"{name}.") for name in self._packages):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            @functools.wraps(load)
            def exec_module(module: types.ModuleType) -> None:
                load(module)
                wrap(module, module.__name__)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def wrap(owner: Any, module: str) -> None:
    """Replace the functions, and the methods of the classes, that are defined in `owner` itself."""
    for name, found in list(vars(owner).items()):
        if isinstance(found, types.FunctionType) and found.__module__ == module and found.__annotations__:
            setattr(owner, name, _check(found))
        elif isinstance(found, type) and found.__module__ == module and isinstance(owner, types.ModuleType):
            wrap(found, module)


def install(packages: Sequence[str]) -> None:
    """Check these packages from now on; none of them may be imported yet.

    Raises:
        RuntimeError: one is.
    """
    early = [name for name in sys.modules if name.startswith(tuple(packages))]
    if early:
        raise RuntimeError(f"imported before its annotations could be checked: {early}")
    sys.meta_path.insert(0, Checked(packages))

"""How an environment of Python is made: what is called, with which keyword arguments."""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium

from runner.errors import UserError, did_you_mean

COUNT = "num_envs"
"""Parameter of a factory that makes many environments at once."""


@dataclass(frozen=True)
class Recipe:
    """What makes an environment at every call; it can be pickled where the factory can.

    Attributes:
        name: for messages.
        make: class or function.
        arguments: that it gets.
    """

    name: str
    make: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, count: int = 1) -> Any:
        """A new environment, or `count` in one where the factory has a parameter `num_envs`.

        Raises:
            UserError: the factory has raised: its last words, and where.
        """
        counted = {COUNT: count} if COUNT in _parameters(self.make) else {}
        try:
            return self.make(**{**counted, **self.arguments})
        except UserError:
            raise
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            words = traceback.format_exception_only(error)[-1].strip()
            raise UserError(f"{self.name} cannot be made: {words} ({last.filename}:{last.lineno})") from error


def recipe(name: str, arguments: Mapping[str, Any]) -> Recipe:
    """That of `module:Name` or `gymnasium:Id`.

    Raises:
        UserError: there is none of that name, or it takes other arguments.
    """
    module, _, found = name.partition(":")
    if module == "gymnasium":
        return Recipe(name, lambda **given: gymnasium.make(found, **given), arguments)
    make = getattr(importlib.import_module(module), found)
    _check(name, make, arguments)
    return Recipe(name, make, arguments)


def _parameters(make: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(make).parameters
    except (TypeError, ValueError):  # of C, or hidden
        return {}


def _check(name: str, make: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the factory does not take."""
    parameters = _parameters(make)
    if not parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for key in arguments:
        if key not in parameters:
            raise UserError(f"env.{key}: {name} has no such argument.{did_you_mean(key, parameters)}")

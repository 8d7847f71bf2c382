"""The recipe of an environment of Python: what is called with which keyword arguments, and what is put around it.

Names in a configuration are `module:Name` (or `module.Name`) of a class or function, `gymnasium:Id` of what gymnasium
has registered, and gymnasium's own `module:Id`. Arguments are checked against the signature before anything is made.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from runner.config.schema.sections import wrapper_of
from runner.envs.agents.joint import joined
from runner.envs.base import plain
from runner.envs.named import imports
from runner.errors import UserError, did_you_mean, last_words, shown

COUNT = "num_envs"
"""Parameter of a factory that makes many environments in one."""
OF_MAKE = ("render_mode", "max_episode_steps")
"""What `gymnasium.make` takes beside an environment's own arguments."""
_AT_FIRST = frozenset(gymnasium.registry)
"""Ids that gymnasium and its plugins register by themselves, not an import that somebody allowed."""


@dataclass(frozen=True)
class Recipe:
    """A maker of an environment at every call; it can be pickled where its parts can.

    Attributes:
        name: for messages.
        make: class or function.
        arguments: that it gets.
        wrappers: (class or function, its keyword arguments) in the order in which they are put around.
        counts: it has a parameter `num_envs`, and makes so many in one.
        draws: it has a parameter `render_mode`.
        states: where it makes one of several agents, the shared state is a part of the observation.
    """

    name: str
    make: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    wrappers: Sequence[tuple[Callable[..., Any], Mapping[str, Any]]] = ()
    counts: bool = False
    draws: bool = False
    states: bool = False

    @classmethod
    def of(cls, make: Callable[..., Any]) -> Recipe:
        """The recipe of a class or function itself, or of a `partial` of one with keyword arguments."""
        arguments: Mapping[str, Any] = {}
        if isinstance(make, partial) and not make.args:
            arguments, make = make.keywords, make.func
        names = _parameters(make)
        return cls(_name_of(make), make, arguments, counts=COUNT in names, draws="render_mode" in names)

    @property
    def named(self) -> dict[str, Any]:
        """The keys of `env` in a configuration that say the same; empty where none can."""
        if ":" not in self.name or not plain(self.arguments):
            return {}
        return {"id": self.name, **self.arguments}

    def __call__(self, count: int = 1) -> Any:
        """A new environment; of many in one, `count` of them; of several agents, as a `Joint`.

        Raises:
            UserError: the factory or a wrapper has raised: its last words, and where.
        """
        made, last = None, self.name
        try:
            made = self.make(**({COUNT: count} if self.counts else {}), **self.arguments)
            for wrap, arguments in self.wrappers:
                last = f"{wrap.__qualname__} around {self.name}"
                made = wrap(made, **arguments)
        except (Exception, SystemExit) as error:
            raise UserError(f"env: {last} cannot be made: {last_words(error)}") from error
        return joined(made, self.states)


def read(name: str, arguments: Mapping[str, Any], wrappers: Any) -> Recipe:
    """The recipe of a configuration.

    Raises:
        UserError: a name that is unknown or may not be imported; arguments that do not fit.
    """
    module, _, wanted = name.partition(":")
    imports.check(module, "env.id")
    imports.load_all()
    if module == imports.GYMNASIUM or not all(part.isidentifier() for part in wanted.split(".")):
        imports.load(module, "env.id")
        parameters = _parameters(_creator(wanted))
        make: Callable[..., Any] = partial(_registered, wanted)
        given, more = {**gymnasium.spec(wanted).kwargs, **arguments}, set(OF_MAKE)
    else:
        make = imports.found(module, wanted, "env.id")
        if not callable(make):
            raise UserError(f"env.id: {name} is {shown(make, 60)}; allowed: a class or function that makes one")
        parameters, given, more = _parameters(make), dict(arguments), set()
    _check(name, "env", parameters, given, (COUNT,), more)
    around = [_wrapper(entry, f"env.wrappers.{place}") for place, entry in enumerate(wrappers or ())]
    return Recipe(name, make, dict(arguments), around, COUNT in parameters, "render_mode" in {*parameters, *more})


def _name_of(make: Callable[..., Any]) -> str:
    """`module:Name` where an import finds this class or function under it; else words for messages."""
    module, name = getattr(make, "__module__", None) or "", getattr(make, "__qualname__", type(make).__qualname__)
    there: Any = sys.modules.get(module) if module != "__main__" else None
    for part in name.split("."):
        there = getattr(there, part, None)
    return f"{module}:{name}" if there is make else f"{module}.{name}"


def _creator(name: str) -> Callable[..., Any]:
    """The class or function that a registered id stands for, if it may be imported."""
    if name not in gymnasium.registry:
        near = did_you_mean(name, gymnasium.registry)
        more = near or " Ids of a package are known once it is imported: add --import PACKAGE"
        raise UserError(f"env.id: gymnasium has registered no {name!r}.{more}")
    entry = gymnasium.spec(name).entry_point
    if name in _AT_FIRST and isinstance(entry, str) and not entry.startswith(f"{imports.GYMNASIUM}."):
        imports.check(entry.partition(":")[0], f"env.id: {name}")
    try:
        return load_env_creator(entry) if isinstance(entry, str) else entry  # type: ignore[return-value]
    except Exception as error:
        raise UserError(f"env.id: importing {name} failed: {last_words(error)}") from error


def _registered(name: str, /, **arguments: Any) -> Any:
    """An environment of gymnasium's registry, in any process; its checks at every step are left to `launch check`."""
    imports.load_all()
    return gymnasium.make(name, **{"disable_env_checker": True, **arguments})


def _wrapper(entry: Any, where: str) -> tuple[Callable[..., Any], Mapping[str, Any]]:
    """One entry of `env.wrappers`, and what it is called with."""
    name, (module, wanted), arguments = wrapper_of(entry)
    wrap = imports.found(module, wanted, where)
    if not callable(wrap):
        raise UserError(f"{where}: {name} is {shown(wrap, 60)}; allowed: a wrapper, called with an environment")
    _check(name, where, dict(list(_parameters(wrap).items())[1:]), arguments)
    return wrap, arguments


def _parameters(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those of a class or function by name; any name fits one that does not tell."""
    try:
        found = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # of a compiled module
        found = (inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD),)  # type: ignore[assignment]
    return {one.name: one for one in found if one.kind not in (one.POSITIONAL_ONLY, one.VAR_POSITIONAL)}


def _check(
    name: str,
    where: str,
    parameters: Mapping[str, inspect.Parameter],
    arguments: Mapping[str, Any],
    ours: Iterable[str] = (),
    more: Iterable[str] = (),
) -> None:
    """Refuse arguments that a signature does not take, and the lack of those that it needs.

    Args:
        name: of what is called.
        where: its arguments are written.
        parameters: its own.
        arguments: given.
        ours: parameters that are given here.
        more: names that are taken besides.
    """
    named = {key for key, one in parameters.items() if one.kind is not one.VAR_KEYWORD} | {*more}
    if len(named & parameters.keys()) == len(parameters):
        for key in arguments:
            if key not in named:
                allowed = ", ".join(sorted(named - {*ours})) or "none"
                hint = did_you_mean(key, named) or f" Allowed for {name}: {allowed}."
                raise UserError(f"{where}.{key}: {name} has no such argument.{hint}")
    for key, one in parameters.items():
        if one.default is one.empty and one.kind is not one.VAR_KEYWORD and key not in {*arguments, *ours}:
            raise UserError(f"{where}.{key}: {name} needs it, and it is not given")

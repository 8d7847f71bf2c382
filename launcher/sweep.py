"""Which values are tried together: `--set`, `--zip` and a file's `sweep:` section, as the axes of one product."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.config import SWEEP, canonical_key
from runner.config.eras import Era
from runner.config.load import Key, Source, dotted
from runner.config.overrides import expand_range, parse_key, parse_override
from runner.errors import UserError, shown

if TYPE_CHECKING:  # workers need no command line
    from cyclopts import Token

IN_STEP = "zip"
"""Key of the section whose lists advance together."""
_LONGEST_FOUND = 80


@dataclass(frozen=True)
class Choice:
    """One value for one key.

    Attributes:
        key: of the configuration.
        value: plain data.
        place: of the value below `sweep:` in the file; None for the command line.
    """

    key: Key
    value: Any
    place: Key | None = None


Axis = list[tuple[Choice, ...]]
"""Steps, one after another; the choices of one step are made together, and every step is of the same keys."""


def group_by_flag(_type: Any, tokens: Sequence[Token]) -> list[list[str]]:
    """The words after each `--zip`, for cyclopts, which counts them from 0 after every flag.

    Raises:
        UserError: a word without `=`, which is told here since it may be the only configuration file.
    """
    groups: list[list[str]] = []
    for token in tokens:
        if "=" not in token.value:
            raise UserError(
                f"found {token.value!r} after --zip; allowed: key=value, such as agent.rollouts=16,32; "
                "files stand before it."
            )
        if token.index == 0:
            groups.append([])
        groups[-1].append(token.value)
    return groups


def typed_axes(settings: Iterable[str], zips: Sequence[Sequence[str]] | None, flags: Mapping[Key, Any]) -> list[Axis]:
    """The axes of the command line.

    Args:
        settings: the texts after `--set`: an axis each.
        zips: the texts after every `--zip`: an axis each, of lists of equal length; None without that flag.
        flags: settings that have a flag of their own.

    Raises:
        UserError: a text that is no `a.b=value`, a wrong range, or lists of unequal length in a `--zip`.
    """
    if zips is not None and not zips:
        raise UserError("command line: --zip requires arguments, such as agent.rollouts=16,32 agent.mini_batches=2,4")
    axes = []
    for text in settings:
        key, values = parse_override(text)
        axes.append(_axis(key, [(value, None) for value in values]))
    for texts in zips or ():
        columns = []
        for text in texts:
            key, values = parse_override(text, "--zip")
            columns.append((dotted(key), _axis(key, [(value, None) for value in values])))
        axes.append(_in_step(columns, "command line: --zip"))
    return axes + [_axis(key, [(value, None)]) for key, value in flags.items()]


def take_section(data: dict[str, Any], source: Source) -> list[Axis]:
    """Take `sweep:` out of a configuration that was read; its axes.

    Raises:
        UserError: a section, list, block or range that is empty, wrong, or of unequal length; with file and line.
    """
    if SWEEP not in data:
        return []
    axes = []
    for name, value in _block(data.pop(SWEEP), (SWEEP,), source).items():
        place: Key = (SWEEP, name)
        if name != IN_STEP:
            axes.append(_alternatives(name, value, place, source))
            continue
        several = isinstance(value, list) and value
        groups = [((*place, index), group) for index, group in enumerate(value)] if several else [(place, value)]
        for where, group in groups:
            columns = [(n, _alternatives(n, v, (*where, n), source)) for n, v in _block(group, where, source).items()]
            axes.append(_in_step(columns, source.where(where)))
    return axes


def combine(section: Sequence[Axis], typed: Sequence[Axis], era: Era, source: Source) -> list[Axis]:
    """The axes of one file's sweep: its own, less what the command line sets, then those of the command line.

    Args:
        section: axes of the file.
        typed: axes of the command line.
        era: of the file, whose names are compared.
        source: for errors.

    Raises:
        UserError: a key that is swept is given twice.
    """
    names = [canonical_key(choice.key, era) for axis in typed for choice in axis[0]]

    def beaten(choice: Choice) -> bool:
        name = canonical_key(choice.key, era)
        return any(name[: len(other)] == other for other in names)

    kept = [[tuple(choice for choice in step if not beaten(choice)) for step in axis] for axis in section]
    axes = [*(axis for axis in kept if axis[0]), *typed]
    several: dict[Key, bool] = {}
    for axis in axes:
        for choice in axis[0]:
            name = canonical_key(choice.key, era)
            # Of two single values on the command line the last one wins.
            if name in several and (len(axis) > 1 or several[name] or choice.place is not None):
                where = f"command line: {dotted(choice.key)}" if choice.place is None else source.where(choice.place)
                raise UserError(f"{where}: given twice, and one of them is swept; give each key of a sweep once")
            several[name] = len(axis) > 1
    return axes


def labels(axes: Iterable[Axis]) -> dict[Key, str]:
    """What names of trials call the keys that vary: the last words, as many as tell them apart."""
    keys = dict.fromkeys(choice.key for axis in axes if len(axis) > 1 for choice in axis[0])

    def label(key: Key) -> str:
        for length in range(2 if isinstance(key[-1], int) else 1, len(key)):
            if sum(other[-length:] == key[-length:] for other in keys) == 1:
                return dotted(key[-length:])
        return dotted(key)

    return {key: label(key) for key in keys}


def _axis(key: Key, values: Iterable[tuple[Any, Key | None]]) -> Axis:
    return [(Choice(key, value, place),) for value, place in values]


def _in_step(columns: Sequence[tuple[str, Axis]], where: str) -> Axis:
    """One axis of several that advance together."""
    (first, long), *others = columns
    for name, axis in others:
        if len(axis) != len(long):
            raise UserError(
                f"{where}: {first} has {_count(len(long))} and {name} {len(axis)}; "
                "allowed: lists of equal length, which advance together"
            )
    return [tuple(itertools.chain(*steps)) for steps in zip(*(axis for _, axis in columns), strict=True)]


def _count(number: int) -> str:
    return f"{number} value{'' if number == 1 else 's'}"


def _block(value: Any, place: Key, source: Source) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return value
    raise UserError(
        f"{source.where(place)}: found {shown(value, _LONGEST_FOUND)}; allowed: keys with their alternatives, such as "
        "agent.learning_rate: [1e-4, 3e-4]"
    )


def _alternatives(name: str, value: Any, place: Key, source: Source) -> Axis:
    """The axis of one key of the section: a list, whose members may be ranges, or a range."""
    key = parse_key(name)
    if key is None:
        raise UserError(f"{source.where(place)}: allowed: a whole key such as agent.learning_rate")
    listed = [(place, value)] if isinstance(value, str) else []
    if isinstance(value, list):
        listed = [((*place, index), member) for index, member in enumerate(value)]
    values: list[tuple[Any, Key | None]] = []
    for where, member in listed:
        try:
            numbers = expand_range(member) if isinstance(member, str) else None
        except UserError as error:
            raise UserError(f"{source.where(where)}: {error}") from None
        if numbers is not None:
            values += [(number, where) for number in numbers]
        elif where != place:
            values.append((member, where))
    if not values:
        raise UserError(
            f"{source.where(place)}: found {shown(value, _LONGEST_FOUND)}; allowed: a list of alternatives such as "
            "[1e-4, 3e-4], or a range such as 1e-5..1e-2/4, of a whole key such as agent.learning_rate"
        )
    return _axis(key, values)

"""The values that are tried together: `--set`, `--zip` and a file's `sweep:` section, as the axes of one product."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.config import SWEEP, Config, canonical_key
from runner.config.effect import without_effect
from runner.config.load import Key, Source, dotted
from runner.config.numbers import number
from runner.config.overrides import Range, expand_range, of_block, parse_key, parse_override, read_range
from runner.config.skrl.eras import Era
from runner.errors import UserError, shown

if TYPE_CHECKING:  # workers need no command line
    from cyclopts import Token

IN_STEP = "zip"
"""Key of the section whose lists advance together."""
SEED: Key = ("seed",)
FLAGS: Mapping[Key, str] = {("env", "id"): "--env", ("env", "num_envs"): "--num-envs", ("backend",): "--backend"}
"""Settings that have a flag of their own."""
_LAYERS = ("network", "hiddens", "hidden_activation", "input_shape")
_LONGEST_FOUND = 80


@dataclass(frozen=True)
class Choice:
    """One value for one key: from a `place` below `sweep:` in the file, or as it was `typed`."""

    key: Key
    value: Any
    place: Key | None = None
    typed: str = ""

    def where(self, source: Source) -> str:
        """The place where it is written, for errors."""
        return f"command line: {self.typed}" if self.place is None else source.where(self.place)


Axis = list[tuple[Choice, ...]]
"""Steps, one after another; the choices of one step are made together, and every step is of the same keys."""


def group_by_flag(_type: Any, tokens: Sequence[Token]) -> list[list[str]]:
    """The words after each `--zip`, for cyclopts, which counts them from 0 after every flag."""
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
    """The axes of the command line: one of each `--set` and each `--zip` (None without that flag), and the flags."""
    if zips is not None and not zips:
        raise UserError("command line: --zip requires arguments, such as agent.rollouts=16,32 agent.mini_batches=2,4")
    axes = []
    for text in settings:
        key, values = parse_override(text, ranges=True)
        axes.append(_axis(key, [(value, None) for value in values], f"--set {text}"))
    for texts in zips or ():
        columns = []
        for text in texts:
            key, values = parse_override(text, "--zip")
            columns.append((dotted(key), _axis(key, [(value, None) for value in values], f"--zip {text}")))
        axes.append(_in_step(columns, "command line: --zip"))
    return axes + [
        _axis(key, [(value, None)], f"{FLAGS.get(key, dotted(key))} {value}") for key, value in flags.items()
    ]


def take_section(data: dict[str, Any], source: Source) -> list[Axis]:
    """Take `sweep:` out of a configuration that was read; its axes."""
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


def combine(section: Sequence[Axis], typed: Sequence[Axis], era: Era, source: Source, seeds: str | None) -> list[Axis]:
    """The axes of one file's sweep: its `section`, less what the command line sets, then those that were `typed`.

    Alternatives of `seed` come last, as seeds do; `seeds` of the command line beat those of the file.
    """
    names = [canonical_key(choice.key, era) for axis in typed for choice in axis[0]]
    if seeds is not None:
        _refuse_seeds_twice(typed, seeds)
        names.append(SEED)

    def beaten(choice: Choice) -> bool:
        name = canonical_key(choice.key, era)
        return any(name[: len(other)] == other for other in names)

    kept = [[tuple(choice for choice in step if not beaten(choice)) for step in axis] for axis in section]
    kept = [axis for axis in kept if axis[0]]
    for axes in (kept, typed):
        _refuse_contradictions(axes, era, source)
    return sorted([*kept, *typed], key=_of_seeds)


def _of_seeds(axis: Axis) -> bool:
    return len(axis) > 1 and [choice.key for choice in axis[0]] == [SEED]


def _refuse_seeds_twice(typed: Sequence[Axis], seeds: str) -> None:
    """`--seeds 3 --set seed=5` counts from 5; all else is two answers to one question."""
    for axis in typed:
        for choice in axis[0]:
            if choice.key == SEED and (len(axis) > 1 or not isinstance(number(seeds.strip()), int)):
                raise UserError(f"command line: --seeds {seeds} and {choice.typed} contradict each other; give one")


def _refuse_contradictions(axes: Sequence[Axis], era: Era, source: Source) -> None:
    """Refuse two settings of one key, or of a block and a key in it, that differ or of which one is swept."""
    known: list[tuple[Key, Choice, bool]] = []
    for axis in axes:
        for choice in axis[0]:
            name = canonical_key(choice.key, era)
            swept = len(axis) > 1 or choice.place is not None or range_of(axis) is not None
            for other, before, was_swept in known:
                shared = min(len(name), len(other))
                if name[:shared] != other[:shared]:
                    continue
                where = f"command line: {dotted(choice.key)}" if choice.place is None else source.where(choice.place)
                both = f" ({before.typed} and {choice.typed})" if choice.typed else ""
                if swept or was_swept:
                    raise UserError(
                        f"{where}: given twice, and one of them is swept; give each key of a sweep once{both}"
                    )
                inner, outer = (choice, before) if len(name) > len(other) else (before, choice)
                found = inside(outer.value, max(name, other, key=len)[shared:])
                if found != inner.value and not (found is NOTHING and inner is choice):
                    raise UserError(f"{where}: given twice, with different values{both}; give one of them")
            known.append((name, choice, swept))


NOTHING = object()


def inside(block: Any, path: Key) -> Any:
    """The value in a block at a path, or `NOTHING`."""
    for part in path:
        if isinstance(block, Mapping) and str(part) in block:
            block = block[str(part)]
        elif isinstance(block, list) and isinstance(part, int) and part < len(block):
            block = block[part]
        else:
            return NOTHING
    return block


def labels(axes: Iterable[Axis]) -> dict[Key, str]:
    """The names that trials give to keys that vary: the last words, as many as tell them apart."""
    varied = (axis for axis in axes if (len(axis) > 1 and not _of_seeds(axis)) or range_of(axis) is not None)
    return endings(choice.key for axis in varied for choice in axis[0])


def endings(keys: Iterable[Key]) -> dict[Key, str]:
    """The last words of keys, as many as tell each from the others."""
    keys = dict.fromkeys(keys)

    def label(key: Key) -> str:
        for length in range(2 if isinstance(key[-1], int) else 1, len(key)):
            if sum(other[-length:] == key[-length:] for other in keys) == 1:
                return dotted(key[-length:])
        return dotted(key)

    return {key: label(key) for key in keys}


def same_run(before: Sequence[Choice], after: Sequence[Choice], config: Config, reads: str, era: Era) -> str:
    """The reason why two steps of a sweep train the same run, in words; nothing where they only spell the same values.

    `config` is that of the second; `reads` the role whose network both read where `models.separate` is False.
    """
    for choice, other in zip(after, before, strict=True):
        why = _idle(choice.key, config, reads, era)
        if choice.value != other.value and why:
            return f"{dotted(choice.key)} changes nothing: {why}"
    return ""


def idle_key(axes: Iterable[Axis], configs: Iterable[Config], reads: str, era: Era) -> str:
    """The first swept key that changes nothing in any configuration, and why, in words; else nothing."""
    keys = labels(axes)
    idle = {key: "" for key in keys}
    for config in configs:
        idle = {key: _idle(key, config, reads, era) for key in idle}
        idle = {key: why for key, why in idle.items() if why}
        if not idle:
            return ""
    return next((f"{dotted(key)} changes nothing: {why}" for key, why in idle.items()), "")


def _idle(key: Key, config: Config, reads: str, era: Era) -> str:
    """The reason why a key changes nothing in a configuration; empty where it does."""
    name = canonical_key(key, era)
    other = len(name) > 2 and name[0] == "models" and name[1] != reads and name[2] in _LAYERS
    if other and not config.models.separate:
        return f"models.separate is False, so both read the network of {reads}"
    return next((why for key, why in without_effect(config).items() if name[: len(key)] == key), "")


def range_of(axis: Axis) -> Range | None:
    """The range that an axis is drawn from; None of one of alternatives."""
    value = axis[0][0].value if len(axis) == 1 and len(axis[0]) == 1 else None
    return value if isinstance(value, Range) else None


def refuse_ranges(axes: Iterable[Axis], source: Source) -> None:
    """Refuse ranges to draw from where nothing draws."""
    for axis in axes:
        if (drawn := range_of(axis)) is not None:
            (choice,) = axis[0]
            raise UserError(
                f"{choice.where(source)}: {drawn} is a range that a search draws from; add --search random (or tpe, "
                f"asha, pbt), or write a grid, such as {drawn.grid()}"
            )


def _axis(key: Key, values: Iterable[tuple[Any, Key | None]], typed: str = "") -> Axis:
    return [(Choice(key, value, place, typed),) for value, place in values]


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
    """The axis of one key of the section: a list, whose members may be ranges, or a range; or one to draw from."""
    key = parse_key(name)
    if key is None:
        raise UserError(f"{source.where(place)}: allowed: a whole key such as agent.learning_rate")
    try:
        drawn = of_block(value, key) if isinstance(value, dict) else None
        if isinstance(value, str):
            drawn = read_range(value, key)
    except UserError as error:
        raise UserError(f"{source.where(place)}: {error}") from None
    if isinstance(drawn, Range):
        return _axis(key, [(drawn, place)])
    value = value if drawn is None else drawn
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
            "[1e-4, 3e-4], or a range such as 1e-5..1e-2/4 (of a search: log:1e-5..1e-2), of a whole "
            "key such as agent.learning_rate"
        )
    return _axis(key, values)

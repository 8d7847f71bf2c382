"""Names of configurations where there is little room: without what all of them share, and with shorter keys."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Sequence

from pydantic import BaseModel

from launcher.watch.tables import cut
from runner.config.schema import EnvConfig
from runner.config.section import Section

SHORTEST_KEY = 6
"""Characters down to which a key is cut before its initials stand for it."""


def unshared(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The parts that all names share, such as `cartpole_…`, or nothing; and of every name the rest.

    A name is shared in whole parts: `a_learning_rate=0.1` and `a_learning_rate=0.2` share `a`.
    """
    parts = {name: _parts(name) for name in dict.fromkeys(names)}
    if len(parts) < 2:
        return "", {name: name for name in parts}
    shortest = min(map(len, parts.values()))
    front = _equal(list(parts.values()), shortest - 1)
    back = _equal([list(reversed(words)) for words in parts.values()], shortest - 1 - front)
    (first, *_), rests = parts.values(), {n: "_".join(words[front : len(words) - back]) for n, words in parts.items()}
    shared = [*first[:front], "…", *first[len(first) - back :]]
    return ("_".join(shared) if len(shared) > 1 else ""), rests


def _equal(lists: Sequence[Sequence[str]], most: int) -> int:
    """The number of first parts, `most` at most, that are the same in all lists."""
    return next((place for place in range(most) if len({words[place] for words in lists}) > 1), most)


def abbreviated(names: Sequence[str], width: int) -> list[str]:
    """Names in `width` characters each, cut where even `briefest` is longer.

    Keys are cut as far as that takes, `learn…=0.001`, in all names alike; values are kept.
    """
    keys = [part.partition("=")[0] for name in names for part in _parts(name) if "=" in part]
    for length in range(max(map(len, keys), default=0), SHORTEST_KEY - 1, -1):
        shorter = [_with_keys(name, functools.partial(cut, width=length)) for name in names]
        if all(len(name) <= width for name in shorter if "=" in name):
            return [cut(name, width) for name in shorter]
    return [cut(briefest(name), width) for name in names]


def briefest(name: str) -> str:
    """A name with the initials of its keys: `lr=0.001`."""
    return _with_keys(name, lambda key: "".join(word[:1] for word in key.split("_")))


def _with_keys(name: str, change: Callable[[str], str]) -> str:
    split = (part.partition("=") for part in _parts(name))
    return "_".join(change(key) + equals + value if equals else key for key, equals, value in split)


def _parts(name: str) -> list[str]:
    """`cartpole_learning_rate=0.001_ratio_clip=0.2` → `cartpole`, `learning_rate=0.001`, `ratio_clip=0.2`."""
    head, *rest = _key().split(name)
    keyed = [f"{key}={value}" for key, value in zip(rest[::2], rest[1::2], strict=True)]
    return [*(head.split("_") if head or not rest else []), *keyed]


@functools.cache
def _key() -> re.Pattern[str]:
    """A key in a name, with = after it: the longest of words that configurations have; else one word without _."""
    sections: list[type[BaseModel]] = [EnvConfig, *_below(Section)]
    words = {field.alias or name for kind in sections for name, field in kind.model_fields.items()}
    word = rf"(?:{'|'.join(map(re.escape, words))}|\d+)"
    return re.compile(rf"(?:^|_)({word}(?:\.{word})*|[^_=]+)=")


def _below(kind: type[Section]) -> Iterator[type[Section]]:
    for child in kind.__subclasses__():
        yield child
        yield from _below(child)

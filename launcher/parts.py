"""Parts of lists: of what has something in common, or as even as can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Lists of what has the same key; keys are in the order in which they first come."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def evenly(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Parts of a list, so many, in its order and as even as can be."""
    ends = [math.ceil(len(items) * index / count) for index in range(count + 1)]
    return [list(items[start:end]) for start, end in itertools.pairwise(ends)]

"""The parts that tabs of the page are made of: figures, tables, words; `parts.html` says how each looks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from launcher import stats
from launcher.report.data import Configuration
from launcher.report.figures import Figure, written

RANGE = 4
"""Seeds up to which the interval of the IQM reaches from the least to the greatest."""


@dataclass(frozen=True)
class Cell:
    """A text in a table, the number to sort by if there is one, and the configuration whose swatch it has."""

    text: str
    value: float | None = None
    kind: str = ""
    configuration: Configuration | None = None


@dataclass(frozen=True)
class Table:
    """A table that a click sorts; headings that end in a colon are of numbers."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    part: ClassVar[str] = "table"


@dataclass(frozen=True)
class Plot:
    """A figure with its caption; `name` is that of its files.

    Attributes:
        main: False for one that the reader has to choose, which is no picture and stands nowhere by itself.
    """

    name: str
    title: str
    figure: Figure
    caption: str = ""
    main: bool = True
    part: ClassVar[str] = "plot"


@dataclass(frozen=True)
class Words:
    """A macro of `parts.html` and what it shows."""

    part: str
    data: Any
    title: str = ""


Part = Table | Plot | Words


@dataclass(frozen=True)
class Panel:
    """One tab; `alarm` is a number beside the title."""

    id: str
    title: str
    parts: Sequence[Part]
    alarm: int = 0

    @property
    def plots(self) -> list[Plot]:
        """Its figures."""
        return [part for part in self.parts if isinstance(part, Plot)]


def slug(*words: str) -> str:
    """Words as the name of a file."""
    return "_".join(re.sub(r"\W+", "_", word).strip("_").lower() for word in words if word)


def distinct(texts: Iterable[str], form: str = "{} ({})") -> list[str]:
    """Texts that are all different: equal ones, such as names cut to the same, are numbered."""
    seen: Counter[str] = Counter()
    names = []
    for text in texts:
        seen[text] += 1
        names.append(text if seen[text] == 1 else form.format(text, seen[text]))
    return names


def num(value: float | None, spec: str = "") -> Cell:
    """A number, aligned right; a dash for none. Without a `spec`, as a return is written."""
    if value is None or not np.isfinite(value):
        return Cell("-", None, "n")
    return Cell(format(value, spec) if spec else written(value), value, "n")


def span(ends: stats.Interval | None, seeds: int) -> Cell:
    """An interval, or why there is none."""
    if ends is None or not np.isfinite(ends).all():
        return Cell(f"{seeds} seed{'' if seeds == 1 else 's'}: none" if seeds else "-", None, "n")
    return Cell(f"{written(ends[0])} to {written(ends[1])}", None, "n")


def named(c: Configuration) -> Cell:
    """The name of a configuration."""
    return Cell(c.label, None, "c", c)


def interval(seeds: Iterable[int]) -> str:
    """A description of the intervals in figures and tables that stand on so many seeds."""
    ranges = [str(number) for number in sorted(set(seeds)) if stats.FEWEST_RUNS <= number <= RANGE]
    words = f" With {' or '.join(ranges)} seeds it is their range, from the worst to the best." if ranges else ""
    few = f"with fewer than {stats.FEWEST_RUNS} seeds there is none"
    return f"95% bootstrap interval of the IQM ({stats.RESAMPLES:,} resamples of the seeds); {few}.{words}"


def short(value: object, inner: bool = False) -> str:
    """A setting's value as a person writes it: `a: 1, b: (2, 3)`."""
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else ((None, one) for one in value)
        shown = [short(one, True) if key is None else f"{key}: {short(one, True)}" for key, one in parts]
        return "none" if not shown else f"({', '.join(shown)})" if inner else ", ".join(shown)
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)

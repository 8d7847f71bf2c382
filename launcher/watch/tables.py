"""Tables for people: texts that give way where the terminal is narrow, numbers that are shown whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

GAP = 2
"""Spaces between columns."""
LEAST_TEXT = 16
"""Width down to which texts are narrowed, if not said otherwise, before columns leave."""


@dataclass(frozen=True)
class Column:
    """One column; a colon at the end of its heading makes it numbers, aligned right.

    Where the table is too wide, texts are narrowed down to `least`, then the column of the highest rank leaves first;
    those of rank 0 stay. `shorten` cuts texts to at most so many characters; None breaks each into several lines.
    """

    heading: str
    rank: int = 0
    least: int = LEAST_TEXT
    shorten: Callable[[Sequence[str], int], list[str]] | None = None

    @property
    def number(self) -> bool:
        """It holds numbers."""
        return self.heading.endswith(":")

    @property
    def title(self) -> str:
        """The text above it."""
        return self.heading.removesuffix(":")


def table(
    columns: Sequence[Column | str], rows: Sequence[Sequence[str | Text]], width: int, headings: bool = True
) -> Table:
    """A table without lines, of at most `width` characters; a text for a column is its heading."""
    all_columns = [Column(column) if isinstance(column, str) else column for column in columns]
    texts = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    widths = _fit(all_columns, [[c.title, *(row[i].plain for row in texts)] for i, c in enumerate(all_columns)], width)
    shorter: dict[int, Sequence[str]] = {}
    shown = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), show_header=headings)
    for i, taken in widths.items():
        column = all_columns[i]
        one_line = column.number or column.shorten is not None
        title, *shorter[i] = (column.shorten or _whole)([column.title, *(row[i].plain for row in texts)], taken)
        justify, overflow = ("right" if column.number else "left"), ("ellipsis" if one_line else "fold")
        shown.add_column(title, justify=justify, width=taken, no_wrap=one_line, overflow=overflow)  # type: ignore[arg-type]
    for place, row in enumerate(texts):
        shown.add_row(*(Text(shorter[i][place], row[i].style) if all_columns[i].shorten else row[i] for i in widths))
    return shown


def _fit(columns: Sequence[Column], texts: Sequence[Sequence[str]], width: int) -> dict[int, int]:
    """The columns that stay, by their numbers, and how wide each is; `texts` are those of each column."""
    wanted = [_longest(column) for column in texts]
    needed = [size if column.number else min(size, column.least) for column, size in zip(columns, wanted, strict=True)]
    kept = list(range(len(columns)))

    def spare() -> int:
        return width - sum(needed[i] for i in kept) - GAP * (len(kept) - 1)

    while spare() < 0 and any(columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: columns[i].rank))
    giving = sorted((i for i in kept if not columns[i].number), key=lambda i: (columns[i].rank, wanted[i] - needed[i]))
    # Those of the lowest rank come first, alike have equal parts; what one does not want goes to the next.
    for place, i in enumerate(giving):
        alike = sum(columns[other].rank == columns[i].rank for other in giving[place:])
        needed[i] = max(min(wanted[i], needed[i] + spare() // alike), 1)
        if shorten := columns[i].shorten:
            needed[i] = _longest(shorten(texts[i], needed[i]))
    return {i: needed[i] for i in kept}


def _longest(texts: Sequence[str]) -> int:
    return max(cell_len(line) for text in texts for line in text.split("\n"))


def _whole(texts: Sequence[str], _: int) -> list[str]:
    return list(texts)


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text as it is: in one line however long, with its brackets, numbers in no colour."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def cut(text: str, width: int) -> str:
    """The beginning of a text, `interrup…`, if it is longer than `width`."""
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def count(number: int, noun: str) -> str:
    """`1 trial`, `2,000 trials`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """`1:05`, `2:00:00`."""
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

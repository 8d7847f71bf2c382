"""Small pieces of HTML that the sections of the page are made of."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from launcher import stats
from launcher.report_data import Configuration
from launcher.report_figures import Style, written

ROWS = 1000
"""Rows of a table at most."""
INTERVAL = f"95% bootstrap interval of the IQM ({stats.RESAMPLES:,} resamples of the seeds)"


@dataclass(frozen=True)
class Cell:
    """What a table shows, and the number to sort by if there is one."""

    markup: str
    value: float | None = None
    kind: str = ""


def escape(text: object) -> str:
    """Text as HTML."""
    return html.escape(str(text))


def num(value: float | None, spec: str = "") -> Cell:
    """A number, aligned right; a dash for none. Without a `spec`, as a return is written."""
    if value is None or not np.isfinite(value):
        return Cell("-", None, "n")
    return Cell(format(value, spec) if spec else written(value), value, "n")


def span(ends: stats.Interval) -> str:
    """An interval."""
    return f"{written(ends[0])} to {written(ends[1])}"


def text(value: object, kind: str = "") -> Cell:
    """Escaped text."""
    return Cell(escape(value), None, kind)


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], kind: str = "sortable") -> str:
    """A table that scrolls in its own box; headings which end in a colon are of numbers."""
    rows = list(rows)
    head = "".join(f'<th class="n">{h[:-1]}</th>' if h.endswith(":") else f"<th>{h}</th>" for h in headings)
    body = "\n".join(f"<tr>{''.join(map(_td, row))}</tr>" for row in rows[:ROWS])
    tall = " tall" if len(rows) > 16 else ""
    more = f'<p class="note">… and {len(rows) - ROWS:,} more; the CSV files have all.</p>' if len(rows) > ROWS else ""
    return (
        f'<div class="scroll{tall}"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>{more}"
    )


def _td(cell: Cell) -> str:
    kind = f' class="{cell.kind}"' if cell.kind else ""
    value = f' data-v="{cell.value:.10g}"' if cell.value is not None else ""
    return f"<td{kind}{value}>{cell.markup}</td>"


def figure(name: str, caption: str, height: int, wide: bool = False) -> str:
    """A place for a figure, with its caption."""
    place = f'<div class="plot" data-figure="{name}" style="height:{height}px"></div>'
    box = f'<div class="scroll">{place}</div>' if wide else place
    return f"<figure>{box}<figcaption>{caption}</figcaption></figure>"


def configuration(c: Configuration, look: Style) -> Cell:
    """Swatch and label."""
    dash = " dash" if look[1] == "dash" else ""
    swatch = f'<span class="swatch{dash}" style="--c:{look[0]}"></span>'
    name = escape(c.label).replace("_", "_<wbr>").replace("=", "=<wbr>")
    return Cell(f'<span title="{escape(c.name)}">{swatch}<span>{name}</span></span>', None, "c")


def state(word: str) -> Cell:
    """The state of a trial in its colour."""
    return Cell(f'<span class="state {word}">{word}</span>')

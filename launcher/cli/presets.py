"""The verb of the `launch` command about presets."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from launcher.cli.flags import Debug, console


def presets(
    name: Annotated[str | None, Parameter(name="NAME", help="A task or a preset's name: print its file.")] = None,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", help="A JSON list, with every seed's score.")] = False,
    debug: Debug = False,
) -> int:
    """List presets with their scores; print the one of NAME."""
    from launcher.presets import index
    from launcher.presets.scores import Row, number, rows
    from launcher.watch.tables import Column, table

    one = None if name is None else index.required(name)
    if as_json:
        print(json.dumps([row.data() for row in rows() if one in (None, row.preset)]))
        return 0
    if one is not None:
        print(one.path.read_text(), end="")
        return 0

    def cells(row: Row) -> list[str]:
        about = [row.preset.task, row.preset.name, row.preset.family]
        if not row.measured:
            return [*about, *["-"] * 6]
        numbers = [f"{row.measured['env_steps']:,}", row.seeds, row.statistic("evaluation")]
        beside = f"{number(row.measured['evaluation']['iqm'])}, {number(row.measured['random'])} (random actions)"
        if row.references:
            other = row.references[0]
            beside = f"{number(row.same_as(other))}, {number(other.score)} ({other.protocol}, {other.source})"
        return [*about, *numbers, row.statistic("training"), f"{row.measured['seconds'] / 60:.1f}", beside]

    shown = console()
    columns: list[Column | str] = [
        "task",
        Column("preset", 4, least=32),
        Column("family", 5),
        "env steps:",
        "seeds:",
        "evaluation:",
    ]
    more = [Column("training:", 3), Column("minutes:", 2), Column("here, others", 1, least=24)]
    lines = [cells(row) for row in rows()]
    shown.print(table([*columns, *more], lines, shown.width))
    print(
        "\nInterquartile means over seeds, and their 95% intervals, of 100 evaluation episodes and of the last 100"
        "\ntraining episodes. `launch TASK --seeds 8` trains one, `launch presets TASK > my.yaml` makes a file of it."
    )
    return 0

"""The page docs/presets.md: `python -m launcher.presets.page` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from launcher.presets.scores import PROTOCOLS, Row, number, rows

PREFACE = """\
# Presets

A preset is a configuration for one task, which comes with the program: `launch HalfCheetah-v4 --seeds 8` trains it,
`launch presets` lists them, `launch presets HalfCheetah-v4 > my.yaml` makes it a file to change.

<!-- Written by `python -m launcher.presets.page > docs/presets.md` from configs/*.json: edit nothing here. -->

## Scores

Interquartile means over seeds, three or more with 95% intervals ([statistics](statistics.md)), after their own length.
*Evaluation*: mean of 100 episodes of each seed's last agent, by its most probable actions (Atari, Jumanji: sampled).
*Training*: mean of each seed's last 100 training episodes. *Random*: mean of 100 episodes of actions that are drawn
uniformly. *Minutes*: those in which at least one seed was trained, by one or two workers of a machine of two cores that
others used, too; `launch presets --json` has machine, versions and commit of each row, and every seed.
"""
COLUMNS = "task, preset, env steps:, seeds:, evaluation:, training:, random:, minutes:"
MIDDLE = """
## Beside published numbers

Only numbers of the same protocol stand beside each other, and not after equally many env steps:
"""


def page() -> str:
    """The scores as Markdown."""
    protocols = [f"- *{name}*: {text}." for name, text in PROTOCOLS.items()]
    measured = [row for row in rows() if row.measured]
    waiting = ", ".join(f"`{row.preset.name}`" for row in rows() if not row.measured)
    return "\n".join(
        [
            PREFACE,
            *_table(COLUMNS, map(_scores, measured)),
            *([f"\nNot measured: {waiting}."] if waiting else []),
            MIDDLE,
            *protocols,
            "",
            *_table("task, protocol, theirs:, after:, seeds:, here:, after:, source", _comparisons(measured)),
            "",
        ]
    )


def _scores(row: Row) -> list[str]:
    found, link = row.measured, f"`{row.preset.family}/{row.preset.name}.yaml`"
    numbers = f"{found['env_steps']:,}", row.seeds, row.statistic("evaluation"), row.statistic("training")
    return [row.preset.task, link, *numbers, number(found["random"]), f"{found['seconds'] / 60:.1f}"]


def _comparisons(measured: Sequence[Row]) -> Iterator[list[str]]:
    for row in measured:
        for other in row.references:
            theirs = number(other.score), f"{other.env_steps:,}", f"{other.seeds}"
            ours = number(row.same_as(other)), f"{row.measured['env_steps']:,}"
            yield [row.preset.task, other.protocol, *theirs, *ours, f"[{other.source}]({other.url})"]


def _table(columns: str, lines: Iterator[list[str]] | map[list[str]]) -> list[str]:
    names = columns.split(", ")
    rules = ("--:" if name.endswith(":") else "---" for name in names)
    cells = [[name.rstrip(":") for name in names], rules, *lines]
    return [f"| {' | '.join(line)} |" for line in cells]


if __name__ == "__main__":
    print(page(), end="")

"""Searches: settings that were tried and stopped, which of their keys matter, and the winner on fresh seeds."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from launcher.ledger.configurations import text_of
from launcher.ledger.ledger import reading
from launcher.report.data import Launch, Report
from launcher.report.figures import written
from launcher.report.parts import Cell, Panel, Part, Table, Words, distinct, num, short, slug, span
from launcher.search import results
from launcher.search.confirm import best_config
from launcher.search.results import Result, Results
from launcher.search.score import WORST
from launcher.search.space import Dimension
from launcher.watch.tables import count
from runner.config.load import dotted, dump
from runner.files import write_whole

WINNER = "winner.yaml"


def panel(report: Report) -> Panel | None:
    """The searches of launches; None without any."""
    parts: list[Part] = []
    for launch, _, suffix in report.by_launch():
        with reading(launch.standing.directory) as ledger:
            found = results.read(ledger)
        if found is not None:
            parts += _search(found, launch.winner, suffix)
    return Panel("search", "Search", parts) if parts else None


def write_winners(launches: Sequence[Launch], folder: Path) -> list[Launch]:
    """The launches, with the files of their winners, which are written into a folder."""
    if len(launches) == 1:
        files = [WINNER]
    else:
        files = [f"winner_{name}.yaml" for name in distinct((slug(launch.name) for launch in launches), "{}_{}")]
    return [
        replace(launch, winner=write_winner(launch.standing.directory, folder / file))
        for launch, file in zip(launches, files, strict=True)
    ]


def write_winner(directory: Path, file: Path) -> Path | None:
    """Write the configuration of the winner of a launch's search, with a seed that is new to it.

    Returns:
        The file; None without a winner.
    """
    with reading(directory) as ledger:
        found = results.read(ledger)
        if found is None or found.winner is None:
            return None
        best, seed = best_config(ledger, found.winner), 1 + max(row.seed for row in ledger.trials())
    write_whole(file, dump({"seed": seed, **json.loads(text_of(best))}).encode())
    return file


def _search(found: Results, file: Path | None, suffix: str) -> list[Part]:
    tried, keys = found.of("search"), [dotted(key) for one in found.record.dimensions for key in one.keys]
    search = found.record.search
    about = (
        f"{search.method} over {len(tried)} settings, each scored by the IQM of its {count(search.seeds, 'seed')} "
        f"({found.record.metric}); a seed that failed or diverged counts as worst."
    )
    parts: list[Part] = [Words("note", line) for line in [about, *claims(found, file)]]
    rows = []
    for place, one in enumerate(tried, 1):
        values = [Cell(short(one.setting.values.get(key))) for key in keys]
        counts = num(len(one.trials), "d"), num(one.lost, "d")
        score = num(None if one.score == WORST else one.score), span(one.interval, len(one.values))
        rows.append([num(place, "d"), num(one.setting.number, "d"), *values, *score, num(one.reached, ".0%"), *counts])
    headings = ["place:", "number:", *keys, "score:", "95% interval:", "trained:", "seeds:", "lost:"]
    caption = (
        "Best first, those that were trained further before those that were stopped. Numbers: the order of choice."
    )
    parts.append(Table(f"Settings that were tried{suffix}", headings, rows, caption))
    shares = sorted(((importance(one, tried), one) for one in found.record.dimensions), key=lambda pair: -pair[0])
    ranked = [[Cell(one.name), Cell(str(one)), num(share, ".2f")] for share, one in shares]
    caption = (
        "Strength, from 0 to 1, with which a setting alone orders the table above: of numbers the absolute rank "
        "correlation with the place, of alternatives the correlation ratio of places. It knows of no interactions, and "
        "of few settings it is high by chance."
    )
    parts.append(Table(f"Importance{suffix}", ["setting", "range", "importance:"], ranked, caption))
    return parts


def claims(found: Results, file: Path | None) -> list[str]:
    """Sentences on the winner: what it is, how to train it from its file, and whether fresh seeds confirm it."""
    if (winner := found.winner) is None:
        if any(one.over and not one.lost for one in found.of("search")):
            why = "no setting has a score, since no episode has ended; evaluation.interval scores whole episodes"
        else:
            why = "no setting has been trained to its end without being lost"
        return [f"There is no winner: {why}."]
    settings = ", ".join(f"{key}={short(value)}" for key, value in winner.setting.values.items())
    how = f". To train it: launch {shlex.quote(str(file))} --seeds 10" if file is not None else ""
    lines = [f"Winner: setting {winner.setting.number}: {settings}{how}"]
    if found.record.search.method == "pbt":
        lines.append("These numbers are those that its place began with; the file has the schedule that won.")
    fresh, own = ([one for one in found.of(role) if one.over] for role in ("winner", "own"))
    if not fresh or not own:
        lines.append(
            f"Not confirmed: its score, {written(winner.score)}, is that of the seeds that it was chosen by, and the "
            "best of many is too high by luck."
        )
        return lines
    probability, ends = results.improvement(fresh[0].scores.tolist(), own[0].scores.tolist())
    between = f" (95% interval {ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
    lines.append(
        f"Confirmed on fresh seeds: the winner {_score(fresh[0])}, the file's own settings {_score(own[0])}; "
        f"probability of improvement {probability:.2f}{between}. In the search the winner had {written(winner.score)}."
    )
    return lines


def _score(one: Result) -> str:
    value = "lost" if one.score == WORST else written(one.score)
    interval = f"95% interval {span(one.interval, len(one.values)).text}" if one.interval else "no interval"
    return f"{value} ({count(len(one.values), 'seed')}, {interval}, {one.lost} lost)"


def importance(one: Dimension, ranked: Sequence[Result]) -> float:
    """The strength, from 0 to 1, with which a dimension alone orders settings, the best of which is the first."""
    from scipy.stats import rankdata

    values = [json.dumps([result.setting.values[dotted(key)] for key in one.keys]) for result in ranked]
    if len(set(values)) < 2:
        return 0.0
    places = np.arange(len(ranked), dtype=np.float64)
    if one.range is not None:
        numbers = [result.setting.values[dotted(one.keys[0])] for result in ranked]
        return float(abs(np.corrcoef(rankdata(numbers), places)[0, 1]))
    groups = [places[[value == other for value in values]] for other in set(values)]
    between = sum(len(group) * (group.mean() - places.mean()) ** 2 for group in groups)
    return float((between / (places.var() * len(places))) ** 0.5)

"""The launches in a folder: which is the latest, and how each stands."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from launcher.ledger.ledger import reading
from launcher.ledger.rows import LOST_STATES, Stage, State, goes_on
from launcher.ledger.storage import FOLDER, LEDGER, is_launch
from launcher.watch.standing import read
from launcher.watch.tables import Column, table
from runner.errors import UserError


def find(folder: Path) -> list[Path]:
    """Directories of launches directly in a folder, the latest first: the one that was started or resumed last."""
    try:
        found = [path for path in folder.iterdir() if is_launch(path)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted(found, key=lambda path: (-_started(path), path.name))


def _started(directory: Path) -> float:
    """The time of the last start or resume of a launch, in Unix seconds; before it trains, of its plan."""
    try:
        with reading(directory) as ledger:
            return float(ledger.revisions()[-1]["time"])
    except (UserError, ValueError, TypeError, LookupError):
        return (directory / LEDGER).stat().st_mtime


def latest(folder: Path | None = None) -> Path:
    """The latest launch of a folder, which is said to stderr."""
    folder = folder or FOLDER
    found = find(folder)
    if not found:
        raise UserError(f"command line: there is no launch in {folder.absolute()}; give the directory of one")
    print(f"{found[0]}, the latest launch", file=sys.stderr)
    return found[0]


def chosen(directory: Path | None, folder: Path | None) -> Path:
    """The directory that a verb is about: the one that is named, else the latest of a folder."""
    if directory is not None and folder is not None:
        raise UserError(f"command line: {directory} and --out {folder}: give one, a launch or the folder of launches")
    return (latest(folder) if directory is None else directory).absolute()


def describe(folder: Path) -> Iterator[dict[str, Any]]:
    """The launches of a folder, the latest first, each as `launch list --json` has it (see docs/guide.md)."""
    for directory in find(folder):
        about = {"directory": str(directory), "started": _started(directory), "error": None}
        try:
            standing = read(directory)
        except UserError as error:
            yield about | {"state": "damaged", "error": str(error)}
            continue
        counts = Counter(row.trial.state for row in standing.rows)
        yield about | {
            "state": "running" if standing.running else _ended(counts, standing.search),
            "trials": counts.total(),
            "finished": counts["finished"],
            "env_steps": sum(row.env_steps for row in standing.rows),
            "env_steps_total": sum(row.env_steps_total for row in standing.rows),
        }


def _ended(counts: Mapping[State, int], search: Stage | None) -> str:
    """The state of a launch that nobody is at work at."""
    if goes_on(counts, search):
        return "interrupted"
    return next((state for state in LOST_STATES if counts[state]), "finished")


def show(console: Console, launches: Sequence[dict[str, Any]]) -> None:
    """Print a line for each launch."""
    rows, when = [], ""
    for one in launches:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["started"]))
        numbers = ["-"] * 3
        if one["error"] is None:
            steps, total = one["env_steps"], one["env_steps_total"]
            whole = one["finished"] == one["trials"]
            trials = f"{one['trials']:,}" if whole else f"{one['finished']:,} of {one['trials']:,}"
            numbers = [trials, f"{steps:,}", f"{100 * steps // total if total else 0}%"]
        rows.append([one["directory"], one["state"], when, *numbers])
    shown = "launch", Column("state", least=len("interrupted")), Column("started", 1, least=len(when))
    console.print(table([*shown, "trials:", Column("env steps:", 2), "done:"], rows, console.width))

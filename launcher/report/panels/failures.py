"""Why trials failed or diverged, with the ends of their logs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.report.data import Report
from launcher.report.parts import Panel, Part, Words
from launcher.watch import status
from launcher.watch.layout import LOST_STATES
from runner.errors import UserError

FAILURES = 30
"""Excerpts of logs at most."""
LAST_WORDS = 40
"""Lines of each."""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Failure:
    """Trials that failed or diverged together: why, and how their log ends."""

    trials: Sequence[str]
    state: str
    reason: str
    log: str
    lines: Sequence[str]


def panel(report: Report) -> Panel | None:
    """Failures of each launch."""
    lost = sum(c.lost for c in report.configurations)
    parts: list[Part] = []
    for launch in report.launches:
        if found := failures(launch.standing):
            parts += [Words("heading", launch.name)] if len(report.launches) > 1 else []
            parts.append(Words("failures", found))
    return Panel("failures", "Failures", parts, lost) if lost else None


def failures(standing: status.Standing) -> list[Failure]:
    """Why trials failed or diverged, once for all that did so together; excerpts of the first logs only."""
    groups: dict[tuple[int | None, str, str | None], list[str]] = {}
    for row in standing.rows:
        trial = row.trial
        if trial.state in LOST_STATES:
            groups.setdefault((trial.attempt, trial.state, trial.error), []).append(trial.id)
    found = []
    for number, ((attempt, state, error), trials) in enumerate(groups.items()):
        reason = error or "A loss or parameter stopped being a finite number; the last finite state is saved."
        log, lines = _excerpt(standing, attempt) if number < FAILURES else ("", [])
        found.append(Failure(trials, state, reason, log, lines))
    return found


def _excerpt(standing: status.Standing, attempt: int | None) -> tuple[str, list[str]]:
    """Name and last lines of the log of an attempt; or why it is not shown, and nothing."""
    try:
        path = status.log_path(standing, standing.attempts[attempt or 0])
        lines = status.tail(path, LAST_WORDS)
    except KeyError:
        return "It has had no attempt, so there is no log.", []
    except UserError as error:
        return str(error), []
    return str(path), [_CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2])[: status.LONGEST_LINE] for line in lines]

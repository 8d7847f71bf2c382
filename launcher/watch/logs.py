"""`launch logs`: the logs of a launch's trials, listed or printed."""

from __future__ import annotations

import socket
import sys

from launcher.ledger.rows import AttemptRow
from launcher.watch.standing import Standing
from launcher.watch.tables import count
from launcher.watch.tail import tail
from runner.errors import UserError


def list_logs(standing: Standing) -> None:
    """Print a line for each trial, for people and for grep: its name, state, last attempt, and that one's log."""
    width = max((len(row.trial.id) for row in standing.rows), default=0)
    where: dict[int | None, str] = {}
    for number, attempt in standing.attempts.items():
        try:
            where[number] = str(standing.log_path(attempt))
        except UserError:
            here = "missing" if attempt.outcome else "not written yet"
            why = here if attempt.host == socket.gethostname() else "not on this machine"
            where[number] = f"{attempt.log} ({why})" if attempt.log else "no log"
    for trial in (row.trial for row in standing.rows):
        log = f"attempt {trial.attempt:<4}  {where.get(trial.attempt, 'no log')}" if trial.attempt else "not begun"
        print(f"{trial.id:{width}}  {trial.state:11}  {log}")


def show_log(standing: Standing, trial: str | None, number: int | None, lines: int) -> None:
    """Print the end of a log to stdout, and to stderr whose it is.

    It is that of attempt `number`, or else the last one of the trial of this name, or whose name alone begins so.
    """
    if lines < 1:
        raise UserError(f"command line: --tail {lines}: allowed: 1 or more")
    attempt = _attempt_of(standing, trial, number)
    path = standing.log_path(attempt)
    shown = tail(path, lines)
    where = f" on {attempt.host}" if attempt.host else ""
    what = f"last {count(len(shown), 'line')}" if shown else "empty"
    print(f"{path}: attempt {attempt.number}{where}, {attempt.outcome or 'not closed'}; {what}", file=sys.stderr)
    for line in shown:
        print(line)


def _attempt_of(standing: Standing, trial: str | None, number: int | None) -> AttemptRow:
    if trial is not None:
        row = standing.find(trial)
        known = standing.attempts_of(row)
        if not known:
            raise UserError(f"{row.trial.id}: no attempt at it has begun, so it has no log yet")
        if number is not None and number not in known:
            raise UserError(
                f"command line: --attempt {number}: allowed: {', '.join(map(str, known))}, which had {row.trial.id}"
            )
        number = known[-1] if number is None else number
    if number is None or number not in standing.attempts:
        allowed = f"1 to {max(standing.attempts)}" if standing.attempts else "none has begun"
        raise UserError(f"command line: --attempt {number}: allowed: {allowed}")
    return standing.attempts[number]

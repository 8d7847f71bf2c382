"""`launch status` and `launch logs`: read a launch directory while a launch is at work there, or after, and tell.

Nothing is written, and neither Ray nor a framework is imported.
"""

from __future__ import annotations

import dataclasses
import math
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from launcher.ledger.ledger import reading
from launcher.ledger.rows import AttemptRow, Progress, State
from launcher.ledger.storage import at_work
from launcher.watch import progress
from launcher.watch.layout import LOST_STATES, layout, totals
from launcher.watch.tables import count
from launcher.watch.tail import tail
from runner.errors import UserError, did_you_mean
from runner.training.tracking import SCORE

CONFIGURATIONS = 20
"""Configurations that get a line of statistics at most: the interval of each takes about 0.1 s."""
FAILURES = 5
"""Failed attempts whose log is shown at most."""
LAST_WORDS = 5
"""Lines of the log of a failed attempt."""
LONGEST_LINE = 300


@dataclass(frozen=True)
class Standing:
    """What a launch directory says.

    Attributes:
        running: whether a launch is at work there; None where the file system does not tell.
        revisions: one for the launch and one for each resume.
        rows: the trials. Those that were running when their launch died are `interrupted`.
        attempts: by number.
        members: trial → numbers of the attempts that had it.
        agents: trial → timestep of its last agent.
    """

    directory: Path
    running: bool | None
    revisions: list[dict[str, Any]]
    rows: list[Progress]
    attempts: dict[int, AttemptRow]
    members: dict[str, list[int]]
    agents: dict[str, int]

    @property
    def unfinished(self) -> bool:
        """Whether a resume would have something to do."""
        return any(row.trial.state not in ("finished", "diverged") for row in self.rows)

    def attempts_of(self, row: Progress) -> list[int]:
        """The attempts that trained a trial, or were to."""
        return self.members.get(row.trial.id, [])


def read(directory: Path) -> Standing:
    """Read a launch directory.

    Raises:
        UserError: not a launch directory, damaged, or not to be read from here.
    """
    # First: a launch that ends in between is shown as running and finished, not as interrupted.
    running = at_work(directory)
    with reading(directory) as ledger:
        revisions = ledger.revisions()
        rows = ledger.progress(SCORE, saved=running is False)
        attempts, agents = ledger.attempts(), ledger.last_agents()
        members: dict[str, list[int]] = {}
        for member in ledger.members():
            members.setdefault(member.trial, []).append(member.attempt)
    if running is False:
        rows = [_ended(row) for row in rows]
    return Standing(directory, running, revisions, rows, {row.number: row for row in attempts}, members, agents)


def _ended(row: Progress) -> Progress:
    """A trial as it is after its launch has ended: what ran or was to be tried again is interrupted."""
    if row.trial.state != "running" and not (row.trial.state == "pending" and row.trial.error):
        return row
    return dataclasses.replace(row, trial=dataclasses.replace(row.trial, state="interrupted"))


# For people


def show(console: Console, standing: Standing) -> None:
    """Print how a launch stands, in at most about a hundred lines however many trials it has."""
    rows = standing.rows
    for line in (*_about(standing), totals(rows)):
        _say(console, line)
    attempts = {row.trial.id: len(standing.attempts_of(row)) for row in rows}
    whole = not console.is_terminal
    console.print(
        layout(rows, console.width, progress.ROWS + 2, whole_names=whole, attempts=attempts, rest="; --json has all")
    )
    _show_failures(console, standing)
    progress.show_statistics(console, rows, CONFIGURATIONS)
    _say(console, f"Directory:   {standing.directory}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _about(standing: Standing) -> list[str]:
    """Whether it runs, since when, what was typed, and what it runs on and with."""
    if not standing.revisions:
        words = {True: "Starting", False: "Ended before it trained", None: "Starting, or ended before it trained"}
        return [words[standing.running]]
    last = standing.revisions[-1]
    began = last["time"] if isinstance(last.get("time"), int | float) else 0.0
    when = time.strftime(" %Y-%m-%d %H:%M:%S", time.localtime(began)) if began else ""
    words = {True: "Running since", False: "Not running; last started", None: "Whether it runs cannot be told; started"}
    if all(attempt.opened_at < began for attempt in standing.attempts.values()):
        words |= {True: "Starting since", False: "Ended before it trained; started"}
    resumes = len(standing.revisions) - 1
    before = f" (resumed {count(resumes, 'time')})" if resumes else ""
    return [f"{words[standing.running]}{when}{before}: {last.get('command')}", *_used(last)]


def _used(revision: dict[str, Any]) -> list[str]:
    """A line of workers, machine, versions and code of a revision, as far as it names them."""
    blocks = (revision.get(key) for key in ("placement", "hardware", "versions"))
    placement, hardware, versions = (block if isinstance(block, dict) else {} for block in blocks)
    kind = "logical GPU" if placement.get("logical") else "GPU"
    on = f" on {count(placement['gpus'], kind)}" if placement.get("gpus") else ""
    workers = [f"{count(placement['workers'], 'worker')}{on}"] if "workers" in placement else []
    machine = [str(hardware[key]) for key in ("host", "processor") if hardware.get(key)]
    names = ("sunflower", "python", "torch", "jax", "envpool", "ray")
    packages = [f"{name} {versions[name]}" for name in names if name in versions]
    commit = str(revision.get("git_commit") or "")
    changed = "+" if commit.endswith("+") else ""
    code = [f"code {commit[:12]}{changed}"] if commit else []
    used = ", ".join([*workers, *machine, *packages, *code])
    return [f"With:        {used}"] if used else []


def _show_failures(console: Console, standing: Standing) -> None:
    """Print why trials failed or diverged, once for all that did so together, and how the log of each ends."""
    groups: dict[tuple[object, ...], list[Progress]] = {}
    for row in standing.rows:
        if row.trial.state in LOST_STATES:
            groups.setdefault((row.trial.attempt, row.trial.state, row.trial.error), []).append(row)
    for rows in list(groups.values())[:FAILURES]:
        first, mates = rows[0], len(rows) - 1
        progress.show_failure(console, first.trial.id + (f" and {mates:,} more" if mates else ""), first)
        try:
            path = log_path(standing, standing.attempts[first.trial.attempt or 0])
            lines = tail(path, LAST_WORDS)
            said = [f"log: {path}{':' if lines else ', empty'}", *(f"| {line[:LONGEST_LINE]}" for line in lines)]
        except UserError as error:
            said = [str(error)]
        for line in said:
            _say(console, f"  {line}")
    hidden = sum(map(len, list(groups.values())[FAILURES:]))
    if hidden:
        console.print(f"… and {count(hidden, 'trial')} more failed or diverged; --json has all")


# For programs


def describe(standing: Standing) -> dict[str, Any]:
    """A launch as one JSON object, in which a number that is not finite or not known is null.

    - directory: of the launch, absolute
    - running: whether a launch is at work there; null where the file system does not tell
    - command: what the last launch or resume was started with; null before the first has begun to train
    - started: when that was, in Unix seconds, or null
    - revisions: how many launches and resumes there were
    - counts: trials in each state; every state is there: pending, running, finished, diverged, failed, interrupted
    - env_steps, env_steps_total: of all trials together, trained and to be trained
    - trials: configurations as they were asked for, seeds by number; each with
        - trial, config, seed: its name, its configuration's name, its seed
        - state: one of the above; `running` becomes `interrupted` where no launch is at work any more
        - note: what a running trial's worker is doing (starting, compiling, training), or null
        - env_steps, env_steps_total: trained, and to be trained; once no launch is at work, trained is what a
          checkpoint holds, from which a resume goes on
        - records: how many metric records it has, counted in the same way
        - score: mean return of its last 100 episodes, or null before the first has ended
        - attempts: numbers of those that had it in their pack
        - checkpoint_timestep: where a resume would go on, or null before the first checkpoint
        - log: of the last attempt, relative to the directory, or null before the first
        - error: why it failed, or null
    """
    last = standing.revisions[-1] if standing.revisions else {}
    rows = standing.rows
    found = Counter(row.trial.state for row in rows)
    return {
        "directory": str(standing.directory),
        "running": standing.running,
        "command": last.get("command"),
        "started": last.get("time"),
        "revisions": len(standing.revisions),
        "counts": {state: found[state] for state in get_args(State)},
        "env_steps": sum(row.env_steps for row in rows),
        "env_steps_total": sum(map(_total, rows)),
        "trials": [_describe_trial(standing, row) for row in rows],
    }


def _describe_trial(standing: Standing, row: Progress) -> dict[str, Any]:
    trial = row.trial
    attempt = standing.attempts.get(trial.attempt or 0)
    return {
        "trial": trial.id,
        "config": trial.config,
        "seed": trial.seed,
        "state": trial.state,
        "note": row.note if trial.state == "running" else None,
        "env_steps": row.env_steps,
        "env_steps_total": _total(row),
        "records": row.records,
        "score": row.value if row.value is not None and math.isfinite(row.value) else None,
        "attempts": standing.attempts_of(row),
        "checkpoint_timestep": standing.agents.get(trial.id),
        "log": None if attempt is None else attempt.log,
        "error": trial.error,
    }


def _total(row: Progress) -> int:
    return row.trial.timesteps * row.trial.num_envs


# Logs


def list_logs(standing: Standing) -> None:
    """Print a line for each trial, for people and for grep: its name, state, last attempt, and that one's log."""
    width = max((len(row.trial.id) for row in standing.rows), default=0)
    where: dict[int, str] = {}
    for number, attempt in standing.attempts.items():
        try:
            where[number] = str(log_path(standing, attempt))
        except UserError:
            where[number] = f"{attempt.log} (not on this machine)" if attempt.log else "no log"
    for row in standing.rows:
        last = row.trial.attempt
        log = "not begun" if last is None else f"attempt {last:<4}  {where.get(last, 'no log')}"
        print(f"{row.trial.id:{width}}  {row.trial.state:11}  {log}")


def show_log(standing: Standing, trial: str | None, number: int | None, lines: int) -> None:
    """Print the end of a log to stdout, and to stderr whose it is.

    Args:
        standing: of the launch.
        trial: its name, or a beginning that no other trial has; None: whoever `number` trained.
        number: of the attempt; None: the last one of `trial`.
        lines: at most.

    Raises:
        UserError: no such trial, attempt, or log.
    """
    if lines < 1:
        raise UserError(f"command line: --tail {lines}: allowed: 1 or more")
    attempt = _attempt_of(standing, trial, number)
    path = log_path(standing, attempt)
    shown = tail(path, lines)
    where = f" on {attempt.host}" if attempt.host else ""
    what = f"last {count(len(shown), 'line')}" if shown else "empty"
    print(f"{path}: attempt {attempt.number}{where}, {attempt.outcome or 'not closed'}; {what}", file=sys.stderr)
    for line in shown:
        print(line)


def _attempt_of(standing: Standing, trial: str | None, number: int | None) -> AttemptRow:
    if trial is not None:
        row = find(standing, trial)
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


def find(standing: Standing, word: str) -> Progress:
    """The trial of this name, or the only one whose name begins so.

    Raises:
        UserError: none, or several.
    """
    names = {row.trial.id: row for row in standing.rows}
    if word in names:
        return names[word]
    found = [name for name in names if name.startswith(word)]
    if len(found) == 1:
        return names[found[0]]
    if found:
        more = ", …" if len(found) > 3 else ""
        raise UserError(f"'{word}' begins the names of {len(found):,} trials: {', '.join(found[:3])}{more}")
    raise UserError(
        f"{standing.directory}: it has no trial '{word}'.{did_you_mean(word, names)} `launch logs DIR` lists all."
    )


def log_path(standing: Standing, attempt: AttemptRow) -> Path:
    """Where the log of an attempt is.

    Raises:
        UserError: there is none, or not here.
    """
    if attempt.log is None:
        raise UserError(f"attempt {attempt.number} has no log: it ended before it had a worker")
    path = standing.directory / attempt.log
    if path.is_file():
        return path
    host = f" ({attempt.host})" if attempt.host and attempt.host != socket.gethostname() else ""
    raise UserError(
        f"{path} is not on this machine: attempt {attempt.number} ran on another one of the cluster{host}, which keeps "
        "it under the same path, or its worker never began"
    )

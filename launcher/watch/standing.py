"""The state of a launch, as its directory says while it is at work there, or after.

Nothing is written, and neither Ray nor a framework is imported.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launcher.ledger.ledger import reading
from launcher.ledger.rows import LOST_STATES, AttemptRow, Progress, Stage, State
from launcher.ledger.storage import at_work
from launcher.parts import grouped
from launcher.watch.tail import tail
from runner.errors import UserError, did_you_mean
from runner.training.tracking import SCORE

LONGEST_LINE = 300
NOT_FINITE = "a loss or parameter stopped being a finite number; the last finite state is saved"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Failure:
    """Trials that failed or diverged together: why, and the end of their log, or why it is not shown."""

    trials: Sequence[str]
    state: State
    reason: str
    log: str = ""
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class Standing:
    """A launch as its directory has it.

    Attributes:
        running: a launch is at work there; None where the file system does not tell.
        revisions: one for the launch and one for each resume.
        rows: the trials, as `at_present` has them.
        attempts: by number.
        members: trial → numbers of the attempts that had it.
        agents: trial → timestep of its last agent.
        search: the stage of its search; None of a launch that is no search.
    """

    directory: Path
    running: bool | None
    revisions: list[dict[str, Any]]
    rows: list[Progress]
    attempts: dict[int, AttemptRow]
    members: dict[str, list[int]]
    agents: dict[str, int]
    search: Stage | None = None

    @property
    def revision(self) -> dict[str, Any]:
        """The last launch or resume; empty before the first has begun to train."""
        return self.revisions[-1] if self.revisions else {}

    def block(self, key: str) -> dict[str, Any]:
        """A block of the last revision; empty where it has none."""
        found = self.revision.get(key)
        return found if isinstance(found, dict) else {}

    def attempts_of(self, row: Progress) -> list[int]:
        """The attempts that trained a trial, or were to."""
        return self.members.get(row.trial.id, [])

    def find(self, word: str) -> Progress:
        """The trial of this name, or the only one whose name begins so."""
        names = {row.trial.id: row for row in self.rows}
        if word in names:
            return names[word]
        found = [name for name in names if name.startswith(word)]
        if len(found) == 1:
            return names[found[0]]
        if found:
            more = ", …" if len(found) > 3 else ""
            raise UserError(f"'{word}' begins the names of {len(found):,} trials: {', '.join(found[:3])}{more}")
        raise UserError(
            f"{self.directory}: it has no trial '{word}'.{did_you_mean(word, names)} `launch logs DIR` lists all."
        )

    def log_path(self, attempt: AttemptRow) -> Path:
        """The log of an attempt; a UserError says why it is not here."""
        if attempt.log is None:
            raise UserError(f"attempt {attempt.number} has no log: it ended before it had a worker")
        path = self.directory / attempt.log
        if path.is_file():
            return path
        if attempt.host == socket.gethostname():
            raise UserError(
                f"{path} is missing: attempt {attempt.number} ran on this machine; it was moved or deleted, or its "
                "worker has not begun"
            )
        host = f" ({attempt.host})" if attempt.host else ""
        raise UserError(
            f"{path} is not on this machine: attempt {attempt.number} ran on another one of the cluster{host}, which "
            "keeps it under the same path, or its worker never began"
        )

    def failures(self, excerpts: int, lines: int) -> list[Failure]:
        """Failed and diverged trials, once for all that were lost together; of the first `excerpts` how logs end."""
        lost = (row.trial for row in self.rows if row.trial.state in LOST_STATES)
        groups = grouped(lost, lambda trial: (trial.attempt, trial.state, trial.error))
        found = [Failure([t.id for t in of], state, error or NOT_FINITE) for (_, state, error), of in groups.items()]
        for place, (attempt, _, _) in enumerate(list(groups)[:excerpts]):
            try:
                path = self.log_path(self.attempts[attempt or 0])
                said = list(map(_plain, tail(path, lines)))
                found[place] = replace(found[place], log=f"log: {path}" if said else f"log: {path}, empty", lines=said)
            except UserError as error:
                found[place] = replace(found[place], log=str(error))
            except KeyError:
                found[place] = replace(found[place], log="it has had no attempt, so there is no log")
        return found


def _plain(line: str) -> str:
    """A line of a log without control characters; of a progress bar what it says last."""
    return _CONTROL.sub("", line.rstrip("\r").rpartition("\r")[2])[:LONGEST_LINE]


def read(directory: Path, over: bool = False) -> Standing:
    """Read a launch directory, at the end of its own launch as one that is `over`."""
    # First: a launch that ends in between is shown as running and finished, not as interrupted.
    running = False if over else at_work(directory)
    with reading(directory) as ledger:
        rows = at_present(ledger.progress(SCORE, saved=running is False), running, ledger.stop_requested())
        by_trial = grouped(ledger.members(), lambda member: member.trial)
        members = {trial: [member.attempt for member in its] for trial, its in by_trial.items()}
        attempts = {row.number: row for row in ledger.attempts()}
        agents, search = ledger.last_agents(), ledger.search()
        return Standing(directory, running, ledger.revisions(), rows, attempts, members, agents, search)


def at_present(rows: Iterable[Progress], running: bool | None, stopping: bool) -> list[Progress]:
    """Trials as they are while a launch is at work, and after.

    While it is, and is not about to stop, one that was interrupted before is pending: it waits for a worker. After it
    has ended, what ran or was to be tried again is interrupted.
    """

    def state_of(row: Progress) -> State:
        trial = row.trial
        if running is False and (trial.state == "running" or (trial.state == "pending" and trial.attempt is not None)):
            return "interrupted"
        return "pending" if running and not stopping and trial.state == "interrupted" else trial.state

    return [replace(row, trial=replace(row.trial, state=state_of(row))) for row in rows]

"""`launch resume`: what is left of a launch, what is added to it, and what has changed since."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from launcher.ledger.ledger import reading
from launcher.ledger.rows import Stage, State, TrialRow, ended
from launcher.ledger.storage import LEDGER
from launcher.plan import directory as folder
from launcher.plan.experiment import Trial, parse_seeds, trial_of
from launcher.plan.resources import Resources
from runner.config import Config, resolve
from runner.config.overrides import parse_override
from runner.errors import UserError

LENGTH = ("trainer", "timesteps")


@dataclass(frozen=True)
class Request:
    """A request, by the command that a person typed, to let a launch go on on these resources; see `read`."""

    command: str
    resources: Resources
    seeds: str | None = None
    settings: tuple[str, ...] = ()
    retry_failed: bool = False
    dry_run: bool = False

    def as_json(self) -> str:
        """The request as text, for whoever continues the launch on another machine."""
        return json.dumps(asdict(self))

    @classmethod
    def of_json(cls, text: str, address: str) -> Request:
        """The request in such a text, on the machine where the cluster has this address."""
        data = json.loads(text)
        resources = Resources(**{**data["resources"], "address": address})
        return cls(**{**data, "settings": tuple(data["settings"]), "resources": resources})


@dataclass(frozen=True)
class Continuation:
    """The work of a resume: trials `todo`, each with the timestep that it goes on from.

    The launch does not have those that are `added` yet; those that it has and that get `longer` may be finished.
    """

    todo: list[tuple[Trial, int]]
    added: list[Trial]
    longer: list[Trial]
    notes: list[str]
    all_finished: bool
    search: bool


def read(directory: Path, seeds: str | None, settings: Sequence[str], retry_failed: bool) -> Continuation:
    """Find out what there is to do.

    Args:
        directory: of the launch.
        seeds: that every configuration is to have, as in `parse_seeds`, counted from its first; None: as it is.
        settings: `trainer.timesteps=N`, or nothing.
        retry_failed: also what has failed.
    """
    with reading(directory) as ledger:
        trials = {trial.id: trial for trial in folder.trials_of(ledger)}
        rows, begin = {row.id: row for row in ledger.trials()}, ledger.last_agents()
        search = ledger.search()
    if not rows:
        raise UserError(f"{directory / LEDGER}: damaged: it has no trials")
    if search is not None:
        _refuse_for_search(directory, seeds, settings, retry_failed)
    length = _length(settings)
    longer = {}
    if length is not None:
        for name, row in rows.items():
            extended = _extended(trials[name], row, begin.get(name, 0), length)
            if extended is not None:
                longer[name] = extended
    added = _added([longer.get(name, trials[name]) for name in rows], seeds)
    todo = [
        (longer.get(name, trials[name]), begin.get(name, 0))
        for name, row in rows.items()
        if row.state not in ended(search)
        or (row.state == "finished" and name in longer)
        or (row.state == "failed" and retry_failed)
    ]
    todo += [(trial, 0) for trial in added]
    states = Counter(row.state for row in rows.values())
    notes = _notes(directory, states, todo, search, retry_failed)
    all_finished = states["finished"] + states["paused"] == len(rows)
    return Continuation(todo, added, list(longer.values()), notes, all_finished, search is not None)


def _refuse_for_search(directory: Path, seeds: str | None, settings: Sequence[str], retry_failed: bool) -> None:
    """Refuse what would change trials that a search has compared, and decided by."""
    winner = directory / "report" / "winner.yaml"
    if seeds is not None:
        raise UserError(
            f"command line: --seeds {seeds}: {directory} is a search, whose settings are compared with the seeds that "
            f"it began with; its winner can be trained with more: launch {winner} --seeds {seeds}"
        )
    if settings:
        raise UserError(
            f"command line: --set {settings[0]}: {directory} is a search, whose settings are compared at the length "
            f"that it began with; its winner can be trained longer: launch {winner} --set {settings[0]}"
        )
    if retry_failed:
        raise UserError(
            f"command line: --retry-failed: {directory} is a search, in which what failed counts as the worst and has "
            f"been decided by; a trial can be trained by itself: launch {directory}/trials/TRIAL/config.yaml"
        )


def _notes(
    directory: Path, states: Counter[State], todo: Sequence[object], search: Stage | None, retry_failed: bool
) -> list[str]:
    left = [f"{states['diverged']} diverged"] if states["diverged"] else []
    if states["failed"] and not retry_failed:
        how = "" if search is not None else " (--retry-failed tries them again)"
        left.append(f"{states['failed']} failed{how}")
    notes = [f"Left as they are: {', '.join(left)}"] if left else []
    if not todo and search == "on":
        notes.append(f"{directory}: the search goes on; it decides what is next when it does")
    elif not todo and search == "over":
        notes.append(f"{directory}: the search is over; nothing to do")
    elif not todo:
        notes.append(f"{directory}: {states['finished']} of {states.total()} trials are finished; nothing to do")
    return notes


def _length(settings: Sequence[str]) -> object:
    """The value of `trainer.timesteps`, None if it stays."""
    length = None
    for text in settings:
        key, values = parse_override(text)
        if key != LENGTH:
            raise UserError(
                f"command line: --set {text}: a launch keeps the settings that it was begun with; allowed: "
                "trainer.timesteps=N, which trains on. Other settings are a launch of their own"
            )
        if len(values) > 1:
            raise UserError(f"command line: --set {text}: all trials train to one length; give one number")
        if values[0] is None:
            raise UserError(f"command line: --set {text}: found no number; allowed: timesteps, such as 20_000")
        if length not in (None, values[0]):
            raise UserError(f"command line: --set {text}: given twice, {length} before; give one of them")
        length = values[0]
    return length


def _extended(trial: Trial, row: TrialRow, begin: int, length: object) -> Trial | None:
    """The trial with a greater length; None where it is that long already, or diverged."""
    config = trial.config
    data = config.dump()
    # `auto` is a part of the length; curves and checkpoints go on as they began.
    for name in ("write_interval", "checkpoint_interval"):
        data["agent"]["experiment"][name] = config.interval(name)
    longer = resolve(data, None, [(LENGTH, length)])[0]
    if row.state == "diverged" or longer.length == row.timesteps:
        return None
    if longer.length < row.timesteps:
        raise UserError(
            f"command line: --set trainer.timesteps={length}: {trial.id} is to get to {row.timesteps} already; "
            f"allowed: {row.timesteps} or more"
        )
    if begin and config.agent.learning_rate_scheduler_kwargs.of_whole_training:
        raise UserError(
            f"command line: --set trainer.timesteps={length}: {trial.id} has trained {begin} timesteps with rates of "
            f"learning_rate_scheduler {config.agent.learning_rate_scheduler}, which depend on the length; extended, it "
            "would be no run of any length. Start a launch of that length"
        )
    return Trial(trial.id, trial.name, longer)


def _added(trials: Sequence[Trial], seeds: str | None) -> list[Trial]:
    """Trials of each configuration, with those of the seeds that it does not have."""
    if seeds is None:
        return []
    by_name: dict[str, dict[int, Config]] = {}
    for trial in trials:
        by_name.setdefault(trial.name, {})[trial.config.seed or 0] = trial.config
    return [
        trial_of(name, next(iter(have.values())).model_copy(update={"seed": seed}))
        for name, have in by_name.items()
        for seed in parse_seeds(seeds, min(have))
        if seed not in have
    ]


def write(directory: Path, more: Continuation) -> None:
    """Add to the launch directory what is new; the same again, after a crash in between, changes nothing.

    What was added and is not trained yet is what the next resume trains.
    """
    folder.add_trials(directory, more.added, more.longer)

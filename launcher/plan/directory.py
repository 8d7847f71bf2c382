"""The launch directory: made once, never overwritten, complete enough to reproduce what ran.

OUT/NAME/  ledger.sqlite  plan.json  tensorboard/  logs/attempt-<n>.log
           trials/<trial>/ config.yaml  checkpoints/agent_<timestep>.safetensors  best_agent.safetensors

What there is to train is in the ledger; plan.json and config.yaml are copies for people, and are not read.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from launcher.ledger.aggregator import writer
from launcher.ledger.configurations import config_of, text_of
from launcher.ledger.ledger import Ledger, reading
from launcher.ledger.rows import TrialRow
from launcher.ledger.storage import FOLDER, at_work, in_use, is_launch, lock, writing
from launcher.plan.experiment import Trial, slug
from launcher.plan.revision import changes
from runner.config import Config
from runner.config.load import dump
from runner.envs.named import imports
from runner.errors import UserError
from runner.files import expanded, write_all, write_whole

LOOK_SECONDS = 0.3
"""The longest look of a `launch status` whether a launch is at work."""


@contextlib.contextmanager
def working(directory: Path) -> Iterator[None]:
    """Have a launch directory for oneself: nothing of a launch is written there, or read to go on from, without it."""
    with writing(directory):
        held = lock(directory, wait=LOOK_SECONDS)
    with held:
        yield


def refuse_running(directory: Path) -> None:
    """Raise a `UserError` where a launch is at work."""
    if at_work(directory):
        raise in_use(directory)


def choose_directory(trials: Sequence[Trial], out: Path | None, name: str | None, stem: str) -> tuple[Path, bool]:
    """`OUT/NAME`: the flags, else the first configuration's experiment section, else `runs` and `stem` and time.

    With it comes that somebody chose its name; else `create` finds one that is free.
    """
    called, chosen = choose_name(trials, name, stem)
    directory = (expanded(choose_folder(trials, out)) / called).absolute()
    if chosen and "\0" not in str(directory) and os.path.lexists(directory):
        raise _exists(directory)
    return directory, chosen


def choose_folder(trials: Sequence[Trial], out: Path | None) -> Path:
    """The folder of a launch as it is written, since a cluster's may be meant."""
    return out or Path(trials[0].config.agent.experiment.directory or FOLDER)


def choose_name(trials: Sequence[Trial], name: str | None, stem: str) -> tuple[str, bool]:
    """The name of a launch, and that somebody chose it."""
    if name is not None and slug(name) != name:
        raise UserError(
            f"command line: --name {name!r}: allowed: letters, digits and ._=+- (80 at most), no dot or dash at the "
            f"ends, such as {slug(name)}; the folder above it is --out"
        )
    chosen = name or trials[0].config.agent.experiment.experiment_name
    return slug(chosen or f"{stem}_{datetime.now():%y-%m-%d_%H-%M-%S}"), bool(chosen)


def _exists(directory: Path) -> UserError:
    return UserError(
        f"{directory}: exists already and is never overwritten; choose another --name or --out, or continue it with "
        f"launch resume {directory}"
    )


@contextlib.contextmanager
def beginning(directory: Path, make: Callable[[Path], Path]) -> Iterator[Path]:
    """Have a new launch directory for oneself, made by `create` or `adopt`.

    It is taken back, and the folders above it that were made for it, if nothing was begun there.
    """
    above = [folder for folder in directory.parents if not os.path.lexists(folder)]
    made = None
    try:
        made = make(directory)
        with working(made):
            yield made
    finally:
        if made is None or _unbegun(made):
            if made is not None:
                shutil.rmtree(made, ignore_errors=True)
            for folder in above:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def _unbegun(directory: Path) -> bool:
    """A launch directory in which no launch or resume was noted; False where that cannot be told."""
    try:
        with reading(directory) as ledger:
            return not ledger.revisions()
    except UserError:
        return False


def create(
    directory: Path, trials: Sequence[Trial], named: bool = True, events: Sequence[tuple[str, str, Any]] = ()
) -> Path:
    """Make the directory with the plan, every trial's resolved configuration and the ledger; or leave nothing.

    If nobody has chosen its name, it gets a number where another launch began in the same second. `events` are
    the first ones of a search.
    """

    def fill(made: Path) -> None:
        write_configs(made, trials)
        with Ledger(made) as ledger:
            ledger.add_trials(*rows_and_texts(trials))
            ledger.add_events(events)
            _write_plan(made, ledger)

    return _make(directory, named, fill)


def adopt(source: Path, directory: Path) -> Path:
    """Make the directory of one that has travelled; or leave nothing."""
    return _make(directory, True, lambda made: shutil.copytree(source, made, dirs_exist_ok=True))


def _make(directory: Path, named: bool, fill: Callable[[Path], object]) -> Path:
    """Make and fill a folder that nobody has: this one, or one of its name and a number."""
    wanted = directory
    with writing(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(2):
        try:
            with writing(directory):
                directory.mkdir()
            break
        except UserError:
            if not os.path.lexists(directory):
                raise
            if named:
                raise _exists(directory) from None
        directory = wanted.with_name(f"{wanted.name}_{number}")
    try:
        with writing(directory):
            fill(directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory


def write_configs(directory: Path, trials: Sequence[Trial]) -> None:
    """Write the resolved configuration of each trial, for people."""
    write_all((directory / "trials" / trial.id / "config.yaml", copy.encode()) for trial, copy in _copies(trials))


def _copies(trials: Sequence[Trial]) -> Iterator[tuple[Trial, str]]:
    """Each trial's configuration as YAML; the text of all seeds is made once."""
    known: dict[str, str] = {}
    for trial in trials:
        text = text_of(trial.config)
        if text not in known:
            known[text] = dump(json.loads(text))
        yield trial, f"seed: {trial.config.seed}\n{known[text]}"


def _texts(trials: Sequence[Trial]) -> dict[str, str]:
    return {trial.id: text_of(trial.config) for trial in trials}


def rows_and_texts(trials: Sequence[Trial]) -> tuple[list[TrialRow], dict[str, str]]:
    """Trials as `Ledger.add_trials` takes them."""
    rows = [TrialRow(t.id, t.name, t.config.seed or 0, t.config.env.num_envs or 0, t.config.length) for t in trials]
    return rows, _texts(trials)


def add_trials(directory: Path, added: Sequence[Trial], longer: Sequence[Trial]) -> None:
    """Let an existing launch have more trials, and some greater lengths.

    The ledger comes after the copies for people: those of a crash in between are written again by the same command.
    """
    with writing(directory), writer(directory) as ledger:
        if not added and not longer:
            return
        write_configs(directory, [*added, *longer])
        ledger.add_trials(*rows_and_texts(added))
        ledger.extend({trial.id: trial.config.length for trial in longer}, _texts(longer))
        _write_plan(directory, ledger)


def fold(directory: Path) -> None:
    """At the end of a launch, leave a ledger that is one file; where that cannot be, readers find the log beside it."""
    with contextlib.suppress(UserError), writing(directory), writer(directory) as ledger:
        _write_plan(directory, ledger)  # a search may have added trials
        ledger.fold()


def add_revision(directory: Path, revision: dict[str, Any]) -> list[str]:
    """Note in the ledger what a launch or resume is; returns a line on what differs from the one before, or nothing."""
    with writing(directory), writer(directory) as ledger:
        before = ledger.revisions()[-1:]
        ledger.add_revision(revision)
        _write_plan(directory, ledger)
    changed = [change for last in before for change in changes(last, revision)]
    what = "; what is trained now may differ from what an uninterrupted launch had trained"
    return [f"Changed since the last time: {', '.join(changed)}{what}"] if changed else []


def _write_plan(directory: Path, ledger: Ledger) -> None:
    """Write plan.json for people: which trials there are, and what each launch and resume was."""
    trials = [{"id": row.id, "name": row.config, "seed": row.seed} for row in ledger.trials()]
    plan = {"trials": trials, "revisions": ledger.revisions()}
    write_whole(directory / "plan.json", (json.dumps(plan, indent=2) + "\n").encode())


def trials_of(ledger: Ledger) -> list[Trial]:
    """The trials of a launch: configurations as they were asked for, seeds by number."""
    texts, known, trials = ledger.configurations(), dict[str, Config](), []
    for row in ledger.trials():
        text = texts[row.id]
        if text not in known:
            known[text] = config_of(text, row.seed)
        trials.append(Trial(row.id, row.config, known[text].model_copy(update={"seed": row.seed})))
    return trials


def allow_recorded(directory: Path) -> None:
    """Let this process import what the launch of a directory imports, if its user has allowed that here."""
    with reading(directory) as ledger:
        revisions = ledger.revisions()
    imports.restore(revisions[-1].get("imports", {}) if revisions else {}, str(directory))


def launch_of(file: Path) -> Path | None:
    """The launch directory in which a checkpoint is; None where it is in none."""
    trials = next((up for up in file.absolute().parents if up.name == "trials"), None)
    return trials.parent if trials is not None and is_launch(trials.parent) else None


def last_revision(directory: Path) -> dict[str, Any] | None:
    """The last revision of a launch; None before it has begun."""
    if not is_launch(directory):
        return None
    with reading(directory) as ledger:
        return next(iter(ledger.revisions()[-1:]), None)


def arithmetic_threads(directory: Path) -> int | None:
    """Threads that the arithmetic of CPU workers has in this launch; None before it has begun on CPUs."""
    last = last_revision(directory)
    placement = {"gpus": 1} if last is None else last.get("placement", {})
    return None if placement.get("gpus") else placement.get("threads", 1)

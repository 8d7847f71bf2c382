"""A directory that `run("train")` of a Runner wrote, as a launch: its event files, read into a ledger."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from launcher.ledger.configurations import text_of
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, Published
from launcher.ledger.storage import is_launch
from launcher.plan import directory as folder
from launcher.plan.experiment import Trial, slug, trial_of
from runner.config import load_config
from runner.errors import UserError
from runner.training.tracking import STEPS_PER_SECOND, Record

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event

EVENTS = "events.out.tfevents.*"


def written(directory: Path) -> list[Path]:
    """The folders of the members whose training wrote a directory; none where it is something else."""
    if is_launch(directory):
        return []
    seeds = sorted(directory.glob("seed_*"), key=lambda one: (len(one.name), one.name))
    return [one for one in (directory, *seeds) if (one / "config.yaml").is_file() and any(one.glob(EVENTS))]


def as_launch(directory: Path, made: Path) -> Path:
    """Make a launch directory whose trials are the members, and the one attempt is their training."""
    members = [(load_config(member / "config.yaml")[0], _events(member)) for member in written(directory)]
    # Members differ in their settings where they do not in their seeds.
    numbers: dict[str, int] = {}
    trials = []
    for config, _ in members:
        number = numbers.setdefault(text_of(config), len(numbers) + 1)
        trials.append(trial_of(slug(directory.name) + (f"_{number}" if number > 1 else ""), config))
    folder.create(made, trials)
    now = min(events[0].wall_time for _, events in members)
    with Ledger(made, clock=lambda: now) as ledger:
        attempt = ledger.open([trial.id for trial in trials], "run").number
        for trial, (_, events) in zip(trials, members, strict=True):
            records = _records(trial, events)
            for record, event in zip(records, events[1:], strict=True):
                now = event.wall_time
                ledger.push(attempt, {trial.id: Batch(record.index, [record])})
            ledger.publish(attempt, {trial.id: _end(trial, records)})
        now = max(events[-1].wall_time for _, events in members)
        ledger.close(attempt, "ended", state="interrupted")
    return made


def _events(member: Path) -> list[Event]:
    """The beginning, and one for each record; what a later training in the same folder has trained again, it has."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    logging.getLogger("tensorboard").setLevel(logging.WARNING)
    files = sorted(member.glob(EVENTS))
    read = [[Event.FromString(data) for data in RawEventFileLoader(str(file)).Load()] for file in files]
    if not any(read):
        raise UserError(f"{files[0]}: it has no events")
    first, *rest = itertools.chain(*read)
    events = [first]
    for event in rest:
        if event.HasField("summary"):
            while len(events) > 1 and events[-1].step >= event.step:
                events.pop()
            events.append(event)
    return events


def _records(trial: Trial, events: list[Event]) -> list[Record]:
    envs, seconds, records = trial.config.env.num_envs or 1, 0.0, []
    for index, (before, event) in enumerate(itertools.pairwise(events)):
        values = {value.tag: value.simple_value for value in event.summary.value}
        seconds += (event.step - before.step) / values.get(STEPS_PER_SECOND, math.inf)
        records.append(Record(index, event.step // envs, event.step, seconds, values))
    return records


def _end(trial: Trial, records: list[Record]) -> Published:
    """The state in which a trial ended, by its last record: that of one that diverged has infinite numbers."""
    state: Literal["finished", "diverged", "interrupted"] = "interrupted"
    last = records[-1] if records else None
    if last is not None and not all(map(math.isfinite, last.values.values())):
        state = "diverged"
    elif last is not None and last.timestep >= trial.config.length:
        state = "finished"
    return Published(last.timestep if last else 0, b"", "agent", len(records), state)

"""The scheduler of a launch directory, by the method of its search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from launcher.ledger.aggregator import writer
from launcher.ledger.ledger import reading
from launcher.ledger.rows import OVER, OVER_STATES, SEARCH
from launcher.ledger.storage import writing
from launcher.plan import directory as folder
from launcher.plan.experiment import Trial
from launcher.search import pbt
from launcher.search.asha import Asha
from launcher.search.confirm import Confirmation
from launcher.search.pbt import Pbt, Rules
from launcher.search.record import Record
from launcher.search.scheduler import Desk, Fixed, Leg, Scheduler
from launcher.search.score import score_at
from launcher.search.tpe import Tpe


class InTurn:
    """The stages of a search, each of which begins when the one before has nothing left."""

    def __init__(self, stages: Sequence[Scheduler]) -> None:
        self._stages = list(stages)

    def next(self, desk: Desk) -> Leg | None:
        """The next leg of the stage that is on."""
        while self._stages:
            leg = self._stages[0].next(desk)
            if leg is not None or desk.busy:
                return leg
            self._stages.pop(0)
        desk.write("add_events", [(OVER, "", {})])
        return None


def scheduler_of(directory: Path, packs: Sequence[Sequence[Trial]], largest: int | None = None) -> Scheduler:
    """The scheduler of what is left of a launch, which a plain one trains in these packs; `largest` is of others."""
    with reading(directory) as ledger:
        events = ledger.events()
        about = next((event.data for event in events if event.kind == SEARCH), None)
        if about is None:
            return Fixed(packs)
        trials = folder.trials_of(ledger)
    record = Record.of_event(about)
    method = record.search.method
    if method == "tpe":
        return InTurn([Tpe(packs, largest), Confirmation(largest)])
    if method in ("grid", "random"):
        return InTurn([Fixed(packs), Confirmation(largest)])
    values = {e.key: e.data["values"] for e in events if e.kind == "setting" and e.data["role"] == "search"}
    settings: dict[str, list[Trial]] = {name: [] for name in values}
    for trial in trials:
        if trial.name in settings:
            settings[trial.name].append(trial)
    if method == "pbt":
        return InTurn([_pbt(record, settings, next(iter(values.values()))), Confirmation(largest)])
    options = record.search.asha
    asha = Asha(settings, partial(score_at, record.metric), options.reduction, options.rungs)
    return InTurn([asha, Confirmation(largest)])


def advance(directory: Path) -> None:
    """Add what a search trains next where it was ended between two steps, with nothing left that is to be trained.

    Nobody is at work at the launch.
    """
    with reading(directory) as ledger:
        idle = ledger.search() == "on" and {*OVER_STATES}.issuperset(ledger.states().values())
    if idle:
        with writing(directory), writer(directory) as ledger:
            desk = Desk(directory, lambda call, *values: getattr(ledger, call)(*values), 1, False)
            scheduler_of(directory, []).next(desk)


def _pbt(record: Record, settings: Mapping[str, Sequence[Trial]], values: Mapping[str, Any]) -> Pbt:
    """The scheduler of a population, of whose settings one has these values."""
    options = record.search.pbt
    interval = None if options.interval == "auto" else options.interval
    spans = tuple(span for span in pbt.spans_of(record, values).values() if span is not None)
    numbers = (options.truncation, options.perturbation, options.resample)
    rules = Rules(spans, *numbers, record.search.seed, options.frequencies)
    population = [trial for seeds in settings.values() for trial in seeds]
    return Pbt(population, partial(score_at, record.metric), interval, rules)

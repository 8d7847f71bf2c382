"""The scheduler of a launch directory, by the method of its search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from launcher.ledger.aggregator import writer
from launcher.ledger.ledger import reading
from launcher.ledger.reader import Reader
from launcher.ledger.storage import writing
from launcher.plan import directory as folder
from launcher.plan.experiment import Trial
from launcher.plan.resume import OVER
from launcher.search.asha import Asha, Score
from launcher.search.confirm import Confirmation
from launcher.search.pbt import Pbt, Rules, Span, hyper_names
from launcher.search.scheduler import Desk, Fixed, Leg, Scheduler
from launcher.search.score import Metric, score_at
from launcher.search.tpe import Tpe
from launcher.watch.layout import LOST_STATES
from runner.training.pack import Hyper


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
        events, trials = ledger.events(), folder.trials_of(ledger)
    about = next((event.data for event in events if event.kind == "search"), None)
    if about is None:
        return Fixed(packs)
    if about["search"]["method"] == "tpe":
        return InTurn([Tpe(packs, largest), Confirmation(largest)])
    if about["search"]["method"] in ("grid", "random"):
        return InTurn([Fixed(packs), Confirmation(largest)])
    settings: dict[str, list[Trial]] = {
        event.key: [] for event in events if event.kind == "setting" and event.data["role"] == "search"
    }
    for trial in trials:
        if trial.name in settings:
            settings[trial.name].append(trial)
    if about["search"]["method"] == "pbt":
        population = [trial for seeds in settings.values() for trial in seeds]
        return InTurn([_pbt(about, population)])
    options = about["search"]["asha"]
    asha = Asha(settings, _scored_by(about["metric"]), options["reduction"], options["rungs"])
    return InTurn([asha, Confirmation(largest)])


def advance(directory: Path) -> None:
    """Add what a search trains next where it was ended between two steps, with nothing left that is to be trained.

    Nobody is at work at the launch.
    """
    with reading(directory) as ledger:
        kinds = {event.kind for event in ledger.events()}
        idle = set(ledger.states().values()) <= {"finished", *LOST_STATES}
    if "search" in kinds and OVER not in kinds and idle:
        with writing(directory), writer(directory) as ledger:
            desk = Desk(directory, lambda call, *values: getattr(ledger, call)(*values), 1, False)
            scheduler_of(directory, []).next(desk)


def _pbt(about: Mapping[str, Any], population: Sequence[Trial]) -> Pbt:
    """The scheduler of a population."""
    options = about["search"]["pbt"]
    spans = [
        Span(hyper_names(tuple(one["keys"][0])), one["low"], one["high"], one["distribution"] == "log")
        for one in about["dimensions"]
        if "low" in one
    ]
    interval = None if options["interval"] == "auto" else options["interval"]
    numbers = options["truncation"], options["perturbation"], options["resample"], about["search"]["seed"]
    known = set(Hyper._fields)
    rules = Rules(tuple(span for span in spans if known.issuperset(span.names)), *numbers)
    return Pbt(population, _scored_by(about["metric"]), interval, rules)


def _scored_by(metric: Metric) -> Score:
    def score(ledger: Reader, trials: Sequence[str], timestep: int) -> float:
        """The score of a setting."""
        rows = ledger.rows(trials)
        return score_at(ledger, rows, metric, timestep)

    return score

"""The scheduler of a launch directory, by the method of its search."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.ledger.ledger import reading
from launcher.ledger.reader import Reader
from launcher.plan import directory as folder
from launcher.plan.experiment import Trial
from launcher.plan.resume import OVER
from launcher.search.asha import Asha, Score
from launcher.search.scheduler import Desk, Fixed, Leg, Scheduler
from launcher.search.score import Metric, score_at


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


def scheduler_of(directory: Path, packs: Sequence[Sequence[Trial]]) -> Scheduler:
    """The scheduler of what is left of a launch, which a plain one trains in these packs."""
    with reading(directory) as ledger:
        events, trials = ledger.events(), folder.trials_of(ledger)
    about = next((event.data for event in events if event.kind == "search"), None)
    if about is None or about["search"]["method"] != "asha":
        return Fixed(packs)
    settings: dict[str, list[Trial]] = {
        event.key: [] for event in events if event.kind == "setting" and event.data["role"] == "search"
    }
    for trial in trials:
        if trial.name in settings:
            settings[trial.name].append(trial)
    options = about["search"]["asha"]
    return InTurn([Asha(settings, _scored_by(about["metric"]), options["reduction"], options["rungs"])])


def _scored_by(metric: Metric) -> Score:
    def score(ledger: Reader, trials: Sequence[str], timestep: int) -> float:
        """The score of a setting."""
        rows = ledger.rows(trials)
        return score_at(ledger, rows, metric, timestep)

    return score

"""The confirmation of a search: its winner and the file's own settings, trained on seeds not searched with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from launcher.ledger.configurations import config_of
from launcher.ledger.ledger import reading
from launcher.ledger.reader import Reader
from launcher.ledger.rows import OVER_STATES
from launcher.plan import directory as folder
from launcher.plan.experiment import Trial, form_packs, trial_of
from launcher.search import pbt, results
from launcher.search.record import Entry, Setting
from launcher.search.results import Results
from launcher.search.scheduler import Desk, Leg
from runner.config import Config


def confirmation(directory: Path) -> tuple[list[Entry], list[Trial]]:
    """The events and trials that a search ends with, once it is over; none where there is nothing to confirm."""
    with reading(directory) as ledger:
        found = results.read(ledger)
        if found is None or not found.record.search.fresh_seeds:
            return [], []
        tried = found.of("search")
        if found.winner is None or len(tried) < found.record.search.trials or any(map(_trains, tried)):
            return [], []
        best = best_config(ledger, found.winner)
    return _compared(found, best)


def best_config(ledger: Reader, winner: results.Result) -> Config:
    """The configuration of a winner, with a seed; of a population that of its best member, with its schedule."""
    rounds = [event for event in ledger.events() if event.kind == pbt.EXPLOIT]
    place = int(np.argmax(winner.scores)) if rounds else 0
    began, changes = pbt.schedule_of(winner.trials[place].id, rounds)
    (row,) = ledger.rows([began])
    return pbt.scheduled(config_of(ledger.configurations([began])[began], row.seed), changes)


def _trains(one: results.Result) -> bool:
    """A setting is being trained, or waits for it; one that is paused was stopped for good."""
    return any(trial.state not in (*OVER_STATES, "paused") for trial in one.trials)


def _compared(found: Results, best: Config) -> tuple[list[Entry], list[Trial]]:
    """The winner and the file's own settings under names of their own, once."""
    record, winner = found.record, found.winner
    assert winner is not None
    known = {one.setting.name for one in found.settings if one.trials}
    entries, trials = [], []
    own = config_of(record.own, 0)
    for role, config, values in (("winner", best, winner.setting.values), ("own", own, {})):
        setting = Setting(winner.setting.number, f"{record.stem}_{role}", values, role)  # type: ignore[arg-type]
        if setting.name not in known:
            entries.append(setting.event)
            trials += [trial_of(setting.name, config.model_copy(update={"seed": seed})) for seed in record.fresh_seeds]
    return entries, trials


class Confirmation:
    """The last stage of a search: the winner and the file's own settings, with fresh seeds."""

    def __init__(self, largest: int | None) -> None:
        self._largest = largest
        self._packs: list[list[Trial]] | None = None

    def next(self, desk: Desk) -> Leg | None:
        """The next pack of what is left of it, all of which is added when it begins."""
        if self._packs is None:
            entries, trials = confirmation(desk.directory)
            if trials:
                desk.write("add_events", entries)
                desk.add(trials)
            self._packs = self._left(desk)
        return Leg(self._packs.pop(0)) if self._packs else None

    def _left(self, desk: Desk) -> list[list[Trial]]:
        with reading(desk.directory) as ledger:
            names = {
                event.key for event in ledger.events() if event.kind == "setting" and event.data["role"] != "search"
            }
            states, agents, trials = ledger.states(), ledger.last_agents(), folder.trials_of(ledger)
        left = [(t, agents.get(t.id, 0)) for t in trials if t.name in names and states[t.id] not in OVER_STATES]
        return form_packs(left, desk.workers, self._largest)

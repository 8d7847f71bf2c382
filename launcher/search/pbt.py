"""Population-based training: all members train to a boundary, then the worst go on as copies of the best.

A copy is of the whole member: parameters, optimiser, statistics and Hyper numbers, some of which are then changed. It
goes on counting records and env steps as the trial in whose place it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from launcher.ledger.ledger import reading
from launcher.ledger.rows import LOST_STATES, Event
from launcher.parts import evenly, grouped
from launcher.plan.experiment import LARGEST_PACK, Trial
from launcher.search.asha import Score
from launcher.search.record import Record, chosen_of
from launcher.search.scheduler import Copy, Desk, Leg
from runner.config import Config, resolve
from runner.config.overrides import Range
from runner.training.pack import hyper_of, keys_of, static_key

EXPLOIT = "exploit"
"""Kind of events: the scores at a boundary, and who goes on as a copy of whom with which Hyper numbers."""
Numbers = dict[str, float]


@dataclass(frozen=True)
class Span:
    """The Hyper numbers that a searched key sets, and the range of their values."""

    names: tuple[str, ...]
    range: Range


@dataclass(frozen=True)
class Rules:
    """The numbers of a search: see `launcher.search.settings.Pbt`."""

    spans: tuple[Span, ...]
    truncation: float
    perturbation: float
    resample: float
    seed: int
    frequencies: Sequence[int] = (1,)


def exploit(
    scores: Sequence[float], hypers: Sequence[Numbers], rules: Rules, number: int
) -> tuple[list[int], list[Numbers]]:
    """The member that each goes on as, itself or a better one, and with which Hyper numbers.

    The worst share copies members of the best; draws depend on the search's seed, the boundary's number and the member
    alone. What failed has the score −inf and is nobody's source. Of equal scores the first member's is the better.

    Each of several subpopulations does so at its own frequency, and members above its worst share become the best of
    the others if those are better, with their Hyper numbers if they are compared less often, else with those of its
    own best (MF-PBT, https://arxiv.org/abs/2506.03225).
    """
    order = sorted(range(len(scores)), key=lambda member: (-scores[member], member))
    parts, frequencies = len(rules.frequencies), rules.frequencies
    populations = [[member for member in order if member % parts == part] for part in range(parts)]
    due = [part for part in range(parts) if (number + 1) % frequencies[part] == 0]
    sources, changed = list(range(len(scores))), list(hypers)
    for ranked in (populations[part] for part in due):
        count = _share(ranked, rules)
        best = [member for member in ranked[:count] if math.isfinite(scores[member])]
        for member in ranked[len(ranked) - count :] if best else ():
            rng = np.random.default_rng([rules.seed, number, member])
            source = best[int(rng.integers(len(best)))]
            sources[member], changed[member] = source, _explored(hypers[source], rules, rng)
    for part in due:
        ranked, count = populations[part], _share(populations[part], rules)
        worst, needed = len(ranked) - count, {source for member, source in enumerate(sources) if source != member}
        members = [member for member in ranked[max(1, worst - count) : worst] if member not in needed]
        others = [member for member in order if member % parts != part and sources[member] == member]
        for member, migrant in zip(members, others, strict=False):
            if scores[migrant] > scores[member]:
                slower = frequencies[migrant % parts] > frequencies[part]
                sources[member], changed[member] = migrant, hypers[migrant if slower else ranked[0]]
    return sources, changed


def _share(ranked: Sequence[int], rules: Rules) -> int:
    """The number of the best of a population, and of the worst."""
    return min(max(1, int(len(ranked) * rules.truncation)), len(ranked) // 2)


def _explored(numbers: Numbers, rules: Rules, rng: np.random.Generator) -> Numbers:
    """Hyper numbers near these; those that no key of the search sets stay."""
    near = dict(numbers)
    for span in rules.spans:
        up, anew, share = rng.random(3)
        factor = rules.perturbation if up < 0.5 else 1 / rules.perturbation
        for name in span.names:
            moved = span.range.at(share) if anew < rules.resample else span.range.rounded(numbers[name] * factor)
            near[name] = float(moved)
    return near


def schedule_of(trial: str, rounds: Sequence[Event]) -> tuple[str, list[tuple[int, Numbers]]]:
    """The trial as which a member began, and the Hyper numbers that it had from each of these timesteps on."""
    changes = []
    for event in reversed(rounds):
        if (copy := event.data["copies"].get(trial)) is not None:
            changes.append((event.data["timestep"], copy["hyper"]))
            trial = copy["source"]
    return trial, changes[::-1]


def scheduled(began: Config, changes: Sequence[tuple[int, Numbers]]) -> Config:
    """A configuration whose Hyper numbers change so while it trains."""
    data, before = began.dump(), keys_of(hyper_of(began), began.agent)
    for timestep, numbers in changes:
        keys = keys_of(numbers, began.agent)
        new = {name: value for name, value in keys.items() if value != before[name]}
        if new:
            data["agent"]["changes"].append({"at": timestep, **new})
        before = keys
    return resolve(data)[0]


def spans_of(record: Record, values: Mapping[str, Any]) -> dict[str, Span | None]:
    """Each range of a search, by its key, with what it sets in the setting of these values; None: no Hyper number."""
    found: dict[str, Span | None] = {}
    chosen = chosen_of(values)
    for one in record.dimensions:
        if one.range is None:
            continue
        ends = [record.configure([*chosen, (one.keys[0], end)]) for end in (one.range.low, one.range.high)]
        low, high = map(hyper_of, ends)
        names = tuple(name for name in low if low[name] != high[name])
        alike = names and static_key(ends[0]) == static_key(ends[1])
        inside = replace(one.range, low=low[names[0]], high=high[names[0]]) if alike else None
        found[one.name] = None if inside is None else Span(names, inside)
    return found


def boundaries(config: Config, interval: int | None) -> list[int]:
    """The timesteps at which members are compared, `interval` or a twentieth of the length apart; the last is it."""
    rollouts, updates = config.agent.rollouts, config.updates
    each = max(1, round((interval or config.length / 20) / rollouts))
    return [update * rollouts for update in range(each, updates, each)] + [config.length]


class Pbt:
    """The scheduler of a population; what it decides are events of the ledger."""

    def __init__(self, trials: Sequence[Trial], score: Score, interval: int | None, rules: Rules) -> None:
        """Nothing yet; boundaries are `interval` timesteps apart, None for a twentieth of the length."""
        self._boundaries = boundaries(trials[0].config, interval)
        self._trials, self._score, self._rules = list(trials), score, rules
        self._legs: list[Leg] | None = None
        """Those of the round that have not begun; None before they are formed."""

    def next(self, desk: Desk) -> Leg | None:
        """The next leg of a round, or of the one after where all have got to the boundary."""
        while True:
            if self._legs:
                return self._legs.pop(0)
            with reading(desk.directory) as ledger:
                states, agents = ledger.states(), ledger.last_agents()
                rounds = [event for event in ledger.events() if event.kind == EXPLOIT]
                number = len(rounds)
                if number == len(self._boundaries):
                    return None
                until = self._boundaries[number]
                live = [trial for trial in self._trials if states[trial.id] not in LOST_STATES]
                left = [trial for trial in live if agents.get(trial.id, 0) < until]
                scores = {} if left else {t.id: self._score(ledger, [t.id], until) for t in self._trials}
            if not left:
                desk.write("add_events", [(EXPLOIT, str(number), self._decided(scores, rounds, until))])
                self._legs = None
            elif self._legs is None:
                self._legs = self._formed(left, agents, rounds, until, desk.workers)
            else:
                return None

    def _decided(self, scores: Mapping[str, float], rounds: Sequence[Event], until: int) -> dict[str, Any]:
        """The event of a boundary: who copies whom, among members of equal Static signature."""
        hypers = self._hypers(rounds)
        copies = {}
        last = until == self._boundaries[-1]  # after which nothing is trained
        for group in grouped(self._trials, lambda trial: static_key(trial.config)).values() if not last else ():
            names = [trial.id for trial in group]
            values = [scores[name] if math.isfinite(scores[name]) else -math.inf for name in names]
            sources, changed = exploit(values, [hypers[name] for name in names], self._rules, len(rounds))
            for name, source, numbers in zip(names, sources, changed, strict=True):
                # A trial that failed or diverged is over: its place stays empty.
                if names[source] != name and math.isfinite(scores[name]):
                    rate = numbers["learning_rate"] / hypers[names[source]]["learning_rate"]
                    copies[name] = {"source": names[source], "hyper": numbers, "rate": rate}
        shown = {name: score if math.isfinite(score) else None for name, score in scores.items()}
        return {"timestep": until, "scores": shown, "copies": copies}

    def _hypers(self, rounds: Sequence[Event]) -> dict[str, Numbers]:
        """The Hyper numbers of every trial after these boundaries."""
        found = {trial.id: hyper_of(trial.config) for trial in self._trials}
        for event in rounds:
            found |= {name: copy["hyper"] for name, copy in event.data["copies"].items()}
        return found

    def _formed(
        self, left: Sequence[Trial], agents: Mapping[str, int], rounds: Sequence[Event], until: int, workers: int
    ) -> list[Leg]:
        """Packs of what has to get to a boundary, shared out among workers, and the copies with which they begin."""
        last: dict[str, Any] = rounds[-1].data if rounds else {"timestep": 0, "copies": {}}
        copies = {name: Copy(timestep=last["timestep"], **copy) for name, copy in last["copies"].items()}
        legs = []
        for pack in grouped(left, lambda trial: (static_key(trial.config), agents.get(trial.id, 0))).values():
            count = max(min(workers, len(pack)), math.ceil(len(pack) / LARGEST_PACK))
            parts = evenly(pack, count)
            legs += [Leg(part, until, {t.id: copies[t.id] for t in part if t.id in copies}) for part in parts]
        return legs

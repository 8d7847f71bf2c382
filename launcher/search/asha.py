"""Asynchronous successive halving: which settings train now, and up to which rung.

A setting trains with all its seeds, from rung to rung, and waits in between with its checkpoints. Whenever a worker is
free it takes the settings that are among the best of a rung, of those that have reached it so far, else new ones.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from launcher.ledger.ledger import reading
from launcher.ledger.reader import Reader
from launcher.ledger.rows import LOST_STATES, OVER_STATES, Event
from launcher.parts import evenly, grouped
from launcher.plan.experiment import LARGEST_PACK, Trial
from launcher.search.scheduler import Desk, Leg
from runner.config import Config
from runner.training.pack import static_key

Score = Callable[[Reader, Sequence[str], int], float]
"""The score of the setting that has these trials at a timestep; whatever is not finite is the worst."""

UNSCORED = -sys.float_info.max
"""The score of a setting that has none yet, since no episode of it has ended: below all others, but it may go on."""
BEGIN, SCORE = "begin", "score"
"""Kinds of events: a setting begins to train to a rung; it has got there, or is lost, and has a score."""


def rungs_of(config: Config, reduction: int, rungs: int) -> tuple[int, ...]:
    """The timesteps of a configuration's rungs, whole updates; the last is its length."""
    parts = (config.updates / reduction**below for below in reversed(range(rungs)))
    return tuple(max(1, round(part)) * config.agent.rollouts for part in parts)


@dataclass
class Bracket:
    """The rungs as events have made them: setting → score, in order of arrival, and who has begun each."""

    rungs: int
    begun: list[dict[str, None]] = field(init=False)
    scores: list[dict[str, float]] = field(init=False)

    def __post_init__(self) -> None:
        self.begun = [{} for _ in range(self.rungs)]
        self.scores = [{} for _ in range(self.rungs)]

    @classmethod
    def of(cls, events: Iterable[Event], rungs: int) -> Bracket:
        """The bracket after these events, of which those of other kinds say nothing about it."""
        bracket = cls(rungs)
        for event in events:
            if event.kind == BEGIN:
                bracket.begun[event.data["rung"]][event.data["setting"]] = None
            elif event.kind == SCORE:
                score = event.data["score"]
                bracket.scores[event.data["rung"]][event.data["setting"]] = -math.inf if score is None else score
        return bracket

    def in_flight(self) -> list[tuple[str, int]]:
        """Settings that have begun a rung and have no score there, with the rung, in the order in which they began."""
        return [
            (name, rung) for rung, names in enumerate(self.begun) for name in names if name not in self.scores[rung]
        ]

    def promotable(self, rung: int, reduction: int) -> list[str]:
        """Settings that may go on from a rung, the best first: of equal ones the one that came first."""
        quota = len(self.scores[rung]) // reduction
        return [name for name in self._ranked(rung)[:quota] if name not in self.begun[rung + 1]]

    def last_hope(self) -> tuple[str, int] | None:
        """The setting that goes on where nothing else does, with its rung: the best of the highest that has any left.

        So there is a winner of the whole length, however few settings there are, and whatever fails on the way.
        """
        for rung in reversed(range(self.rungs)):
            ranked = self._ranked(rung)
            if rung == self.rungs - 1:
                if ranked:
                    return None
                continue
            left = [name for name in ranked if name not in self.begun[rung + 1]]
            if left:
                return left[0], rung
        return None

    def _ranked(self, rung: int) -> list[str]:
        """Settings with a finite score, the best first; those that failed or diverged go no further."""
        scores = self.scores[rung]
        return sorted((name for name in scores if math.isfinite(scores[name])), key=lambda name: -scores[name])


def decide(
    bracket: Bracket, signatures: Mapping[str, str], reduction: int, most: int, workers: int
) -> tuple[list[str], int] | None:
    """The settings to train next and their rung; None while there are none.

    Args:
        bracket: as it is now.
        signatures: setting → what must be equal for settings to share a pack, in the order in which they are tried.
        reduction: one in so many is promoted.
        most: settings in a pack.
        workers: among which new settings are shared out.
    """

    def alike(names: Sequence[str]) -> list[str]:
        """The first one, and all that can share its pack."""
        return [name for name in names if signatures[name] == signatures[names[0]]]

    for rung in reversed(range(bracket.rungs - 1)):
        if names := bracket.promotable(rung, reduction):
            return alike(names)[:most], rung + 1
    if names := alike([name for name in signatures if name not in bracket.begun[0]]):
        # A share of all, not of what is left: packs of one size need one program.
        share = math.ceil(len([name for name in signatures if signatures[name] == signatures[names[0]]]) / workers)
        return names[: min(most, share)], 0
    if not bracket.in_flight() and (hope := bracket.last_hope()) is not None:
        return [hope[0]], hope[1] + 1
    return None


class Asha:
    """The scheduler of a search by successive halving; what it decides and sees are events of the ledger."""

    def __init__(self, settings: Mapping[str, Sequence[Trial]], score: Score, reduction: int, rungs: int) -> None:
        """Nothing yet; `settings` in the order in which they are tried, each with its seeds."""
        configs = {name: trials[0].config for name, trials in settings.items()}
        self._settings, self._score, self._reduction, self._rungs = settings, score, reduction, rungs
        self._timesteps = {name: rungs_of(config, reduction, rungs) for name, config in configs.items()}
        self._signatures = {name: static_key(config) for name, config in configs.items()}
        self._unfinished: list[Leg] | None = None
        """What an earlier launch has begun and not ended; None before it was looked for."""

    def next(self, desk: Desk) -> Leg | None:
        """The next leg: one that was interrupted, or settings of a rung."""
        most = max(1, LARGEST_PACK // max(map(len, self._settings.values())))
        while True:
            with reading(desk.directory) as ledger:
                states, agents = ledger.states(), ledger.last_agents()
                bracket = Bracket.of(ledger.events(), self._rungs)
                arrived = self._arrived(ledger, bracket, states, agents)
            if arrived:
                desk.write("add_events", arrived)
                continue
            if self._unfinished is None:
                self._unfinished = self._interrupted(bracket, states, agents)
            if self._unfinished:
                return self._unfinished.pop(0)
            decided = decide(bracket, self._signatures, self._reduction, most, desk.workers)
            if decided is None:
                return None
            names, rung = decided
            desk.write("add_events", [_event(BEGIN, name, rung) for name in names])
            # Of a short training two rungs may be the same update: then they are there already.
            if pack := [trial for name in names for trial in self._left(name, rung, states, agents)]:
                return Leg(pack, self._timesteps[names[0]][rung])

    def _arrived(
        self, ledger: Reader, bracket: Bracket, states: Mapping[str, str], agents: Mapping[str, int]
    ) -> list[tuple[str, str, dict[str, object]]]:
        """The scores of settings that have got to their rung, or cannot any more."""
        events = []
        for name, rung in bracket.in_flight():
            if not self._left(name, rung, states, agents):
                seeds = [trial.id for trial in self._settings[name]]
                score = self._score(ledger, seeds, self._timesteps[name][rung])
                if not math.isfinite(score) and not any(states[seed] in LOST_STATES for seed in seeds):
                    score = UNSCORED
                events.append(_event(SCORE, name, rung, score=score if math.isfinite(score) else None))
        return events

    def _left(self, name: str, rung: int, states: Mapping[str, str], agents: Mapping[str, int]) -> list[Trial]:
        """The trials of a setting that have not got to a rung, and still can."""
        until = self._timesteps[name][rung]
        return [
            trial
            for trial in self._settings[name]
            if states[trial.id] not in OVER_STATES and (states[trial.id] != "paused" or agents[trial.id] < until)
        ]

    def _interrupted(self, bracket: Bracket, states: Mapping[str, str], agents: Mapping[str, int]) -> list[Leg]:
        """Legs of what is in flight and has no worker, in packs that can train together."""
        left = [(trial, rung) for name, rung in bracket.in_flight() for trial in self._left(name, rung, states, agents)]
        packs = grouped(left, lambda pair: (self._signatures[pair[0].name], pair[1], agents.get(pair[0].id, 0)))
        legs = []
        for (_, rung, _), pack in packs.items():
            until = self._timesteps[pack[0][0].name][rung]
            parts = evenly([trial for trial, _ in pack], math.ceil(len(pack) / LARGEST_PACK))
            legs += [Leg(part, until) for part in parts]
        return legs


def _event(kind: str, name: str, rung: int, **data: float | None) -> tuple[str, str, dict[str, object]]:
    return kind, f"{name}@{rung}", {"setting": name, "rung": rung, **data}

"""Decisions on packs and their trials while they train: who trains together, whose order holds, what is tried
again. Only bookkeeping: no Ray, no ledger.

A death cannot be blamed on one member of a pack. So a pack that dies again where it died before is halved, until
the trial that takes its mates with it is alone; one for which there is no memory is halved at once. Where an
environment says whose it is, it goes on alone at once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from launcher.ledger.rows import Order
from launcher.parts import evenly, grouped
from launcher.plan.experiment import Trial

DEATHS_OF_A_PACK = 2
"""At one checkpoint, until it is halved."""
DEATHS_OF_A_TRIAL = 4
"""At one checkpoint, the last of them alone, until it has failed."""
WAITS = (1.0, 4.0, 15.0)
"""Seconds before a further attempt, after the first, the second and every later death at one checkpoint.

After the loss of a machine it is the first of them."""


def obeyed(before: Order, new: Order) -> Order:
    """The one of two orders that holds: none is taken back, by an aggregator that was started again either."""
    ranks: tuple[Order, ...] = ("go", "stop", "lost")
    return max(before, new, key=ranks.index)


def leaves(orders: Mapping[str, Order], over: Collection[str]) -> bool:
    """A worker stops training its pack: no trial that is not over is to go on."""
    return not any(order == "go" for trial, order in orders.items() if trial not in over)


def together(pack: Sequence[Trial], begins: Mapping[str, int]) -> list[list[Trial]]:
    """The trials that can train as one pack: those that begin at one timestep.

    Where a damaged checkpoint fell back to an earlier one, the members are no longer at the same.
    """
    return list(grouped(pack, lambda trial: begins[trial.id]).values())


@dataclass(frozen=True)
class Failure:
    """The early end of an attempt.

    Attributes:
        kind: `crash`, the process died or hung; `error`, a Python exception; `refused`, a `UserError`, which the next
            attempt would end with as well; `node`, its machine was lost or taken away.
        words: for people, in one paragraph.
        trial: the one whose fault it is, where that is known.
        too_large: there was no memory for the pack, in the process or on its GPU.
    """

    kind: Literal["crash", "error", "refused", "node"]
    words: str
    trial: str | None = None
    too_large: bool = False


@dataclass(frozen=True)
class Decision:
    """The further course of trials whose attempt ended early: packs to try again, after a wait; who is given up."""

    packs: tuple[list[Trial], ...] = ()
    wait: float = 0.0
    failed: tuple[Trial, ...] = ()


class FailurePolicy:
    """Counts the deaths of each trial since it last got to a further checkpoint."""

    def __init__(self) -> None:
        self._began: dict[str, int] = {}
        self._deaths: dict[str, int] = {}
        self._errors: dict[str, str] = {}

    def opened(self, began: Mapping[str, int]) -> None:
        """An attempt begins: trial → timestep of the checkpoint that it goes on from, or 0."""
        for trial, timestep in began.items():
            if timestep > self._began.get(trial, timestep):
                self._deaths.pop(trial, None)
                self._errors.pop(trial, None)
            self._began[trial] = timestep

    def decide(self, trials: Sequence[Trial], failure: Failure) -> Decision:
        """The attempt at a pack has failed; `trials` are those of it that are neither finished nor diverged."""
        again = list(trials)
        if not again:
            return Decision()
        if failure.kind == "node":
            return Decision((again,), WAITS[0])
        if failure.too_large and len(again) > 1:
            return Decision(tuple(evenly(again, 2)), WAITS[0])
        mates = [trial for trial in again if trial.id != failure.trial]
        if 0 < len(mates) < len(again):
            alone = self.decide([trial for trial in again if trial.id == failure.trial], failure)
            return replace(alone, packs=(mates, *alone.packs))
        # The same Python exception at the same place would come a third time.
        repeated = failure.kind == "error" and all(self._errors.get(trial.id) == failure.words for trial in again)
        if failure.kind == "refused" or repeated:
            return Decision(failed=tuple(again))
        for trial in again:
            self._deaths[trial.id] = self._deaths.get(trial.id, 0) + 1
            self._errors[trial.id] = failure.words
        deaths = max(self._deaths[trial.id] for trial in again)
        wait = WAITS[min(deaths, len(WAITS)) - 1]
        if len(again) > 1 and deaths >= DEATHS_OF_A_PACK:
            return Decision(tuple(evenly(again, 2)), wait)
        if len(again) == 1 and deaths >= DEATHS_OF_A_TRIAL:
            return Decision(failed=tuple(again))
        return Decision((again,), wait)

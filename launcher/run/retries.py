"""What becomes of trials whose attempt ended early: tried again, in smaller packs, or given up.

A death cannot be blamed on one member of a pack, but where an environment says whose it is: then only that trial counts
it, and goes on alone. So a pack that dies again where it died before is halved, until
the trial that takes its mates with it is alone. Only bookkeeping: no Ray, no ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from launcher.plan.experiment import Trial

DEATHS_OF_A_PACK = 2
"""At one checkpoint, until it is halved."""
DEATHS_OF_A_TRIAL = 4
"""At one checkpoint, the last of them alone, until it has failed."""
WAITS = (1.0, 4.0, 15.0)
"""Seconds before a further attempt, after the first, the second and every later death at one checkpoint.

After the loss of a machine it is the first of them."""


@dataclass(frozen=True)
class Ending:
    """How an attempt ended early.

    Attributes:
        kind: `crash`, the process died or hung; `error`, a Python exception; `refused`, a `UserError`, which the next
            attempt would end with as well; `node`, its machine was lost or taken away.
        words: for people, in one paragraph.
        trial: the one whose fault it is, where that is known.
    """

    kind: Literal["crash", "error", "refused", "node"]
    words: str
    trial: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What to do with the trials of an attempt that ended early.

    Attributes:
        packs: to try again.
        wait: seconds before that.
        failed: the trials that are given up.
    """

    packs: tuple[list[Trial], ...] = ()
    wait: float = 0.0
    failed: tuple[Trial, ...] = ()


class Retries:
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

    def after(self, trials: Sequence[Trial], ending: Ending) -> Verdict:
        """The attempt at a pack has ended; `trials` are those of it that are neither finished nor diverged."""
        again = list(trials)
        if not again:
            return Verdict()
        if ending.kind == "node":
            return Verdict((again,), WAITS[0])
        mates = [trial for trial in again if trial.id != ending.trial]
        if 0 < len(mates) < len(again):
            alone = self.after([trial for trial in again if trial.id == ending.trial], ending)
            return replace(alone, packs=(mates, *alone.packs))
        if ending.kind == "refused" or self._repeats(again, ending):
            return Verdict(failed=tuple(again))
        for trial in again:
            self._deaths[trial.id] = self._deaths.get(trial.id, 0) + 1
            self._errors[trial.id] = ending.words
        deaths = max(self._deaths[trial.id] for trial in again)
        wait = WAITS[min(deaths, len(WAITS)) - 1]
        if len(again) > 1 and deaths >= DEATHS_OF_A_PACK:
            half = (len(again) + 1) // 2
            return Verdict((again[:half], again[half:]), wait)
        if len(again) == 1 and deaths >= DEATHS_OF_A_TRIAL:
            return Verdict(failed=tuple(again))
        return Verdict((again,), wait)

    def _repeats(self, trials: Sequence[Trial], ending: Ending) -> bool:
        """Whether the same Python exception has ended the attempt before, at the same place."""
        return ending.kind == "error" and all(self._errors.get(trial.id) == ending.words for trial in trials)

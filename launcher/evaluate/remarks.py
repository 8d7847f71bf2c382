"""Remarks on statistics of evaluations that are not of finished trainings of one length alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from launcher.ledger.rows import LOST_STATES, State
from launcher.watch.tables import count


def remark(states: Mapping[str, State], timesteps: Mapping[str, int]) -> str:
    """Words on the seeds of one configuration; none where there is nothing to say.

    Args:
        states: of all its trials.
        timesteps: of the checkpoint of each trial that counts.
    """
    seeds = count(len(states), "seed")
    counted = (states[trial] for trial in timesteps if states[trial] != "finished")
    kinds = Counter(state if state in LOST_STATES else "unfinished" for state in counted)
    notes = []
    if words := ", ".join(f"{number:,} {kind}" for kind, number in kinds.items()):
        notes.append(f"counted too: {words} of {seeds}")
    if missing := len(states) - len(timesteps):
        notes.append(f"not counted: {missing:,} of {seeds} without an evaluated checkpoint")
    if len(reached := sorted({*timesteps.values()})) > 1:
        notes.append(f"checkpoints of timesteps {reached[0]:,} to {reached[-1]:,}")
    return "; ".join(notes)

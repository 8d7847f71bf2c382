"""What is decided of packs and their trials while they train, beside retries. Pure: no Ray, no ledger."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from launcher.ledger.rows import Order
from launcher.plan.experiment import Trial


def obeyed(before: Order, new: Order) -> Order:
    """Of two orders the one that holds: none is taken back, by an aggregator that was started again either."""
    ranks: tuple[Order, ...] = ("go", "stop", "lost")
    return max(before, new, key=ranks.index)


def leaves(orders: Mapping[str, Order], over: Collection[str]) -> bool:
    """Whether a worker stops training its pack: no trial that is not over is to go on."""
    return not any(order == "go" for trial, order in orders.items() if trial not in over)


def together(pack: Sequence[Trial], begins: Mapping[str, int]) -> list[list[Trial]]:
    """The trials that can train as one pack: those that begin at one timestep.

    Where a damaged checkpoint fell back to an earlier one, the members are no longer at the same.
    """
    groups: dict[int, list[Trial]] = {}
    for trial in pack:
        groups.setdefault(begins[trial.id], []).append(trial)
    return list(groups.values())

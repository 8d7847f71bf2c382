"""Trials of two configurations, their records, and event files read back."""

from __future__ import annotations

from pathlib import Path

from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator
from tensorboard.util import tensor_util

from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, Published, TrialRow
from runner.training.tracking import Record

Points = list[tuple[int, float]]
TRIALS = [TrialRow(f"a-{seed}", "a", seed, 4, 1000) for seed in range(4)] + [TrialRow("b-0", "b", 0, 4, 1000)]
TAG = "Reward / Total reward (mean)"


def read_scalars(folder: Path, tag: str) -> Points:
    """As tools do that read event files directly."""
    run = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [(event.step, event.value) for event in run.Scalars(tag)]


def read_as_server(folder: Path, tag: str) -> Points:
    """As `tensorboard --logdir` does."""
    run = plugin_event_accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [(event.step, tensor_util.make_ndarray(event.tensor_proto).item()) for event in run.Tensors(tag)]


def push(ledger: Ledger, attempt: int, trial: str, first: int, values: list[float], every: int = 10) -> None:
    batch = [
        Record(i, every * (i + 1), 4 * every * (i + 1), 1.0, {TAG: v, "index": i}) for i, v in enumerate(values, first)
    ]
    assert ledger.push(attempt, {trial: Batch(first, batch)}) == {trial: first + len(values)}


def opened(ledger: Ledger, *trials: str) -> int:
    return ledger.open(trials, f"token {len(ledger.attempts())}").number


def checkpoint(ledger: Ledger, attempt: int, trial: str, covered: int, state: str = "running") -> None:
    ledger.publish(attempt, {trial: Published(10 * covered, b"weights", "agent", covered, state)})


def steps(*points: float) -> Points:
    """The points with x = 40, 80, …"""
    return [(40 * i, value) for i, value in enumerate(points, 1)]

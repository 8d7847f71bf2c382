"""Launch directories as trained ones leave them, made in a moment: for tests and measurements of the report."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from launcher.ledger import evaluations
from launcher.ledger.evaluations import Evaluation
from launcher.ledger.ledger import Ledger
from launcher.ledger.rows import Batch, Published
from launcher.plan import directory
from launcher.plan.experiment import Placement, Trial
from launcher.plan.revision import revision as revision_of
from runner.training.tracking import RETURN_MEAN, SCORE, STEPS_PER_SECOND, Record
from tests.launcher.builders import read_experiment
from tests.launcher.refusals import CARTPOLE

BEGAN = 1_790_000_000.0
START_UP = 8.0
EVIL = "</script><script>alert(1)</script>"
"""What no page may run."""
SETTINGS = '{"deterministic": true, "env": {"id": "CartPole-v1"}, "episodes": 20, "seed": 0}'
MORE = tuple(f"Loss / Number {i}" for i in range(16))
"""Tags that make records as wide as those of real ones."""
Fate = str


def build(
    path: Path,
    settings: Sequence[str] = (),
    seeds: int = 4,
    points: int = 20,
    fates: Mapping[tuple[int, int], Fate] | None = None,
    tags: Sequence[str] = (),
    log: str = "training\n",
    zips: Sequence[Sequence[str]] = (),
) -> list[Trial]:
    """A launch of CartPole, one attempt for each configuration.

    Args:
        path: of the directory.
        settings: after `--set`; alternatives make configurations, of which each is better than the one before.
        seeds: of each configuration.
        points: records of a trial that finishes.
        fates: (configuration, seed) → `failed`, `diverged`, `running` or `pending`; the others finish.
        tags: of every record, besides the usual.
        log: what each attempt's log says.
        zips: groups after `--zip`.
    """
    trials = list(read_experiment([CARTPOLE], settings, {}, str(seeds), zips or None).trials)
    directory.create(path, trials)
    command = f"launch configs/classic/cartpole.yaml --seeds {seeds}" + "".join(f" --set {text}" for text in settings)
    directory.add_revision(path, revision_of(command, Placement(2, 0, 1), [trials]) | {"time": BEGAN})
    (path / "logs").mkdir()
    names = list(dict.fromkeys(trial.name for trial in trials))
    with Ledger(path) as ledger:
        for index, name in enumerate(names):
            group = [trial for trial in trials if trial.name == name]
            of_group = {place: fate for (at, place), fate in (fates or {}).items() if at == index}
            _train(ledger, index, len(names), group, points, of_group, tags)
            (path / "logs" / f"attempt-{index + 1}.log").write_text(log)
    _set_times(path)
    return trials


def _train(
    ledger: Ledger,
    index: int,
    configurations: int,
    group: Sequence[Trial],
    points: int,
    fates: Mapping[int, Fate],
    tags: Sequence[str],
) -> None:
    begun = [trial.id for place, trial in enumerate(group) if fates.get(place) != "pending"]
    attempt = ledger.open(begun, f"token {index}").number
    ledger.describe_attempt(attempt, f"logs/attempt-{attempt}.log", "host", 1)
    for place, trial in enumerate(group):
        fate = fates.get(place, "finished")
        if fate == "pending":
            continue
        count = points if fate == "finished" else max(points // 2, 1)
        batch = _records(trial, np.random.default_rng([index, place]), (index + 1) / configurations, points, tags)
        assert ledger.push(attempt, {trial.id: Batch(0, batch[:count])}, "training") == {trial.id: count}
        state = fate if fate in ("finished", "diverged") else "running"
        ledger.publish(attempt, {trial.id: Published(count, b"weights", "agent", count, state)})  # type: ignore[arg-type]
    if "running" not in fates.values():
        lost = [group[place].id for place, fate in fates.items() if fate == "failed"]
        ledger.close(attempt, "crash" if lost else "finished", "worker died" if lost else None)
        ledger.fail(lost, f"out of memory {EVIL}")


def _records(trial: Trial, rng: np.random.Generator, height: float, points: int, tags: Sequence[str]) -> list[Record]:
    steps = trial.config.env_steps // (trial.config.env.num_envs or 1) // points
    shares = np.linspace(0, 1, points)
    level = height * 400 + rng.normal(0, 25)
    returns = 20 + level * (1 - np.exp(-5 * shares)) + rng.normal(0, 6, points)
    returns[0] = math.nan  # no episode has ended yet
    others = rng.normal(size=(points, len(tags))).cumsum(axis=0)
    envs = trial.config.env.num_envs or 1
    return [
        Record(
            i,
            steps * (i + 1),
            steps * (i + 1) * envs,
            0.05 * (i + 1),
            {SCORE: returns[i], RETURN_MEAN: returns[i] + 3, STEPS_PER_SECOND: steps * envs / 0.05}
            | dict(zip(tags, others[i].tolist(), strict=True)),
        )
        for i in range(points)
    ]


def _set_times(path: Path) -> None:
    """As if each attempt had begun half a second after the one before, on a machine that takes its time."""
    begin = f"{BEGAN} + number / 2.0"
    with contextlib.closing(sqlite3.connect(path / "ledger.sqlite")) as db, db:
        stored = f"(SELECT {begin} + {START_UP} FROM attempts WHERE number = attempt) + seconds"
        db.execute(f"UPDATE records SET wall_time = {stored}")
        last = "(SELECT MAX(wall_time) FROM records WHERE attempt = number)"
        closed = f"CASE WHEN closed_at IS NULL THEN NULL ELSE {last} + 1 END"
        db.execute(f"UPDATE attempts SET opened_at = {begin}, closed_at = {closed}")


def evaluate(path: Path, trials: Sequence[Trial], episodes: int = 20, timestep: int = 1000) -> None:
    """Evaluate a checkpoint of each trial."""
    rng = np.random.default_rng(0)
    evaluations.add(
        path,
        [
            Evaluation(
                f"digest {trial.id} {timestep}",
                SETTINGS,
                trial.id,
                timestep,
                tuple(rng.normal(300, 40, episodes).tolist()),
                tuple(range(1, episodes + 1)),
                tuple(range(episodes)),
                BEGAN,
            )
            for trial in trials
        ],
    )

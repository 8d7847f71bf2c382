"""A population beside what else as many env steps could train: subpopulations, a random search, seeds of one setting.

Each repetition trains 16 members. The one that is the best by its own evaluations is chosen, and played on other
episodes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from launcher import stats
from launcher.ledger import evaluations
from launcher.ledger.ledger import reading
from launcher.ledger.rows import OVER_STATES
from launcher.search.score import value_at

FILE = Path(__file__).with_suffix(".yaml")
MEMBERS = 16
SPACE = {
    "agent.learning_rate": "log:1e-5..1e-2",
    "agent.ratio_clip": "uniform:0.05..0.5",
    "agent.gae_lambda": "uniform:0.8..0.999",
    "agent.entropy_loss_scale": "uniform:0..0.1",
}
ONE = {"agent.learning_rate": "log:2.999e-4..3.001e-4"}
"""The file's own setting, but for what distinguishes members of a population."""
POPULATION = {"population": MEMBERS, "interval": 640}
ARMS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "pbt": ({"method": "pbt", "pbt": POPULATION}, SPACE),
    "frequencies": ({"method": "pbt", "pbt": {**POPULATION, "frequencies": [1, 2, 5, 10]}}, SPACE),
    "random": ({"method": "random", "trials": MEMBERS, "seeds": 1}, SPACE),
    "selection": ({"method": "pbt", "pbt": {**POPULATION, "perturbation": 1.0}}, ONE),
    "nothing": ({"method": "random", "trials": 1, "seeds": MEMBERS}, ONE),
}
"""Their search and space: a population; four subpopulations with frequencies of their own; as many settings without
copies; seeds of one setting that copy each other; and seeds that do not."""
POPULATIONS = ("pbt", "frequencies")
"""What is compared with all others."""


def train(out: Path, repetitions: int, words: Sequence[str]) -> None:
    """Train and evaluate what is not there yet, two launches at a time, with these words for `launch`."""
    out.mkdir(parents=True, exist_ok=True)
    everything = [(arm, repetition) for repetition in range(repetitions) for arm in ARMS]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: _train(out, *one, words), everything))


def _train(out: Path, arm: str, repetition: int, words: Sequence[str]) -> None:
    directory, (search, sweep) = out / f"{arm}-{repetition}", ARMS[arm]
    section = {"metric": "evaluation", "confirm": 0, "seed": repetition, **search}
    data = {"search": section, "sweep": sweep, **yaml.safe_load(FILE.read_text()), "seed": 1000 * repetition}
    file = out / f"{directory.name}.yaml"
    file.write_text(yaml.safe_dump(data, sort_keys=False))
    if not directory.exists():
        _launch([str(file), *words, "--workers", "1", "--out", str(out), "--name", directory.name])
    elif not _over(directory):
        _launch(["resume", str(directory), "--workers", "1"])
    if not evaluations.read(directory):
        _launch(["eval", str(directory), "--episodes", "50", "--seed", "1", "--workers", "1"])


def _launch(words: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "launcher", *words], check=True)


def _over(directory: Path) -> bool:
    with reading(directory) as ledger:
        return set(ledger.states().values()) <= {*OVER_STATES}


def chosen(directory: Path) -> float:
    """The mean return on other episodes of the member that is the best by its last evaluation while it trained."""
    with reading(directory) as ledger:
        scores = {row.id: value_at(ledger, row, "evaluation") for row in ledger.trials()}
    best = max(scores, key=lambda trial: -np.inf if scores[trial] is None else scores[trial])
    return next(fmean(one.returns) for one in evaluations.read(directory) if one.trial == best)


def table(out: Path) -> None:
    """Print what each arm came to, and how probably populations beat it."""
    everything = {
        arm: [chosen(path) for path in sorted(out.glob(f"{arm}-*")) if path.is_dir() and evaluations.read(path)]
        for arm in ARMS
    }
    found = {arm: returns for arm, returns in everything.items() if returns}
    for arm, returns in found.items():
        low, high = stats.bootstrap_interval(returns, np.mean) or (np.nan, np.nan)
        each = ", ".join(f"{one:.0f}" for one in sorted(returns))
        print(f"{arm}: mean of {len(returns)}: {fmean(returns):.1f} [{low:.1f}, {high:.1f}], of {each}")
    for arm in POPULATIONS:
        for other in found:
            if arm in found and arm != other:
                better = stats.probability_of_improvement(found[arm], found[other])
                low, high = stats.improvement_interval(found[arm], found[other]) or (np.nan, np.nan)
                print(f"{arm} is better than {other} with {better:.2f} [{low:.2f}, {high:.2f}]")

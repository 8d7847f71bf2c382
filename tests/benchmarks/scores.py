"""The scores of presets, from launch directories in which `launch eval` has let their last checkpoints play:

    launch CartPole-v1 Hopper-v4 --seeds 8 --name measured && launch eval runs/measured --episodes 100
    python -m tests.benchmarks.scores runs/measured

adds to configs/scores.json, and replaces what was there of the same presets; docs/presets.md and `launch presets` are
made from it. A launch of anything else than a preset as it is now is refused.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launcher import stats
from launcher.ledger import evaluations
from launcher.ledger.configurations import settings_of, text_of
from launcher.ledger.ledger import reading
from launcher.ledger.rows import Progress, TrialRow
from launcher.plan.experiment import Trial
from launcher.presets.index import Preset, presets
from launcher.presets.scores import SCORES
from launcher.watch import standing
from launcher.watch.layout import by_configuration
from launcher.watch.standing import Standing
from runner.envs.task import task
from runner.errors import UserError
from runner.training.evaluate import play
from tests.launcher.builders import read_experiment

EPISODES = 100


def trial_now(preset: Preset) -> Trial:
    """The trial that a preset's file makes today."""
    (trial,) = read_experiment([preset.path], [], {}, None).trials
    return trial


def stochastic(preset: Preset) -> bool:
    """Atari's games always begin alike, so that the most probable actions would play one episode over and over; those
    of Jumanji's Snake lead round in circles, which no rule ends.
    """
    return preset.family in ("atari", "jumanji")


def rows(directory: Path, only: Sequence[str] = ()) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and score of each preset of a launch, or only of those named."""
    launch = standing.read(directory)
    for found in by_configuration(launch.rows):
        preset = _preset(found[0].trial)
        if only and (preset is None or preset.name not in only):
            continue
        if preset is None:
            named = ", ".join(preset.name for preset in presets())
            raise UserError(f"{directory}: {found[0].trial.config} is no preset; there are {named}")
        _refuse_another(directory, found, trial_now(preset))
        yield preset.name, _row(launch, found, preset)


def _preset(trial: TrialRow) -> Preset | None:
    """The preset of this name, or one that trains the same under another."""
    named = next((preset for preset in presets() if preset.name == trial.config), None)
    return named or next((preset for preset in presets() if _digest(trial_now(preset).id) == _digest(trial.id)), None)


def _digest(trial: str) -> str:
    """The part of a trial's id that says what is trained."""
    return trial.rpartition("_")[2]


def _refuse_another(directory: Path, found: Sequence[Progress], now: Trial) -> None:
    """Refuse a configuration or a length that is not the preset's."""
    first = found[0].trial
    if _digest(first.id) != _digest(now.id) or {row.env_steps_total for row in found} != {now.config.env_steps}:
        with reading(directory) as ledger:
            (text,) = ledger.configurations([first.id]).values()
        before, after = settings_of(text), settings_of(text_of(now.config))
        other = {key: f"{before.get(key)} → {after.get(key)}" for key in before | after}
        changed = [f"{key}: {both}" for key, both in other.items() if before.get(key) != after.get(key)]
        raise UserError(f"{directory}: {first.config} is not the preset as it is now: {'; '.join(changed)}")


def _row(launch: Standing, found: Sequence[Progress], preset: Preset) -> dict[str, Any]:
    left = [row.trial.id for row in found if row.trial.state not in ("finished", "diverged")]
    if left:
        raise UserError(f"{launch.directory}: {', '.join(left)}: not finished")
    ended = [row for row in found if row.trial.state == "finished"]
    played = {
        one.trial: (settings, one.returns)
        for one in evaluations.read(launch.directory)
        for settings in [json.loads(one.settings)]
        if (one.timestep, settings["episodes"]) == (launch.agents[one.trial], EPISODES)
        and settings["deterministic"] is not stochastic(preset)
        and settings["env"].get("id") == preset.task
    }
    missing = [row.trial.id for row in ended if row.trial.id not in played]
    if missing:
        how = f"--episodes {EPISODES}{' --stochastic' if stochastic(preset) else ''}"
        raise UserError(f"{launch.directory}: {', '.join(missing)}: not evaluated; launch eval DIR {how}")
    attempts = {number for row in found for number in launch.attempts_of(row)}
    spans = [(one.opened_at, one.closed_at or one.opened_at) for one in map(launch.attempts.__getitem__, attempts)]
    return {
        "task": preset.task,
        "trial": trial_now(preset).id,
        "env_steps": found[0].env_steps_total,
        "seeds": [row.trial.seed for row in ended],
        "diverged": len(found) - len(ended),
        "training": _statistics([float(row.value or 0) for row in ended]),
        "evaluation": {
            "episodes": EPISODES,
            "stochastic": stochastic(preset),
            **_statistics([float(np.mean(played[row.trial.id][1])) for row in ended]),
        },
        "random": round(random_play(preset), 4),
        "seconds": round(covered(spans), 1),
        "machine": {name: value for name, value in launch.block("hardware").items() if name != "host"},
        "versions": launch.block("versions"),
        "commit": launch.revision.get("git_commit"),
    }


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """The time in which at least one of the spans is."""
    total, until = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(end - max(begin, until), 0)
        until = max(until, end)
    return total


def random_play(preset: Preset) -> float:
    """The mean return of episodes whose actions are drawn uniformly."""
    config = trial_now(preset).config
    env = task(config.env).of_each(EPISODES)
    env.action_space.seed(0)
    rng, mask = np.random.default_rng(0), env.layout.mask if env.padded else None

    def choose(carry: Any, observations: np.ndarray, draw: int) -> tuple[Any, np.ndarray]:
        if mask is not None:  # agents with fewer actions than others
            legal = observations[:, mask.start : mask.stop]
            return carry, (rng.random(legal.shape) * legal).argmax(1)
        return carry, np.stack([env.action_space.sample() for _ in observations])

    mean = config.agent.team_return
    episodes = play(lambda seeds: env.opened(seeds, 1), choose, [0], EPISODES, EPISODES, team_return=mean)
    return float(np.mean([episode.ret for episode in episodes]))


def _statistics(scores: list[float]) -> dict[str, Any]:
    interval = stats.bootstrap_interval(scores)
    return {
        "iqm": round(float(stats.interquartile_mean(scores)), 4),
        "interval": interval and [round(end, 4) for end in interval],
        "scores": [round(score, 4) for score in scores],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", metavar="DIR", nargs="+", type=Path)
    parser.add_argument("--only", metavar="NAME", action="append", default=[], help="a preset; several: again")
    arguments = parser.parse_args()
    measured = json.loads(SCORES.read_text())
    for directory in arguments.directories:
        measured.update(rows(directory, arguments.only))
    order = [preset.name for preset in presets() if preset.name in measured]
    SCORES.write_text(json.dumps({name: measured[name] for name in order}, indent=1) + "\n")


if __name__ == "__main__":
    main()

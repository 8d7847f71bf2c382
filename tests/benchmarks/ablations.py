"""What one number or option of a preset is worth: the preset with each of CHANGES, alone, over seeds.

    python -m tests.benchmarks.ablations files FOLDER acrobot=102_400 pendulum=100_000   # and lengths
    launch FOLDER/*.yaml --seeds 8 --name ablations
    python -m tests.benchmarks.ablations table runs/ablations >> docs/learning.md

The table has training returns. An asterisk is at a change whose seeds beat the preset's, or are beaten by them, so
often that the interval of the probability of improvement leaves out one half.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher import stats
from launcher.presets.index import required
from launcher.presets.scores import number
from launcher.watch import standing
from launcher.watch.layout import by_configuration
from runner.config.load import dump, read_yaml

CHANGES: Mapping[str, Mapping[str, Any]] = {
    "the preset": {},
    "Adam's ε 1e-8 ↔ 1e-5": {"adam_epsilon": "swap"},
    "values not normalised": {"value_preprocessor": None},
    "values not normalised, rewards a tenth": {"value_preprocessor": None, "rewards_shaper_scale": 0.1},
    "observations normalised ↔ not": {"observation_preprocessor": "swap"},
    "observation statistics absorbed after the update": {"observation_statistics": "frozen"},
    "advantages normalised over the rollout": {"advantage_normalization": "rollout"},
    "orthogonal initialisation ↔ torch's": {"initialization": "swap"},
    "constant learning rate": {"learning_rate_scheduler": None},
    "8 times the environments, rollouts an eighth as long": {"rollouts": "eighth"},
    "initial deviation of actions smaller by e": {"initial_log_std": "less"},
    "clip of ratios falling to a tenth in ten steps": {"changes": "falling"},
}
SWAPS: Mapping[str, Mapping[Any, Any]] = {
    "adam_epsilon": {1e-8: 1e-5, 1e-5: 1e-8},
    "observation_preprocessor": {None: "RunningStandardScaler", "RunningStandardScaler": None},
    "initialization": {"torch": "orthogonal", "orthogonal": "torch"},
}
DEFAULTS: Mapping[str, Any] = {"adam_epsilon": 1e-8, "observation_preprocessor": None, "initialization": "torch"}
BETWEEN = "--"
"""Between the name of a preset and the number of its change, in the name of a file."""


def changed(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as written, with a change of it: `swap` is the other of two."""
    new = copy.deepcopy(dict(config))
    agent, policy, trainer = new["agent"], new["models"]["policy"], new["trainer"]
    for key, value in change.items():
        section = {"initialization": new["models"], "initial_log_std": policy}.get(key, agent)
        if value == "eighth":
            agent["rollouts"] //= 8
            trainer["timesteps"] //= 8
            new["env"]["num_envs"] *= 8
        elif value == "falling":
            parts = [
                (trainer["timesteps"] * part // 10, agent["ratio_clip"] * (10 - part) / 10) for part in range(1, 10)
            ]
            agent["changes"] = [{"at": at, "ratio_clip": round(clip, 4)} for at, clip in parts]
        elif value == "less":
            section[key] = section.get(key, 0.0) - 1.0
        else:
            section[key] = SWAPS[key][section.get(key, DEFAULTS[key])] if value == "swap" else value
    return new


def applies(config: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    """A change has an effect on a configuration."""
    if "initial_log_std" in change:
        return "Gaussian" in config["models"]["policy"]["class"]
    return "observation_statistics" not in change or bool(config["agent"].get("observation_preprocessor"))


def write(folder: Path, lengths: Mapping[str, int]) -> None:
    """A file for each preset and change that there is of it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, env_steps in lengths.items():
        config, _ = read_yaml(required(name).path)
        rollout, envs = config["agent"]["rollouts"], config["env"]["num_envs"]
        config["trainer"]["timesteps"] = -(-env_steps // (rollout * envs)) * rollout
        for place, change in enumerate(CHANGES.values()):
            if applies(config, change):
                (folder / f"{name}{BETWEEN}{place}.yaml").write_text(dump(changed(config, change)))


def table(directories: list[Path]) -> Iterator[str]:
    """Lines of Markdown: a row for each change that was trained, a column for each preset."""
    returns: dict[str, dict[int, list[float]]] = {}
    lengths: dict[str, int] = {}
    for directory in directories:
        for found in by_configuration(standing.read(directory).rows):
            name, _, change = found[0].trial.config.rpartition(BETWEEN)
            if not applies(read_yaml(required(name).path)[0], list(CHANGES.values())[int(change)]):
                continue
            scores = [float(row.value or 0) for row in found if row.trial.state == "finished"]
            returns.setdefault(name, {})[int(change)] = scores
            lengths[name] = found[0].env_steps_total
    yield f"| {' | '.join(['', *(f'{required(name).task}, {lengths[name] // 1000}k' for name in returns)])} |"
    yield f"| --- |{' --: |' * len(returns)}"
    for place, label in enumerate(CHANGES):
        if not any(place in scores for scores in returns.values()):
            continue
        cells = [_cell(scores.get(place), scores[0]) for scores in returns.values()]
        yield f"| {' | '.join([label, *cells])} |"


def _cell(scores: list[float] | None, of_preset: list[float]) -> str:
    if not scores:
        return ""
    low, high = stats.bootstrap_interval(scores) or (min(scores), max(scores))
    better = stats.improvement_interval(scores, of_preset)
    told = better is not None and not better[0] <= 0.5 <= better[1]
    return f"{number(stats.interquartile_mean(scores))} [{number(low)}, {number(high)}]{' *' if told else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    files, printed = verbs.add_parser("files"), verbs.add_parser("table")
    files.add_argument("folder", metavar="FOLDER", type=Path)
    files.add_argument("lengths", metavar="PRESET=ENV_STEPS", nargs="+")
    printed.add_argument("directories", metavar="DIR", nargs="+", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "files":
        pairs = (text.partition("=") for text in arguments.lengths)
        write(arguments.folder, {name: int(env_steps) for name, _, env_steps in pairs})
    else:
        print("\n".join(table(arguments.directories)))


if __name__ == "__main__":
    main()

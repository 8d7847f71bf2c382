"""The presets: a configuration for each of many tasks, found by the task or by the name of its file."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from runner.config import load_config
from runner.config.load import read_yaml
from runner.errors import UserError, did_you_mean

FOLDER = (Path(__file__).parent / "configs").resolve()
"""In a repository a link to its `configs/`, in a wheel a folder."""


@dataclass(frozen=True)
class Preset:
    """One file, and the task that it is for."""

    path: Path
    task: str

    @property
    def name(self) -> str:
        """Its file's, which trials are named after."""
        return self.path.stem

    @property
    def family(self) -> str:
        """Its folder's."""
        return self.path.parent.name


@cache
def presets() -> tuple[Preset, ...]:
    """All of them, by family and name; of several for one task, the first is the task's own."""
    found = []
    for path in sorted(FOLDER.glob("*/*.yaml")):
        data, _ = read_yaml(path)
        if "id" in data.get("env", {}):
            found.append(Preset(path, data["env"]["id"]))
    return tuple(found)


def named(word: str) -> Preset | None:
    """The preset of a task, or of a file's name."""
    return next((preset for preset in presets() if word in (preset.task, preset.name)), None)


def required(word: str) -> Preset:
    """The same; a word that is none is a `UserError` that says what comes nearest to it."""
    if (preset := named(word)) is not None:
        return preset
    from launcher.envs import catalogue

    known = catalogue.families()
    family = next((family for family, tasks in known.items() if word in tasks), None)
    if family is None and ":" in word:
        raise UserError(
            f"command line: '{word}' is no file and names no preset; what it names is trained with a configuration of "
            f"yours: `launch CFG.yaml --env {word}`"
        )
    if family is None:
        near = did_you_mean(word, [name for preset in presets() for name in (preset.task, preset.name)])
        raise UserError(f"command line: '{word}' is no file and names no preset.{near} `launch presets` lists them")
    if needs := catalogue.described(catalogue.Entry(word, family)).needs:
        raise UserError(f"command line: {word} has no preset, and none could train it here: {needs}")
    nearest = next((preset for preset in _of_family(word, known[family]) if _fits(preset, word)), None)
    if nearest is None:
        raise UserError(
            f"command line: {word} has no preset, and none of {family} fits its observations and actions; "
            f"`launch presets` lists what there is, `launch CFG.yaml --env {word}` trains it with a file of yours"
        )
    raise UserError(
        f"command line: {word} has no preset. The nearest of its family ({family}) is that of {nearest.task}: "
        f"`launch {nearest.task} --env {word} --seeds 8` tries it"
    )


def _of_family(word: str, family: Sequence[str]) -> list[Preset]:
    """The presets of a family, the nearest to a task's name first; of gymnasium's copy of a family, EnvPool's."""
    tasks = {task.removeprefix("gymnasium:") for task in family}
    found = [preset for preset in presets() if preset.task in tasks]
    return sorted(found, key=lambda preset: -difflib.SequenceMatcher(None, word, preset.task).ratio())


def _fits(preset: Preset, word: str) -> bool:
    """The preset could train this task, too."""
    from runner.envs.agents.fitting import fitted
    from runner.envs.task import task
    from runner.networks.parameters import Network

    try:
        config, _ = load_config(preset.path, [(("env", "id"), word)])
        with contextlib.closing(fitted(task(config.env), config)) as env:
            Network.of(config, env.layout, env.actions)
    except UserError:
        return False
    return True

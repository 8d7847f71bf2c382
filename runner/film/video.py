"""Policies at play, filmed: all their episodes side by side.

`python -m runner.film.video JOB RESULT` makes one in a process of its own, since a simulator that cannot draw may end
it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from runner.checkpoints import checkpoint
from runner.config import resolve
from runner.draws import environment_seeds
from runner.envs.agents.fitting import fitted
from runner.envs.base import Step, VectorEnv
from runner.envs.task import task
from runner.errors import UserError
from runner.film.writer import FilmWriter, Format, best_format
from runner.training.evaluate import EVALUATION_RESET, Episode, environments

MOST_EPISODES = 12
"""Episodes of one policy: their tiles are beside each other."""
RENDERING_SECONDS = 180.0
"""A film whose pictures would take longer shows fewer of its steps."""


@dataclass(frozen=True)
class Job:
    """A film to make, as plain data: policies of one environment and one form of networks, and how they play."""

    config: dict[str, Any]
    """Configuration of any of the policies."""
    files: tuple[str, ...]
    """Their checkpoints."""
    labels: tuple[str, ...]
    """Names of their tiles, for example "seed 3 · best"."""
    episodes: int
    """Episodes that each plays: with the most probable actions those that `Runner.evaluate` plays with this seed."""
    seed: int
    deterministic: bool
    path: str
    """File of the film, without its ending."""
    backend: str
    threads: int = 1
    preload: tuple[str, ...] = ()
    """System libraries to load first; without these, MuJoCo finds no OpenGL and ends the process."""


@dataclass(frozen=True)
class Film:
    """A film that was made: it shows one of `stride` steps of these episodes, by policy and number."""

    path: Path
    stride: int
    episodes: list[Episode]


def film(job: Job) -> Film:
    """Play and film episodes, in this process; see `launcher.evaluate.film` for one that survives it."""
    config = resolve({**job.config, "backend": job.backend})[0]
    drawn = fitted(task(config.env), config).drawn()
    picture, seconds = _probe(drawn, environment_seeds(job.seed, 1, EVALUATION_RESET))
    files = [checkpoint.read_file(path) for path in job.files]
    framework = importlib.import_module(f"runner.{job.backend}")
    runner = framework.Runner.of_checkpoints(drawn, config, files, job.threads, job.seed)

    play: Callable[..., list[Episode]] = partial(
        runner.evaluate, job.deterministic, job.episodes, job.seed, job.episodes
    )
    form = best_format()
    stride = _stride(form, play(), seconds)
    columns = _columns(len(job.files), job.episodes)
    labels = [label for label in job.labels for _ in range(job.episodes)]
    with FilmWriter(Path(job.path), form, picture, labels, columns, job.threads) as writer:
        episodes = play(lambda env: _FilmedEnv(env, writer, stride, job.episodes, config.agent.team_return))
    return Film(writer.path, stride, episodes)


def _columns(policies: int, episodes: int) -> int:
    """A row per policy, where that is not a single row or column: then what fits a screen."""
    if policies == 1:
        return math.ceil(math.sqrt(episodes))
    return episodes if episodes > 1 else policies


def _stride(form: Format, episodes: Sequence[Episode], seconds: float) -> int:
    """One step of so many is shown, so that the film is neither too long nor too long in the making.

    `episodes` are those that will be played; `seconds` is what one picture takes.
    """
    longest, pictures = max(e.length for e in episodes), sum(e.length for e in episodes)
    # The picture before the first step, and those that hold the last, are on top.
    shown = form.frames - form.fps - 2
    return max(form.every, math.ceil(longest / shown), math.ceil(pictures * seconds / RENDERING_SECONDS))


def _probe(task: VectorEnv, seeds: Sequence[int]) -> tuple[np.ndarray, float]:
    """A first picture, and the seconds that the next one takes."""
    with task.of_each(1).opened(seeds, 1) as env:
        env.reset()
        env.render([0])
        start = time.perf_counter()
        return env.render([0])[0], time.perf_counter() - start


class _FilmedEnv(VectorEnv):
    """Films the first episode of every environment, N of each policy, while someone else steps them."""

    def __init__(self, env: VectorEnv, writer: FilmWriter, stride: int, at_once: int, team_return: str) -> None:
        super().__init__(env.num_envs, env.observation_space, env.action_space)
        self._env, self._writer, self._stride, self.agents = env, writer, stride, env.agents
        self._of_row = environments(env, at_once)
        _, self._rows = np.unique(self._of_row, return_index=True)
        count = len(self._rows)
        self._returns, self._playing, self._steps = np.zeros(count), np.ones(count, bool), 0
        self._share = 1 / len(env.agents.names) if env.agents is not None and team_return == "mean" else 1

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes; the first picture."""
        answer = self._env.reset()
        self._paint(self._playing)
        self._writer.write()
        return answer

    def step(self, actions: Any) -> Step:
        """One step; a picture if one is due, and of each episode's end."""
        answer = self._env.step(actions)
        _, rewards, terminated, truncated, info = answer
        self._steps += 1
        received = self._share * np.bincount(self._of_row, info.get("episode_rewards", rewards))
        self._returns += np.where(self._playing, received, 0)
        over = self._playing & info.get("episode_ends", terminated | truncated)[self._rows]
        last = bool(self._playing.any()) and not (self._playing & ~over).any()
        due = last or (self._steps % self._stride == 0 and self._playing.any())
        self._paint(self._playing if due else over, over)
        self._playing = self._playing & ~over
        if due:
            self._writer.write(self._writer.form.fps if last else 1)
        return answer

    def _paint(self, which: np.ndarray, over: np.ndarray | None = None) -> None:
        """New pictures of these environments; those of `over` are their last."""
        indices = np.flatnonzero(which).tolist()
        if not indices:
            return
        for index, picture in zip(indices, self._env.render(self._rows[indices].tolist()), strict=True):
            text = f"step {self._steps:,} · return {self._returns[index]:,.1f}"
            self._writer.paint(index, picture, text, over is not None and bool(over[index]))


def main(job_path: str, result_path: str) -> None:
    """Make the film of a JSON file; what became of it goes into another one."""
    data: dict[str, Any] = json.loads(Path(job_path).read_text())
    job = Job(**data)
    for library in job.preload:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    try:
        made = film(job)
    except (UserError, OSError) as error:
        result: dict[str, Any] = {"error": str(error)}
    else:
        result = asdict(made) | {"path": str(made.path)}
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Films, decoded again: their pictures, captions and lengths."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runner.envs.envpool import EnvPoolTask
from runner.envs.named import imports
from runner.envs.task import task as environments
from runner.errors import UserError
from runner.film.video import Film, Job, _columns, _stride, film
from runner.film.writer import GIF, MP4, STRIP, FilmWriter, best_format, caption
from runner.training.evaluate import Episode
from tests.runner.builders import make_config, runner_class


def make_job(folder: Path, task: str, seeds: tuple[int, ...], episodes: int, **arguments: Any) -> Job:
    """A film of untrained policies."""
    changes = {f"env.{name}": value for name, value in arguments.items()}
    policy = "GaussianMixin" if task.startswith(("Pendulum", "HalfCheetah")) else "CategoricalMixin"
    config = make_config({"env.id": task, "env.num_envs": 4, **changes}, policy)
    files = []
    for seed in seeds:
        runner = runner_class("torch")(EnvPoolTask(task, 4, config.env.arguments), config, [seed], threads=1)
        files.append(str(folder / f"{seed}.safetensors"))
        runner.agent.save(files[-1])
    labels = tuple(f"seed {seed} · {role}" for seed, role in zip(seeds, ("best", "median", "worst"), strict=False))
    return Job(config.dump(), tuple(files), labels, episodes, 0, True, str(folder / "videos" / "film"), "torch")


def evaluated(job: Job) -> list[Episode]:
    """What each policy's episodes are when nobody films them."""
    config = make_config({"env.id": job.config["env"]["id"]}, job.config["models"]["policy"]["class"])
    config = config.model_copy(update={"env": config.env.model_validate(job.config["env"])})
    found = []
    for member, path in enumerate(job.files):
        task = EnvPoolTask(str(config.env.id), 4, config.env.arguments)
        runner = runner_class("torch")(task, config, [1], threads=1)
        runner.agent.load(path)
        found += [replace(e, member=member) for e in runner.evaluate(job.deterministic, job.episodes, job.seed)]
    return found


def decoded(path: Path) -> list[np.ndarray]:
    """The pictures `[H, W, 3]` of a film, those of a GIF as often as they last."""
    if path.suffix == ".mp4":
        av = pytest.importorskip("av")
        with av.open(str(path)) as container:
            assert container.streams.video[0].average_rate == MP4.fps
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    pictures = []
    with Image.open(path) as image:
        for number in range(image.n_frames):
            image.seek(number)
            times = round(image.info["duration"] * GIF.fps / 1000)
            pictures += [np.asarray(image.convert("RGB"))] * times
    return pictures


def tiles(picture: np.ndarray, rows: int, columns: int) -> list[np.ndarray]:
    return [tile for row in np.split(picture, rows) for tile in np.split(row, columns, axis=1)]


def assert_shows(picture: np.ndarray, job: Job, made: Film, columns: int) -> None:
    """The film's last picture has every episode's end."""
    shown = tiles(picture, len(made.episodes) // columns, columns)
    for episode, tile in zip(made.episodes, shown, strict=True):
        label, strip = job.labels[episode.member], tile[:STRIP].astype(float)

        def difference(length: int, ret: float, strip: np.ndarray = strip, label: str = label) -> float:
            text = f"step {length:,} · return {ret:,.1f}"
            return float(np.abs(strip - np.asarray(caption(strip.shape[1], label, text, over=True), float)).mean())

        assert difference(episode.length, episode.ret) < 0.9 * difference(888_888, -888_888.8)
        assert difference(episode.length, episode.ret) < difference(episode.length, episode.ret + 5)
        assert strip.max() > 150 and strip.min() < 90  # light on dark
        assert np.ptp(tile[STRIP:].astype(float), axis=(0, 1)).max() > 50  # there is a picture


@pytest.mark.parametrize("task", ["CartPole-v1", "Pendulum-v1"])
def test_a_film_shows_the_evaluations_episodes_to_their_ends(task: str, tmp_path: Path) -> None:
    pytest.importorskip("av")
    job = make_job(tmp_path, task, (3, 4, 5), 2, max_episode_steps=40)
    made = film(job)
    assert made.path == tmp_path / "videos" / "film.mp4"
    assert [path.name for path in made.path.parent.iterdir()] == ["film.mp4"]
    assert made.stride == 1
    assert made.episodes == evaluated(job)
    assert len({episode.ret for episode in made.episodes}) > 1
    pictures = decoded(made.path)
    # One before the first step, one for each step, and the last again for the rest of a second.
    assert len(pictures) == 1 + max(episode.length for episode in made.episodes) + MP4.fps - 1
    first, last = pictures[0], pictures[-1]
    assert first.shape[0] <= MP4.height and first.shape[1] <= MP4.width
    beginning = tiles(first, 3, 2)
    assert not np.array_equal(beginning[0][STRIP:], beginning[1][STRIP:])
    assert np.abs(first.astype(float) - last).mean() > 2
    assert_shows(last, job, made, 2)


def test_a_film_of_several_agents_shows_environments_and_the_teams_return(tmp_path: Path) -> None:
    read = [{"name": "net", "input": "STATES", "layers": [8], "activations": "tanh"}]
    changes = {"agent.class": "MAPPO", "models.value.network": read, "models.separate": True}
    config = make_config({"env.id": "tests.parallel:Drawn", "env.num_envs": 4, **changes}, "CategoricalMixin")
    with imports.scope():
        imports.allow(["tests"])
        files = []
        for seed in (3, 4):
            runner = runner_class("torch")(environments(config.env), config, [seed])
            files.append(str(tmp_path / f"{seed}.safetensors"))
            runner.agent.save(files[-1])
        path = str(tmp_path / "film")
        job = Job(config.dump(), tuple(files), ("seed 3", "seed 4"), 2, 0, True, path, "torch")
        made = film(job)
    assert [(e.member, e.number, e.length) for e in made.episodes] == [(0, 0, 3), (0, 1, 3), (1, 0, 3), (1, 1, 3)]
    assert all(e.ret == sum(e.each.values()) and len(e.each) == 2 for e in made.episodes)
    pictures = decoded(made.path)
    for first, last in zip(tiles(pictures[0], 2, 2), tiles(pictures[-1], 2, 2), strict=True):
        assert np.abs(last[STRIP:].astype(float) - first[STRIP:]).mean() > 20  # pictures are of the time


def test_without_an_encoder_the_film_is_a_gif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert best_format() is GIF
    job = make_job(tmp_path, "CartPole-v1", (3, 4), 2)
    made = film(job)
    assert made.path == tmp_path / "videos" / "film.gif"
    assert made.stride == 2  # as fast as the environment is, with half as many pictures
    assert made.episodes == evaluated(job)
    pictures = decoded(made.path)
    assert GIF.fps < len(pictures) <= GIF.frames
    assert pictures[0].shape[0] <= GIF.height and pictures[0].shape[1] <= GIF.width
    assert_shows(pictures[-1], job, made, 2)


def test_a_task_without_pictures_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    job = make_job(tmp_path, "FrozenLake-v1", (3,), 1)
    with pytest.raises(UserError, match="FrozenLake-v1 cannot be filmed: EnvPool does not draw this task"):
        film(job)
    assert not (tmp_path / "videos").exists()


def test_a_film_that_fails_leaves_nothing(tmp_path: Path) -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(RuntimeError), FilmWriter(tmp_path / "film", best_format(), picture, ["a"], 1, 1) as writer:
        writer.paint(0, picture, "step 0")
        writer.write()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_long_episodes_and_slow_pictures_are_shown_in_larger_steps() -> None:
    def stride(lengths: list[int], seconds: float) -> int:
        return _stride(MP4, [Episode(0, number, 0, length, 0) for number, length in enumerate(lengths)], seconds)

    assert stride([500, 20], 0.001) == 1
    assert stride([1768], 0.001) == 1
    assert stride([1769], 0.001) == 2
    assert 27_000 / stride([27_000], 0) + 2 + MP4.fps <= MP4.frames
    assert stride([1000] * 9, 0.1) == 5  # 900 seconds of drawing become 180
    assert _stride(GIF, [Episode(0, 0, 0, 100, 0)], 0.0) == 2


def test_tiles_are_laid_out_for_a_screen() -> None:
    assert [_columns(*shape) for shape in ((3, 4), (3, 1), (1, 1), (1, 3), (1, 9))] == [4, 3, 1, 2, 3]
    for shape, count in (((480, 480), 9), ((210, 160), 36), ((150, 600), 36), ((1000, 30), 3)):
        writer = FilmWriter(Path("unused"), MP4, np.zeros((*shape, 3), np.uint8), ["seed 1"] * count, min(count, 12), 1)
        width, height = writer._canvas.size
        assert width <= MP4.width and height <= MP4.height
        assert width % 2 == height % 2 == 0

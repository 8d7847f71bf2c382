"""Films of policies at play, all their episodes side by side.

`python -m runner.video JOB RESULT` makes one in a process of its own, since a simulator that cannot draw may end it.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from runner import checkpoint
from runner.config import resolve
from runner.envs.base import Step, VectorEnv, environment_seeds
from runner.errors import UserError
from runner.evaluate import EVALUATION_RESET, Episode

if TYPE_CHECKING:
    from runner.envs.envpool import EnvPool, EnvPoolTask

MOST_EPISODES = 12
"""Of one policy: their tiles are beside each other."""
RENDERING_SECONDS = 180.0
"""A film whose pictures would take longer shows fewer of its steps."""


@dataclass(frozen=True)
class Job:
    """A film to make.

    Attributes:
        config: of one of the policies, as plain data; all have its environment and networks.
        files: their checkpoints.
        labels: what their tiles are called, for example "seed 3 · best".
        episodes: that each plays.
        seed: of the episodes: the same that `Runner.evaluate` plays with this seed.
        deterministic: the most probable actions, not samples.
        path: of the film, without its ending.
        backend: torch or jax.
        threads: cores to use.
        preload: system libraries to load first; without these, MuJoCo finds no OpenGL and ends the process.
    """

    config: dict[str, Any]
    files: tuple[str, ...]
    labels: tuple[str, ...]
    episodes: int
    seed: int
    deterministic: bool
    path: str
    backend: str
    threads: int = 1
    preload: tuple[str, ...] = ()


@dataclass(frozen=True)
class Film:
    """A film that was made.

    Attributes:
        path: of the file.
        stride: one step of so many is shown.
        episodes: that can be seen in it, by policy and number.
    """

    path: Path
    stride: int
    episodes: list[Episode]


def film(job: Job) -> Film:
    """Play and film episodes, in this process; see `launcher.video` for one that survives it.

    Raises:
        UserError: the task cannot be drawn, a checkpoint is not of this policy, or an episode does not end.
    """
    from runner.envs.envpool import EnvPoolTask

    config = resolve({**job.config, "backend": job.backend})[0]
    members = [config.model_copy(update={"seed": number}) for number in range(len(job.files))]
    task = EnvPoolTask(str(config.env.id), config.env.num_envs or 1, config.env.arguments)
    task.arguments["render_mode"] = "rgb_array"
    picture, seconds = _probe(task, environment_seeds(job.seed, 1, EVALUATION_RESET))
    stage = _Stage(task)
    backend = importlib.import_module(f"runner.{job.backend}")
    runner = backend.Runner(stage, members[0], configs=members, threads=job.threads)
    runner.restore([checkpoint.read_file(path) for path in job.files], only_act=True)

    def play() -> list[Episode]:
        found: list[Episode] = runner.evaluate(job.deterministic, job.episodes, job.seed, job.episodes)
        return found

    form = best_format()
    stride = _stride(form, play(), seconds)
    columns = _columns(len(job.files), job.episodes)
    labels = [label for label in job.labels for _ in range(job.episodes)]
    with Reel(Path(job.path), form, picture, labels, columns, job.threads) as reel:
        stage.reel, stage.stride = reel, stride
        episodes = play()
    return Film(reel.path, stride, episodes)


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


def _probe(task: EnvPoolTask, seeds: Sequence[int]) -> tuple[np.ndarray, float]:
    """A first picture, and the seconds that the next one takes.

    Raises:
        UserError: the task has none.
    """
    env = task.seeded(seeds, 1)
    env.reset()
    render(env, task.task, [0])
    start = time.perf_counter()
    return render(env, task.task, [0])[0], time.perf_counter() - start


def render(env: EnvPool, task: str, indices: Sequence[int]) -> np.ndarray:
    """Pictures `[B, H, W, 3]` uint8 of these environments, which must not be stepping.

    Raises:
        UserError: EnvPool does not draw this task.
    """
    try:
        pictures = env.pool.render(env_ids=np.asarray(indices, np.int32))
    except RuntimeError as error:
        if "not implemented" not in str(error):
            raise
        raise UserError(f"{task} cannot be filmed: EnvPool does not draw this task") from None
    return np.asarray(pictures, np.uint8)


class _Stage(VectorEnv):
    """A task whose environments are filmed once there is a reel."""

    def __init__(self, task: EnvPoolTask) -> None:
        super().__init__(task.num_envs, task.observation_space, task.action_space)
        self.task = task
        self.reel: Reel | None = None
        self.stride = 1

    def seeded(self, seeds: Sequence[int], threads: int | None = None) -> VectorEnv:
        """A pool, filmed or not."""
        pool = self.task.seeded(seeds, threads)
        return pool if self.reel is None else _Filmed(pool, self.task.task, self.reel, self.stride)


class _Filmed(VectorEnv):
    """Films the first episode of every environment while someone else steps them."""

    def __init__(self, env: EnvPool, task: str, reel: Reel, stride: int) -> None:
        super().__init__(env.num_envs, env.observation_space, env.action_space)
        self._env, self._task, self._reel, self._stride = env, task, reel, stride
        self._returns, self._playing, self._steps = np.zeros(env.num_envs), np.ones(env.num_envs, bool), 0

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Start new episodes; the first picture."""
        answer = self._env.reset()
        self._paint(self._playing)
        self._reel.write()
        return answer

    def step(self, actions: Any) -> Step:
        """One step; a picture if one is due, and of each episode's end."""
        answer = self._env.step(actions)
        _, rewards, terminated, truncated, info = answer
        self._steps += 1
        self._returns += np.where(self._playing, info.get("episode_rewards", rewards), 0)
        over = self._playing & info.get("episode_ends", terminated | truncated)
        last = bool(self._playing.any()) and not (self._playing & ~over).any()
        due = last or (self._steps % self._stride == 0 and self._playing.any())
        self._paint(self._playing if due else over, over)
        self._playing = self._playing & ~over
        if due:
            self._reel.write(self._reel.form.fps if last else 1)
        return answer

    def _paint(self, which: np.ndarray, over: np.ndarray | None = None) -> None:
        """New pictures of these environments; those of `over` are their last."""
        indices = np.flatnonzero(which).tolist()
        if not indices:
            return
        for index, picture in zip(indices, render(self._env, self._task, indices), strict=True):
            text = f"step {self._steps:,} · return {self._returns[index]:,.1f}"
            self._reel.paint(index, picture, text, over is not None and bool(over[index]))


STRIP = 26
"""Height of the strip above a tile, which its caption is written on: even, as MP4 wants all sizes."""
LARGEST_TILE = 480
DARK, OVER, TEXT, PALE = (22, 24, 29), (52, 58, 72), (238, 238, 238), (170, 176, 190)
COLOURS = {"best": (126, 217, 140), "median": (240, 205, 110), "worst": (244, 146, 128)}


@dataclass(frozen=True)
class Format:
    """A kind of film.

    Attributes:
        ending: of its file.
        fps: pictures per second.
        every: at least so many steps per picture, so that it plays as fast as environments do: 30 steps per second.
        frames: pictures at most.
        width: in pixels, at most.
        height: in pixels, at most.
    """

    ending: str
    fps: int
    every: int
    frames: int
    width: int
    height: int


MP4 = Format(".mp4", fps=30, every=1, frames=1800, width=1920, height=1080)
GIF = Format(".gif", fps=15, every=2, frames=240, width=960, height=720)


def best_format() -> Format:
    """MP4 where PyAV is installed with an encoder, else GIF."""
    return MP4 if _codec() else GIF


def _codec() -> str | None:
    try:
        available = importlib.import_module("av").codecs_available
    except ImportError:
        return None
    return next((name for name in ("libx264", "mpeg4") if name in available), None)


class Reel:
    """A film in the making: tiles of equal size, row by row, which change one at a time.

    Attributes:
        path: of the film, which is there when the context ends without an error.
        form: of the film.
    """

    def __init__(
        self, path: Path, form: Format, picture: np.ndarray, labels: Sequence[str], columns: int, threads: int
    ) -> None:
        """Lay out the tiles.

        Args:
            path: of the film, without its ending.
            form: of the film.
            picture: `[H, W, 3]`, as large as all.
            labels: of the tiles, which are as many.
            columns: of tiles.
            threads: of the encoder.
        """
        self.path = path.with_name(path.name + form.ending)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        rows, self._columns, self._labels = math.ceil(len(labels) / columns), columns, labels
        width, height = min(form.width // columns, LARGEST_TILE), min(form.height // rows - STRIP, LARGEST_TILE)
        scale = min(width / picture.shape[1], height / picture.shape[0])
        self._tile = tuple(max(2, int(side * scale) // 2 * 2) for side in picture.shape[1::-1])
        size = self._tile[0] * columns, (self._tile[1] + STRIP) * rows
        self._canvas = Image.new("RGB", size, DARK)
        self.form, self._threads = form, threads

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        encoder = _Mp4 if self.form is MP4 else _Gif
        self._encoder: _Mp4 | _Gif = encoder(self._partial, self._canvas.size, self.form.fps, self._threads)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._encoder.close()
            if error is None:
                self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)

    def paint(self, index: int, picture: np.ndarray, text: str, over: bool = False) -> None:
        """Change a tile: its picture, and what its caption says; `over`: it stays like this, and looks like it."""
        width, height = self._tile
        x, y = index % self._columns * width, index // self._columns * (height + STRIP)
        shown = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
        if over:
            shown = Image.blend(shown, Image.new("RGB", shown.size, OVER), 0.35)
        self._canvas.paste(shown, (x, y + STRIP))
        self._canvas.paste(caption(width, self._labels[index], text, over), (x, y))
        # A line between the tiles of a row, whatever the pictures' backgrounds are.
        ImageDraw.Draw(self._canvas).line((x + width - 1, y, x + width - 1, y + STRIP + height - 1), fill=DARK)

    def write(self, times: int = 1) -> None:
        """The tiles as they are now, as the film's next picture or pictures."""
        self._encoder.write(self._canvas, times)


def caption(width: int, label: str, text: str, over: bool) -> Image.Image:
    """The strip above a tile: whose it is on the left, how far it is on the right."""
    strip = Image.new("RGB", (width, STRIP), OVER if over else DARK)
    draw, text = ImageDraw.Draw(strip), f"{text} · over" if over else text
    font = _font(f"{label}   {text}", width - 16)
    colour = COLOURS.get(label.rpartition(" ")[2], TEXT)
    draw.text((8, STRIP // 2), label, fill=colour, font=font, anchor="lm")
    draw.text((width - 8, STRIP // 2), text, fill=PALE if over else TEXT, font=font, anchor="rm")
    return strip


def _font(text: str, width: int) -> Any:
    """Pillow's font, as large as fits."""
    fonts = (ImageFont.load_default(size) for size in (14, 13, 12, 11, 10, 9))
    return next((font for font in fonts if font.getlength(text) <= width), ImageFont.load_default(8))


class _Mp4:
    """H.264, or MPEG-4 where PyAV has no other, one picture at a time."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int, threads: int) -> None:
        self._av = importlib.import_module("av")
        self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        name = str(_codec())
        options = {"crf": "23", "preset": "veryfast"} if name == "libx264" else {}
        self._stream = self._container.add_stream(name, rate=fps, options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = threads
        if name != "libx264":
            self._stream.bit_rate = 6_000_000

    def write(self, image: Image.Image, times: int) -> None:
        for _ in range(times):
            self._container.mux(self._stream.encode(self._av.VideoFrame.from_image(image)))

    def close(self) -> None:
        self._container.mux(self._stream.encode())
        self._container.close()


class _Gif:
    """Pictures of 128 colours, kept until the end: `GIF.frames` bounds them."""

    def __init__(self, path: Path, size: tuple[int, int], fps: int, threads: int) -> None:
        self._path, self._milliseconds = path, 1000 // fps
        self._images: list[Image.Image] = []
        self._durations: list[int] = []

    def write(self, image: Image.Image, times: int) -> None:
        if len(self._images) < GIF.frames:
            self._images.append(image.quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
            self._durations.append(self._milliseconds * times)

    def close(self) -> None:
        if self._images:
            first, *others = self._images
            first.save(self._path, "GIF", save_all=True, append_images=others, duration=self._durations, loop=0)


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

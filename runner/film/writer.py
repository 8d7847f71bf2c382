"""Tiles that become a film: MP4, or GIF where no encoder is installed."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image, ImageDraw, ImageFont

STRIP = 26
"""Height of the strip above a tile, which its caption is written on: even, as MP4 wants all sizes."""
LARGEST_TILE = 480
DARK, OVER, TEXT, PALE = (22, 24, 29), (52, 58, 72), (238, 238, 238), (170, 176, 190)
COLOURS = {"best": (126, 217, 140), "median": (240, 205, 110), "worst": (244, 146, 128)}


class MP4:
    """H.264, or MPEG-4 where PyAV has no other, one picture at a time.

    Width and height in pixels and the number of frames are the most that a film may have, `every` the least steps per
    picture: it plays as fast as environments do, 30 steps per second.
    """

    ending, fps, every, frames, width, height = ".mp4", 30, 1, 1800, 1920, 1080

    def __init__(self, path: Path, size: tuple[int, int], threads: int) -> None:
        self._av = importlib.import_module("av")
        self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        name = str(_codec())
        options = {"crf": "23", "preset": "veryfast"} if name == "libx264" else {}
        self._stream = self._container.add_stream(name, rate=self.fps, options=options)
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = threads
        if name != "libx264":
            self._stream.bit_rate = 6_000_000

    def write(self, image: Image.Image, times: int) -> None:
        """Add a picture, so many times."""
        for _ in range(times):
            self._container.mux(self._stream.encode(self._av.VideoFrame.from_image(image)))

    def close(self) -> None:
        """Write the rest."""
        self._container.mux(self._stream.encode())
        self._container.close()


class GIF:
    """Pictures of 128 colours, kept until the end; its numbers are as those of `MP4`."""

    ending, fps, every, frames, width, height = ".gif", 15, 2, 240, 960, 720

    def __init__(self, path: Path, size: tuple[int, int], threads: int) -> None:
        self._path = path
        self._images: list[Image.Image] = []
        self._durations: list[int] = []

    def write(self, image: Image.Image, times: int) -> None:
        """Add a picture, so many times."""
        if len(self._images) < self.frames:
            self._images.append(image.quantize(128, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE))
            self._durations.append(1000 // self.fps * times)

    def close(self) -> None:
        """Write the film."""
        if self._images:
            first, *others = self._images
            first.save(self._path, "GIF", save_all=True, append_images=others, duration=self._durations, loop=0)


Format = type[MP4] | type[GIF]


def best_format() -> Format:
    """MP4 where PyAV is installed with an encoder, else GIF."""
    return MP4 if _codec() else GIF


def _codec() -> str | None:
    try:
        available = importlib.import_module("av").codecs_available
    except ImportError:
        return None
    return next((name for name in ("libx264", "mpeg4") if name in available), None)


class FilmWriter:
    """A film in the making: tiles of equal size, row by row, which change one at a time.

    The file `path` is there when the context ends without an error.
    """

    def __init__(
        self, path: Path, form: Format, picture: np.ndarray, labels: Sequence[str], columns: int, threads: int
    ) -> None:
        """Lay out a tile for each label; `path` has no ending, `picture` `[H, W, 3]` is as large as all will be."""
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
        self._encoder = self.form(self._partial, self._canvas.size, self._threads)
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

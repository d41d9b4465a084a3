"""Makes the films that ``decode_real`` decodes: they differ in size, length, distance of IDR pictures and B-frames."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

FPS = 30


@dataclass(frozen=True, slots=True)
class Film:
    """A clip that is made here.

    Attributes
    ----------
    width, height
        Size in pixels; the height is a multiple of 4.
    seconds
        Length at 30 frames per second.
    gop
        Frames from one IDR picture to the next.
    bframes
        Most B-frames in a row.
    pyramid
        Whether B-frames may be referred to.
    """

    width: int
    height: int
    seconds: int
    gop: int
    bframes: int = 0
    pyramid: bool = False

    @property
    def name(self) -> str:
        """What the film's file is called."""
        kind = f"b{self.bframes}{'-pyramid' if self.pyramid else ''}"
        return f"{self.width}x{self.height}-{self.seconds}s-gop{self.gop}-{kind}.mp4"


FILMS = (
    Film(320, 180, 2, 12),
    Film(1280, 720, 20, 12, bframes=3),
    Film(854, 480, 60, 12, bframes=3, pyramid=True),
    Film(640, 360, 120, 50),
    Film(320, 180, 60, 50, bframes=3),
    Film(1920, 1080, 10, 50, bframes=3, pyramid=True),
    Film(1280, 720, 10, 250),
    Film(854, 480, 30, 250, bframes=3),
    Film(640, 360, 60, 250, bframes=3, pyramid=True),
    Film(1920, 1080, 20, 250),
    Film(640, 360, 5, 250, bframes=3),
    Film(320, 180, 120, 250, bframes=3, pyramid=True),
)
LONG_FILM = Film(640, 360, 600, 50, bframes=3, pyramid=True)
QUICK_FILM = Film(320, 180, 4, 50, bframes=3)
WARMING_FILM = Film(64, 36, 1, 12)


def films_folder() -> Path:
    """Return the folder where films are kept for the next run."""
    return Path(tempfile.gettempdir()) / "reelstore-bench-films"


def shoot(film: Film, folder: Path) -> Path:
    """Return the file of a film in ``folder``: a panning texture with grain and a moving box, encoded on first use."""
    path = folder / film.name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.mp4")
    options = {
        "preset": "veryfast",
        "threads": "1",
        "g": str(film.gop),
        "bf": str(film.bframes),
        "b-pyramid": "normal" if film.pyramid else "none",
        "x264-params": "scenecut=0:mbtree=0",  # GOPs of one length, and the same bytes every time
    }
    with av.open(str(partial), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options=options)
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = film.width, film.height, "yuv420p"
        for number, planes in enumerate(_planes(film)):
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    partial.replace(path)
    return path


def _planes(film: Film) -> Iterator[NDArray[np.uint8]]:
    """Yield each picture as the planes of yuv420p one below the other, uint8 [3 H / 2, W]."""
    width, height = film.width, film.height
    rng = np.random.default_rng(0)
    luma = _texture(rng, height * 3 // 2, width * 2)
    chroma = [_texture(rng, height * 3 // 4, width) // 2 + 64 for _ in range(2)]
    grain = [rng.integers(0, 6, (height, width), np.uint8) for _ in range(8)]
    box = height // 6
    for number in range(film.seconds * FPS):
        # Even numbers, so that the colours move with the brightness.
        left = 2 * int(width / 4 * (1 + np.sin(number / 90)))
        top = 2 * int(height / 8 * (1 + np.cos(number / 70)))
        planes = np.empty((height * 3 // 2, width), np.uint8)
        picture = planes[:height]
        picture[:] = luma[top : top + height, left : left + width]
        row = int((height - box) / 2 * (1 + np.sin(number / 25)))
        picture[row : row + box, width // 3 : width // 2] ^= 127
        picture += grain[number % len(grain)]
        quarter = height // 4
        for place, plane in enumerate(chroma):
            part = plane[top // 2 : top // 2 + height // 2, left // 2 : left // 2 + width // 2]
            planes[height + place * quarter : height + (place + 1) * quarter] = part.reshape(quarter, width)
        yield planes


def _texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """Return smooth noise, uint8 [H, W] from 16 to 240."""
    texture: NDArray[Any] = rng.normal(0, 1, (height, width)).astype(np.float32)
    for step in (1, 2, 4, 8):
        texture = (texture + np.roll(texture, step, axis=0) + np.roll(texture, step, axis=1)) / 3
    smooth: NDArray[np.uint8] = (texture / texture.std() * 40 + 128).clip(16, 240).astype(np.uint8)
    return smooth

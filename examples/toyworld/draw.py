"""Render the pictures and the sound of a scene."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from examples.clips import inside
from examples.toyworld.world import (
    BACKGROUNDS,
    COLOURS,
    FPS,
    HEIGHT,
    SAMPLE_RATE,
    WIDTH,
    Act,
    Actor,
    Scene,
)

# An action takes this long to unfold and as long to fold back; in between, the picture stands still.
_RAMP_S = 0.2
_FADE_S = 0.02
_AMPLITUDE = 0.2
_WHITE = (255, 255, 255)


def pictures(scene: Scene) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a scene, uint8 [HEIGHT, WIDTH, 3] RGB, frame i at i / FPS seconds."""
    names = [scene.background_at(index / FPS) for index in range(scene.seconds * FPS)]
    empty = {name: _backdrop(scene, name) for name in dict.fromkeys(names)}
    for index, name in enumerate(names):
        frame = empty[name].copy()
        for actor in scene.actors:
            _draw(frame, actor, index / FPS)
        yield frame


def sound(scene: Scene) -> NDArray[np.float32]:
    """Return the waveform, float32 [seconds * SAMPLE_RATE], silent except for the tones of the shapes."""
    mix = np.zeros(scene.seconds * SAMPLE_RATE)
    for actor in scene.actors:
        for start_s, end_s in actor.beeps:
            first, last = round(start_s * SAMPLE_RATE), round(end_s * SAMPLE_RATE)
            time = np.arange(last - first) / SAMPLE_RATE
            envelope = np.clip(np.minimum(time, time[::-1]) / _FADE_S, 0, 1)
            mix[first:last] += _AMPLITUDE * envelope * np.sin(math.tau * actor.tone_hz * time)
    return mix.astype(np.float32)


def _backdrop(scene: Scene, background: str) -> NDArray[np.uint8]:
    """Draw the empty stage: one dull colour, lighter towards the bottom, with a grain that stands still."""
    rng = np.random.default_rng(scene.seed)
    colour = np.array(BACKGROUNDS[background], np.float64) + rng.uniform(-6, 6, 3)
    slope = np.linspace(-8, 8, HEIGHT)[:, None, None]
    grain = rng.uniform(-4, 4, (HEIGHT, WIDTH, 1))
    return np.clip(colour + slope + grain, 0, 255).round().astype(np.uint8)


@lru_cache(maxsize=1)
def _grid() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the centre of each pixel, across and down, in fractions of the picture's height."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    return (x + np.float32(0.5)) / HEIGHT, (y + np.float32(0.5)) / HEIGHT


def _draw(frame: NDArray[np.uint8], actor: Actor, time_s: float) -> None:
    act = next((act for act in actor.acts if act.start_s <= time_s < act.end_s), None)
    if act is None and not actor.resident:
        return
    amount = _unfolded(act, time_s)
    action = act.action if act else None
    x, y, radius = actor.x * WIDTH / HEIGHT, 0.5, actor.radius
    if action == "jump":
        y -= 0.27 * amount
    elif action == "duck":
        y += 0.27 * amount
    elif action == "grow":
        radius *= 1 + 0.8 * amount
    elif action == "glow":
        _paint(frame, actor.kind, x, y, radius * (1 + 0.6 * amount), _WHITE)
    elif action == "split":
        apart, radius = 0.25 * amount, radius * (1 - 0.3 * amount)
        _paint(frame, actor.kind, x - apart, y, radius, COLOURS[actor.colour])
        x += apart
    _paint(frame, actor.kind, x, y, radius, COLOURS[actor.colour])


def _unfolded(act: Act | None, time_s: float) -> float:
    if act is None:
        return 0.0
    return min(1.0, (time_s - act.start_s) / _RAMP_S, (act.end_s - time_s) / _RAMP_S)


def _paint(frame: NDArray[np.uint8], kind: str, x: float, y: float, radius: float, rgb: tuple[int, int, int]) -> None:
    """Fill a shape; only the rectangle around it is computed."""
    reach = 1.5 * radius
    rows = slice(max(0, int((y - reach) * HEIGHT)), int((y + reach) * HEIGHT) + 2)
    columns = slice(max(0, int((x - reach) * HEIGHT)), int((x + reach) * HEIGHT) + 2)
    across, down = (axis[rows, columns] for axis in _grid())
    frame[rows, columns][inside(kind, across - np.float32(x), down - np.float32(y), radius)] = rgb

"""The picture of README: it is small enough, is on the page, and is drawn from a demo in the same way each time."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from examples.overview import HEIGHT, WIDTH, Picture, Shown, kind_of
from tests.conftest import ROOT

PICTURE = ROOT / "bench" / "figures" / "overview.png"
STEPS = 32


def size_of(image: bytes) -> tuple[int, int]:
    """Width and height from the header of a PNG."""
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def shown(thing: str) -> Shown:
    drawn = np.random.default_rng(0)
    weights = np.exp(-(np.linspace(-4, 4, STEPS) ** 2))
    return Shown(
        video="test_00000",
        duration=15.0,
        frames=[drawn.integers(0, 255, (64, 96, 3), np.uint8) for _ in range(8)],
        wave=drawn.normal(0, 0.1, 15 * 16_000).astype(np.float32),
        row=drawn.normal(0, 1, (STEPS, 182)).astype(np.float16),
        times=np.linspace(0.2, 14.8, STEPS),
        question={"question": "what does the disc do", "options": list("vwxyz"), "answer_index": 1, "spans": [[5, 9]]},
        triple=("disc", "do", thing),
        clusters=[(drawn.integers(0, 255, (64, 96, 3), np.uint8), 7)] * 6,
        cluster_count=32,
        unsmoothed=weights.tolist(),
        attention=weights.tolist(),
        span=(5.5, 8.5),
        chances=np.array([0.1, 0.6, 0.1, 0.1, 0.1]),
        metrics={"right answer": 73.1, "… and right span": 60.9},
        versions=["features", "questions", "dictionaries"],
        counts=(600, 4, 5165),
    )


def test_the_picture_of_the_readme_is_that_of_the_script_and_loads_fast() -> None:
    image = PICTURE.read_bytes()
    assert len(image) <= 400_000
    assert size_of(image) == (2 * WIDTH, 2 * HEIGHT)
    assert "](bench/figures/overview.png)" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("thing", ["what", ""])
def test_equal_demos_give_equal_bytes(thing: str) -> None:
    image = Picture(shown(thing)).draw()
    assert size_of(image) == (2 * WIDTH, 2 * HEIGHT)
    assert image == Picture(shown(thing)).draw()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        (["frames: +512 rows", "failures: changed"], "features"),
        (["parses 98c7: +244 rows"], "questions"),
        (["graphs toy/train: +9 rows", "questions toy/train: +9 rows"], "questions"),
        (["visual_dictionary toy/train/frames: stale"], "dictionaries"),
        (["embeddings 022d: +279 rows"], "dictionaries"),
    ],
)
def test_a_version_is_coloured_by_what_it_brought(changes: list[str], kind: str) -> None:
    assert kind_of(changes) == kind

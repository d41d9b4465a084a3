"""The kinds of toy world: what draws their videos and questions, their splits and their sizes.

``shapes``
    What ``world.py`` describes. It is needed that a model finds the entrance that is asked about.
``free``
    The stage videos of ``shapes``; their questions are worded freely (``wording.py``), not by a template.
``linked``
    Finding the entrance is not enough: confounders lie inside it, and what sounds is linked to what is seen by time
    alone (``linked/``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from examples.toyworld import band, linked, stage, wording
from examples.toyworld.world import SPLITS, AvQuestion, GroundingQuestion, Scene, Split, World

StageVideo = Callable[[World, Split, int], tuple[Scene, tuple[GroundingQuestion, ...]]]
BandVideo = Callable[[World, int], tuple[Scene, tuple[AvQuestion, ...]]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of toy world.

    Attributes
    ----------
    stage, band
        Draw a video with its questions; a kind without ``band`` has stage videos only.
    splits
        Splits of the stage videos, each with the attribute of ``World`` that says how many videos it has.
    sizes
        Attributes of ``World`` whose defaults are others.
    """

    stage: StageVideo
    band: BandVideo | None
    splits: Mapping[Split, str]
    sizes: Mapping[str, Any] = field(default_factory=dict)

    def world(self, seed: int) -> World:
        """Return the world of a seed in the usual size."""
        return World(seed, **self.sizes)


DEFAULT = "shapes"
_AS_NAMED: dict[Split, str] = {split: split for split in SPLITS}
KINDS: Mapping[str, Kind] = {
    DEFAULT: Kind(stage.video, band.video, _AS_NAMED),
    "free": Kind(wording.free_video, None, _AS_NAMED, {"band": 0}),
    "linked": Kind(
        linked.stage.video,
        linked.band.video,
        {**_AS_NAMED, "test_wording": "test_ood", "test_backdrop": "test_ood"},
        {"train": 360, "val": 40, "test": 40, "test_ood": 40, "band": 400, "language_bias": 0.6},
    ),
}

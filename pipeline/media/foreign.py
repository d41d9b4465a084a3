"""What a file must be for a backend other than PyAV, and what its rows then say about it.

Other libraries number frames in ways of their own, and some know no edit lists, pixel shapes or rotation. PyAV reads
the packets, predicts the frames on screen and chooses; the backend must deliver those, or the file is refused.
"""

from __future__ import annotations

from typing import Any

from pipeline.media import passes, picture
from pipeline.media.packets import PacketIndex
from pipeline.media.recipe import recipe
from pipeline.media.source import open_source, pixel_aspect, record
from pipeline.media.types import DecodeRequest, MediaError
from pipeline.media.wanted import Wanted


def agreed(request: DecodeRequest, index: PacketIndex, predicted: Wanted | None) -> tuple[Wanted, dict[str, Any]]:
    """The plan that the backend is held to, and the media record of its rows.

    Raises
    ------
    MediaError
        `unsupported_codec` for packets without times of their own, pixels that are not square, or a rotation.
    """
    if predicted is None:
        raise refusal(request, "packets without times of their own")
    with open_source(request.path, request.limits) as source:
        aspect = pixel_aspect(source)
        first = next(passes.stamped(source))[1]
        if aspect != 1 or picture.orientation(first) != picture.Orientation():
            raise refusal(request, "pixels that are not square, or a rotation")
        media = record(source) | {
            "duration_s": predicted.source_duration_s,
            "frames": len(predicted.displayed),
            "decode": request.backend,
            "plain_because": None,
            "times_from": "packets",
            "damaged_packets": index.corrupt,
            "backend": recipe(request.backend),
        }
        return predicted, media | picture.record(first, aspect)


def refusal(request: DecodeRequest, what: str) -> MediaError:
    """The failure of a file that the backend would decode otherwise than PyAV, or not at all."""
    return MediaError("unsupported_codec", f"refused by the {request.backend} backend: {what}")

"""Decodes through an opt-in backend, held to the frames that PyAV's packets predict.

Other libraries number frames in ways of their own, and some know no edit lists, pixel shapes or rotation. PyAV reads
the packets, predicts the frames on screen and chooses; the backend must deliver those, or the file is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.media import decord_backend, passes, picture, torchcodec_backend
from pipeline.media.errors import refusal
from pipeline.media.frame_plan import FramePlan
from pipeline.media.packets import PacketIndex
from pipeline.media.recipes import recipe
from pipeline.media.source import Source, describe_source, open_source, pixel_aspect
from pipeline.media.types import DecodeRequest, Event, Frame, Header

_OPEN = {
    "decord": decord_backend.open_frames,
    "torchcodec": torchcodec_backend.open_frames,
    "nvdec": torchcodec_backend.open_frames,
}
BACKENDS = tuple(_OPEN)


def decode_pictures(
    request: DecodeRequest, opened: Source, index: PacketIndex, predicted: FramePlan | None
) -> Iterator[Event]:
    """Yield the header and the wanted frames through the request's backend.

    Raises
    ------
    MediaError
        ``unsupported_codec`` if the library is missing or the file is refused; ``crash`` if this machine cannot run
        the backend.
    """
    if predicted is None:
        raise refusal(request, "packets without times of their own")
    if index.clock.leaps:
        raise refusal(request, "a clock that leaps")
    media = _describe(request, index, predicted)
    library, frames = _OPEN[request.backend](request, opened, predicted)
    yield Header(media | library, predicted.duration_s, predicted.samples)
    for pts, rgb in frames:
        yield Frame(rgb, predicted.time_s[pts], predicted.uses[pts])


def _describe(request: DecodeRequest, index: PacketIndex, plan: FramePlan) -> dict[str, Any]:
    """Return the media record of the rows; refuse pixels that are not square and pictures that are rotated."""
    with open_source(request.path, request.limits) as source:
        aspect = pixel_aspect(source)
        first = next(passes.retime(source))[1]
        if aspect != 1 or picture.orientation(first) != picture.Orientation():
            raise refusal(request, "pixels that are not square, or a rotation")
        media = describe_source(source) | {
            "duration_s": plan.source_duration_s,
            "frames": len(plan.displayed),
            "decode": request.backend,
            "plain_because": None,
            "times_from": "packets",
            "damaged_packets": len(index.corrupt),
            **({"truncated": index.cut} if index.cut else {}),
            "backend": recipe(request.backend),
        }
        return media | picture.describe(first, aspect)

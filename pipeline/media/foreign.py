"""Decodes through an opt-in backend, held to the frames that PyAV's packets predict.

Other libraries number frames in ways of their own, and some know no edit lists, pixel shapes or rotation. PyAV reads
the packets, predicts the frames on screen and chooses; the backend must deliver those, or the file is refused. The
pictures of ``nvdec`` are only picked here: the process that holds the GPU decodes them
(``pipeline.media.device_pictures``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.media import decord_backend, passes, picture, torchcodec_backend
from pipeline.media.errors import RefusalError
from pipeline.media.frame_plan import FramePlan
from pipeline.media.packets import PacketIndex
from pipeline.media.recipes import recipe
from pipeline.media.source import Source, describe_source, open_source, pixel_aspect
from pipeline.media.types import DecodeRequest, Event, Frame, Header, Picks

_OPEN = {
    "decord": decord_backend.open_frames,
    "torchcodec": torchcodec_backend.open_frames,
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
    predicted = _trusted(request, index, predicted)
    media = _describe(request, opened, index, predicted)
    library, frames = _OPEN[request.backend](request, opened, predicted)
    yield Header(media | library, predicted.duration_s, predicted.samples)
    for pts, rgb in frames:
        yield Frame(rgb, predicted.time_s[pts], predicted.uses[pts])


def pick_pictures(
    request: DecodeRequest, opened: Source, index: PacketIndex, predicted: FramePlan | None
) -> tuple[Header, Picks]:
    """Return the header, and which frames a decoder on a GPU is to deliver.

    Raises
    ------
    RefusalError
        If such a decoder is known to show something else than PyAV.
    """
    plan = _trusted(request, index, predicted)
    if index.corrupt or index.cut:
        raise RefusalError(request.backend, "damaged packets: it would not say which pictures show them")
    media = _describe(request, opened, index, plan)
    if media["interlaced"]:
        raise RefusalError(request.backend, "interlaced pictures")
    clock = opened.video.time_base
    assert clock is not None
    wanted = [(number, pts) for number, pts in enumerate(plan.displayed) if pts in plan.uses]
    picks = Picks(
        stream=opened.video.index,
        frames=len(plan.displayed),
        numbers=tuple(number for number, _ in wanted),
        clock_s=tuple(float(pts * clock) for _, pts in wanted),
        uses=tuple(plan.uses[pts] for _, pts in wanted),
    )
    return Header(media, plan.duration_s, plan.samples), picks


def _trusted(request: DecodeRequest, index: PacketIndex, predicted: FramePlan | None) -> FramePlan:
    """Return the plan, if another library can be held to it."""
    if predicted is None:
        raise RefusalError(request.backend, "packets without times of their own")
    if index.clock.leaps:
        raise RefusalError(request.backend, "a clock that leaps")
    return predicted


def _describe(request: DecodeRequest, opened: Source, index: PacketIndex, plan: FramePlan) -> dict[str, Any]:
    """Return the media record of the rows; refuse pixels that are not square and pictures that are rotated."""
    with open_source(request.path, request.limits, files=opened.files) as source:
        aspect = pixel_aspect(source)
        first = next(passes.retime(source))[1]
        if aspect != 1 or picture.orientation(first) != picture.Orientation():
            raise RefusalError(request.backend, "pixels that are not square, or a rotation")
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

"""The opt-in decord backend: the same frames by time, refused where decord would show others.

decord numbers frames by packets and knows no edit lists, pixel shapes or rotation. A file is decoded only when its
times equal those that the packets predict, its pixels are square and it needs no turning; everything else is refused,
never approximated. Its pixels come from another build of FFmpeg: mostly equal to PyAV's, promised by nobody.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from pipeline.media import passes, picture
from pipeline.media.packets import PacketIndex
from pipeline.media.recipe import recipe
from pipeline.media.source import Source, open_source, pixel_aspect, record
from pipeline.media.types import DecodeRequest, Event, Frame, Header, MediaError
from pipeline.media.wanted import Wanted

# decord keeps times as float32; half a millisecond tells frames of up to 1000 per second apart.
TOLERANCE_S = 5e-4


def pictures(
    request: DecodeRequest, opened: Source, index: PacketIndex, predicted: Wanted | None
) -> Generator[Event, None, Wanted]:
    """Header and wanted frames through decord; returns the plan.

    Raises
    ------
    MediaError
        `unsupported_codec` when decord is not installed or the file is refused.
    """
    reader = _open(request.path)
    if predicted is None:
        raise _refusal("packets without times of their own")
    with open_source(request.path, request.limits) as source:
        aspect = pixel_aspect(source)
        first = next(passes.stamped(source))[1]
        seen = picture.record(first, aspect)
        if aspect != 1 or picture.orientation(first) != picture.Orientation():
            raise _refusal("pixels that are not square, or a rotation")
        times = source.seconds(predicted.displayed)
        media = record(source) | {
            "duration_s": predicted.source_duration_s,
            "frames": len(predicted.displayed),
            "decode": "decord",
            "plain_because": None,
            "times_from": "packets",
            "damaged_packets": index.corrupt,
            "backend": recipe("decord"),
        }
    shown = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0] if len(reader) else np.empty(0)
    if len(shown) != len(times) or np.abs(shown - np.array(times)).max() > TOLERANCE_S:
        raise _refusal(f"{len(shown)} frames by decord's count, {len(times)} on screen, or at other times")
    yield Header(media | seen, predicted.duration_s, predicted.samples)
    for number, pts in enumerate(predicted.displayed):
        if pts in predicted.uses:
            rgb = np.ascontiguousarray(reader[number].asnumpy())
            yield Frame(rgb, predicted.time_s[pts], predicted.uses[pts])
    return predicted


def _open(path: str) -> Any:
    try:
        import decord
    except ImportError as error:
        raise MediaError("unsupported_codec", "the backend 'decord' needs the package decord") from error
    decord.logging.set_level(decord.logging.FATAL)
    try:
        return decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise MediaError("corrupt", f"decord cannot open the file: {str(error).splitlines()[0]}") from error


def _refusal(what: str) -> MediaError:
    return MediaError("unsupported_codec", f"refused by the decord backend: {what}")

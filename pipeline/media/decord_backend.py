"""The opt-in decord backend: the same frames by time, refused where decord would show others.

decord numbers frames by packets and knows no edit lists. A file is decoded only when its times equal those that the
packets predict; everything else is refused, never approximated. Its pixels come from another build of FFmpeg: mostly
equal to PyAV's, promised by nobody.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np

from pipeline.media.foreign import agreed, refusal
from pipeline.media.packets import PacketIndex
from pipeline.media.source import Source
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
    reader = _open(request)
    wanted, media = agreed(request, index, predicted)
    times = opened.seconds(wanted.displayed)
    shown = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0] if len(reader) else np.empty(0)
    if len(shown) != len(times) or np.abs(shown - np.array(times)).max() > TOLERANCE_S:
        raise refusal(request, f"{len(shown)} frames by decord's count, {len(times)} on screen, or at other times")
    yield Header(media, wanted.duration_s, wanted.samples)
    # One after the other: where decord seeks (an index, a skip), it may show another frame under the right number.
    last = wanted.last
    for pts in wanted.displayed:
        if last is None or pts > last:
            break
        frame = reader.next()
        if pts in wanted.uses:
            yield Frame(np.ascontiguousarray(frame.asnumpy()), wanted.time_s[pts], wanted.uses[pts])
    return wanted


def _open(request: DecodeRequest) -> Any:
    try:
        import decord
    except ImportError as error:
        raise MediaError("unsupported_codec", "the backend 'decord' needs the package decord") from error
    decord.logging.set_level(decord.logging.FATAL)
    try:
        return decord.VideoReader(request.path, ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise refusal(request, f"decord cannot open it: {str(error).splitlines()[0]}") from error

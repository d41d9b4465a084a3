"""Reads frames with decord, and refuses a file of which decord would show other frames.

decord numbers frames by packets and knows no edit lists. A file is decoded only if its times equal those that the
packets predict; everything else is refused, never approximated. Its pixels come from another build of FFmpeg: they
are mostly equal to PyAV's, but nobody promises it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.media.errors import RefusalError, first_line
from pipeline.media.frame_plan import FramePlan
from pipeline.media.source import Source
from pipeline.media.types import DecodeRequest, MediaError

# decord keeps times as float32; half a millisecond tells frames of up to 1000 per second apart.
TOLERANCE_S = 5e-4


def open_frames(
    request: DecodeRequest, opened: Source, plan: FramePlan
) -> tuple[dict[str, Any], Iterator[tuple[int, NDArray[np.uint8]]]]:
    """Open a file and check that decord shows the frames of the plan.

    Returns
    -------
    library
        What the media record says about the library: nothing.
    frames
        (pts, uint8 [H, W, 3]) of each wanted frame, ascending.

    Raises
    ------
    MediaError
        ``unsupported_codec`` if decord is not installed or the file is refused.
    """
    reader = _open(request)
    times = opened.seconds(plan.displayed)
    shown = reader.get_frame_timestamp(np.arange(len(reader)))[:, 0] if len(reader) else np.empty(0)
    if len(shown) != len(times) or np.abs(shown - np.array(times)).max() > TOLERANCE_S:
        raise RefusalError(
            request.backend, f"{len(shown)} frames by decord's count, {len(times)} on screen, or at other times"
        )
    return {}, _read(reader, plan)


def _open(request: DecodeRequest) -> Any:
    try:
        import decord
    except ImportError as error:
        raise MediaError("unsupported_codec", "the backend 'decord' needs the package decord") from error
    decord.logging.set_level(decord.logging.FATAL)
    try:
        return decord.VideoReader(request.path, ctx=decord.cpu(0), num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise RefusalError(request.backend, f"decord cannot open it: {first_line(error)}") from error


def _read(reader: Any, plan: FramePlan) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    # One after the other: where decord seeks (an index, a skip), it may show another frame under the right number.
    last = plan.last
    for pts in plan.displayed:
        if last is None or pts > last:
            break
        frame = reader.next()
        if pts in plan.uses:
            yield pts, np.ascontiguousarray(frame.asnumpy())

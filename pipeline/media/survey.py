"""Reads a file's packets, without decoding, for proof that corrected rules leave its rows as they are.

Rule 1 is that of the first release, rule 2 today's (``docs/facts/media.md``). Both give the same row where the clock is
clean, every packet has a time of its own, the file is whole, and the sound has no gap that only one of them sees.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.media.frame_plan import timeline_of
from pipeline.media.packets import PacketIndex
from pipeline.media.sampling import dump_frames
from pipeline.media.source import Source, open_source
from pipeline.media.types import DecodeRequest

GAP_S_OF_RULE_1 = Fraction(1, 50)
"""Seconds by which a stamp could be off under rule 1 before the sound was cut there."""
_MARGIN_S = Fraction(1, 200)  # what the rounding of containers may hide


def survey(source: Source, index: PacketIndex, request: DecodeRequest) -> dict[str, Any]:
    """Return what the packets say, JSON-able.

    Returns
    -------
    dict
        ``video_stream``, ``audio_stream``, ``zero_s``, ``codec``: as in the media record. ``frames``: number of frames
        shown, or None if the packets do not tell. ``clean``: the clock does not leap, no packet is damaged, the file is
        whole. ``same_dump``: the 6-fps dump takes the same frames under both rules. ``sound_is_continuous``: no stamp
        of the sound is off by as much as rule 1 allowed; True without sound.
    """
    displayed = index.displayed() if index.timed else None
    return {
        "video_stream": source.video.index,
        "audio_stream": None if source.audio is None else source.audio.index,
        "zero_s": float(source.zero),
        "codec": source.video.codec_context.codec.canonical_name,
        "frames": None if displayed is None else len(displayed),
        "clean": not (index.clock.leaps or index.corrupt or index.cut),
        "same_dump": bool(displayed) and _same_dump(source, index, displayed or [], request),
        "sound_is_continuous": _sound_is_continuous(source),
    }


def _same_dump(source: Source, index: PacketIndex, displayed: list[tuple[int, int]], request: DecodeRequest) -> bool:
    timeline = timeline_of(source, displayed, index, whole=request.start_s is None and request.end_s is None)
    before = replace(timeline, dump_zero_s=0.0, alone=False)
    return np.array_equal(dump_frames(timeline, 6), dump_frames(before, 6))


def _sound_is_continuous(source: Source) -> bool:
    """Return whether every packet of the sound begins where the one before it ended, within rule 1's tolerance.

    A codec's own frame size is believed before the duration that a container claims.
    """
    audio = source.audio
    if audio is None:
        return True
    context = audio.codec_context
    if context is None or audio.time_base is None or not context.sample_rate:
        return False
    fixed = Fraction(context.frame_size, context.sample_rate) if context.frame_size else None
    expected: Fraction | None = None
    with open_source(source.path, source.limits, files=source.files) as again:
        assert again.audio is not None
        for packet in again.demux(again.audio):
            if not packet.size:
                continue
            length = fixed or Fraction(packet.duration or 0) * audio.time_base
            if packet.pts is None or not length:
                return False
            begin = packet.pts * audio.time_base
            if expected is not None and abs(begin - expected) > GAP_S_OF_RULE_1 - _MARGIN_S:
                return False
            expected = (begin if expected is None else expected) + length
    return True

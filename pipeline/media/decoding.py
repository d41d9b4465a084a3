"""Decodes one file in this process: one pass serves every consumer.

Exact first, then fast. The packets' times predict the frames shown, the policies choose on them, and the decoder is
then held to the prediction: where it differs, the file is decoded again in order, on the times it really shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from pipeline.media import foreign, image_folder, passes, picture
from pipeline.media.audio import decode_audio
from pipeline.media.damage import DamageLog, damaged_frames, damaged_slots
from pipeline.media.errors import FAILURES as _FAILURES
from pipeline.media.errors import RefusalError, classify, translate_errors
from pipeline.media.frame_plan import FramePlan, plan_frames, rate_remark
from pipeline.media.inputs import LOCAL, Files
from pipeline.media.packets import PacketIndex, read_index
from pipeline.media.recipes import recipe
from pipeline.media.source import Source, describe_source, open_source, pixel_aspect, rewind
from pipeline.media.survey import survey
from pipeline.media.types import DecodeRequest, Event, Findings, Frame, Header, MediaError, StreamFailure, Survey

_Pass = Literal["skip", "plain", "recount"]
"""How a pass goes through the stream: skipping what nobody needs; in order, as predicted; in order, as displayed."""


def decode(request: DecodeRequest, files: Files = LOCAL) -> Iterator[Event]:
    """Decode what ``request`` wants from the files that ``files`` opens.

    Yields
    ------
    Event
        A ``Header``, then each wanted ``Frame`` once in ascending time (or ``Picks``, for the backend ``nvdec``),
        ``Findings`` if there are some, then ``Audio`` if it is wanted. If the decoder shows other frames than promised
        after the first one came, another ``Header`` voids what was sent and everything comes again. If pictures and
        sound are both wanted, a failure of one of them is a ``StreamFailure`` in its place, and the other comes all the
        same.

    Raises
    ------
    MediaError
        For every failure of the file, at whatever event it shows, and for a failure of the only stream that is wanted.
    """
    if request.backend == "pyav":
        decode_pictures = _decode_pictures
    elif request.backend == "nvdec":
        decode_pictures = _pick_pictures
    elif request.backend in foreign.BACKENDS:
        decode_pictures = foreign.decode_pictures
    else:
        raise MediaError("unsupported_codec", f"no decoding backend is named {request.backend!r}")
    header: Header | None = None
    with translate_errors(request.path, files):
        if request.image_rate is not None:
            yield from image_folder.decode_folder(request, files)
            return
        with open_source(request.path, request.limits, files=files) as source:
            index = read_index(source)
            source = source.on(index.clock)
            if request.survey:
                yield Survey(survey(source, index, request))
                return
            predicted = plan_frames(request, source, index.displayed(), index) if index.timed else None
            try:
                for event in decode_pictures(request, source, index, predicted):
                    if isinstance(event, Header):
                        header = event
                    yield event
            except _FAILURES as error:
                if request.audio is None or predicted is None or not request.policies:
                    raise
                failure = classify(error)
                header = Header(describe_source(source), predicted.duration_s, predicted.samples)
                yield header
                yield StreamFailure("video", failure.failure_class, failure.message)
        if request.audio is None:
            return
        assert header is not None  # every pass sends one, also without a wanted frame
        try:
            with open_source(request.path, request.limits, index.clock, files) as source:
                yield from decode_audio(source, request.audio, Fraction(request.start_s or 0.0), header.duration_s)
        except _FAILURES as error:
            if not request.policies:
                raise
            failure = classify(error)
            yield StreamFailure("audio", failure.failure_class, failure.message)


def _pick_pictures(
    request: DecodeRequest, opened: Source, index: PacketIndex, predicted: FramePlan | None
) -> Iterator[Event]:
    """Pick the pictures for a decoder on a GPU; decode them here if that one would show others, and say why."""
    try:
        picked = foreign.pick_pictures(request, opened, index, predicted)
    except RefusalError as refusal:
        for event in _decode_pictures(request, opened, index, predicted):
            yield fallen_back(event, refusal) if isinstance(event, Header) else event
    else:
        yield from picked


def fallen_back(header: Header, refusal: RefusalError) -> Header:
    """Return the header of a file that PyAV decodes because another backend refused it."""
    return replace(header, media=header.media | {"fallback": {"from": refusal.backend, "reason": refusal.reason}})


def _decode_pictures(
    request: DecodeRequest, opened: Source, index: PacketIndex, predicted: FramePlan | None
) -> Iterator[Event]:
    """Try the passes from fast to plain until one delivers what it promised."""
    reason = index.objection
    if predicted is not None and not (index.corrupt and predicted.uses):
        passes_to_try: tuple[_Pass, ...] = ("plain",) if index.objection else ("skip", "plain")
        for name in passes_to_try:
            try:
                with _open_at_start(request, opened, index, name) as source:
                    yield from _decode_pass(request, source, index, predicted, name, reason)
            except passes.Mismatch as mismatch:
                reason = str(mismatch)
            else:
                return
    log = DamageLog()
    with open_source(request.path, request.limits, index.clock, opened.files) as source:
        duration_s = None if predicted is None else predicted.source_duration_s
        actual = plan_frames(request, source, passes.list_displayed(source, log), index, duration_s)
    remarks: dict[str, Any] = {}
    with open_source(request.path, request.limits, index.clock, opened.files) as source:
        for event in _decode_pass(request, source, index, actual, "recount", reason):
            if isinstance(event, Findings):
                remarks = event.remarks
            else:
                yield event
    if log or index.corrupt or remarks:
        slots = damaged_slots(damaged_frames(log, index), predicted, actual, len(request.policies))
        corrupt = len(log.corrupt) + len(log.concealed)
        yield Findings({"undecodable_packets": len(log.undecodable), "corrupt_frames": corrupt}, slots, remarks)


@contextmanager
def _open_at_start(request: DecodeRequest, opened: Source, index: PacketIndex, name: _Pass) -> Iterator[Source]:
    """Give the file at its first packet, without opening it again if a skipping pass can do without.

    That pass takes the packets that were kept, or checks every packet and can therefore trust a rewound file. Opening
    costs as much as decoding several frames, since libav decodes some to learn about the streams.
    """
    if name == "skip" and (index.kept or rewind(opened)):
        yield opened
    else:
        with open_source(request.path, request.limits, index.clock, opened.files) as source:
            yield source


def _decode_pass(
    request: DecodeRequest, source: Source, index: PacketIndex, plan: FramePlan, name: _Pass, reason: str | None
) -> Iterator[Event]:
    """Yield header and frames of one pass; the header waits for the first frame, which completes it."""
    aspect, coded_aspect = pixel_aspect(source), source.video.codec_context.sample_aspect_ratio
    media = describe_source(source) | {
        "duration_s": plan.source_duration_s,
        "frames": len(plan.displayed),
        **rate_remark(source, plan),
        "decode": "skip" if name == "skip" else "plain",
        "plain_because": reason,
        "times_from": "decoder" if name == "recount" else "packets",
        "damaged_packets": len(index.corrupt),
        **({"truncated": index.cut} if index.cut else {}),
        "backend": recipe("pyav"),
    }
    header_due = True
    reformatter = VideoReformatter()
    for pts, frame in _decode_frames(name, source, plan, index):
        rgb = picture.to_rgb(reformatter, frame, aspect, request.limits)
        if header_due:
            yield Header(media | picture.describe(frame, aspect), plan.duration_s, plan.samples)
            header_due = False
        yield Frame(rgb, plan.time_s[pts], plan.uses[pts])
    if header_due:
        yield Header(media, plan.duration_s, plan.samples)
    if source.video.codec_context.sample_aspect_ratio != coded_aspect:
        yield Findings({}, ((),) * len(request.policies), {"sample_aspect_ratio_changes": True})


def _decode_frames(
    name: _Pass, source: Source, plan: FramePlan, index: PacketIndex
) -> Iterator[tuple[int, VideoFrame]]:
    if not plan.uses:
        return iter(())
    if name == "skip":
        return passes.decode_skipping(source, plan, index)
    return passes.decode_in_order(source, plan) if name == "plain" else passes.decode_retimed(source, plan)

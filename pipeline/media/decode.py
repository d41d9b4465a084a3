"""Decode one file in this process: one pass serves every consumer.

Exact first, then fast. The packets' times predict the frames shown, the policies choose on them, and the decoder is
then held to the prediction: where it differs, the file is decoded again plainly, on the times it really shows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from pipeline.media import passes, picture
from pipeline.media.audio import decode_audio
from pipeline.media.errors import translated
from pipeline.media.packets import PacketIndex, read_index
from pipeline.media.recipe import recipe
from pipeline.media.source import Source, open_source, pixel_aspect, record, rewind
from pipeline.media.types import DecodeRequest, Event, Frame, Header, MediaError
from pipeline.media.wanted import Wanted, plan


def decode(request: DecodeRequest) -> Iterator[Event]:
    """Decode what `request` wants.

    Yields
    ------
    Event
        A `Header`, then each wanted `Frame` once in ascending time, then `Audio` where asked for. Should the decoder
        show other frames than promised after the first came, another `Header` voids what was sent and all comes
        again.

    Raises
    ------
    MediaError
        For every failure of the file, at whatever event it shows.
    """
    if request.backend == "decord":
        from pipeline.media import decord_backend

        pictures = decord_backend.pictures
    elif request.backend in ("torchcodec", "nvdec"):
        from pipeline.media import torchcodec_backend

        pictures = torchcodec_backend.pictures
    elif request.backend == "pyav":
        pictures = _pictures
    else:
        raise MediaError("unsupported_codec", f"no decoding backend is named {request.backend!r}")
    with translated():
        with open_source(request.path, request.limits) as source:
            index = read_index(source, request.path)
            predicted = plan(request, source, index.displayed(), index) if index.timed else None
            wanted = yield from pictures(request, source, index, predicted)
        if request.audio is not None:
            with open_source(request.path, request.limits) as source:
                yield decode_audio(source, request.audio, wanted.start, wanted.duration_s)


def _pictures(
    request: DecodeRequest, opened: Source, index: PacketIndex, predicted: Wanted | None
) -> Generator[Event, None, Wanted]:
    """Try the ways from fast to plain until one delivers what it promised; returns the plan that held."""
    reason = index.objection
    if predicted is not None:
        for way in ("plain",) if index.objection else ("skip", "plain"):
            try:
                with _from_the_start(request, opened, index, way) as source:
                    yield from _one_way(request, source, index, predicted, way, reason)
            except passes.Mismatch as mismatch:
                reason = str(mismatch)
            else:
                return predicted
    with open_source(request.path, request.limits) as source:
        actual = plan(request, source, passes.counted(source), index)
    with open_source(request.path, request.limits) as source:
        yield from _one_way(request, source, index, actual, "recount", reason)
    return actual


@contextmanager
def _from_the_start(request: DecodeRequest, opened: Source, index: PacketIndex, way: str) -> Iterator[Source]:
    """The file at its first packet: as it is where all packets were kept, rewound where the pass checks every packet
    anyway, else opened anew.

    Opening costs as much as decoding several frames, since libav decodes some to learn about the streams.
    """
    if way == "skip" and (index.kept or rewind(opened)):
        yield opened
    else:
        with open_source(request.path, request.limits) as source:
            yield source


def _one_way(
    request: DecodeRequest, source: Source, index: PacketIndex, wanted: Wanted, way: str, reason: str | None
) -> Iterator[Event]:
    """Header and frames of one pass; the header waits for the first frame, which completes it."""
    aspect = pixel_aspect(source)
    media = record(source) | {
        "duration_s": wanted.source_duration_s,
        "frames": len(wanted.displayed),
        "decode": "skip" if way == "skip" else "plain",
        "plain_because": reason,
        "times_from": "decoder" if way == "recount" else "packets",
        "damaged_packets": index.corrupt,
        "backend": recipe("pyav"),
    }
    header_due = True
    reformatter = VideoReformatter()
    for pts, frame in _frames(way, source, wanted, index):
        rgb = picture.to_rgb(reformatter, frame, aspect, request.limits)
        if header_due:
            yield Header(media | picture.record(frame, aspect), wanted.duration_s, wanted.samples)
            header_due = False
        yield Frame(rgb, wanted.time_s[pts], wanted.uses[pts])
    if header_due:
        yield Header(media, wanted.duration_s, wanted.samples)


def _frames(way: str, source: Source, wanted: Wanted, index: PacketIndex) -> Iterator[tuple[int, VideoFrame]]:
    if not wanted.uses:
        return iter(())
    if way == "skip":
        return passes.skipping(source, wanted, index)
    return passes.plain(source, wanted) if way == "plain" else passes.restamped(source, wanted)

"""Takes a folder of images for a video: frame dumps, as NExT-QA and MUSIC-AVQA are often handed on.

The images are ordered by the number in their names. A number that is missing is a frame that is missing: the image
before it stays on screen, and the step that shows it counts as damaged. Only wanted images are read.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import av.error
import av.logging
import numpy as np
from av.codec.context import CodecContext
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from pipeline.media import picture
from pipeline.media.audio import absent_audio
from pipeline.media.errors import is_damage
from pipeline.media.frame_plan import FramePlan, lay_out
from pipeline.media.inputs import LOCAL, Files
from pipeline.media.recipes import recipe
from pipeline.media.source import check_duration
from pipeline.media.timeline import Timeline
from pipeline.media.types import DecodeRequest, Event, Findings, Frame, Header, MediaError

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
_NUMBER = re.compile(r"(\d{1,18})$")
_MOST_BYTES = 256 << 20  # of one image; a larger one is refused


def is_image(name: str) -> bool:
    """Return whether a file's name is that of an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (a string)


def list_images(folder: str, files: Files = LOCAL) -> list[tuple[int, str]]:
    """Return (place, name) of the images of a folder, in the order in which they are shown.

    A place is a frame number from 0 on. Names that all end in different numbers are placed by them; the numbers may
    have a common step (a dump of which every third file was kept). Other names are placed one after the other, sorted
    by their bytes.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    names = sorted(filter(is_image, files.names(folder)), key=os.fsencode)
    matches = [_NUMBER.search(Path(name).stem) for name in names]
    numbers = [int(match[1]) for match in matches if match]
    if len(set(numbers)) < len(names) or len(names) < 2:
        return list(enumerate(names))
    numbered = sorted(zip(numbers, names, strict=True))
    step = math.gcd(*(later - earlier for (earlier, _), (later, _) in pairwise(numbered)))
    return [((number - numbered[0][0]) // step, name) for number, name in numbered]


def decode_folder(request: DecodeRequest, files: Files = LOCAL) -> Iterator[Event]:
    """Yield the events of a folder of images, shown at ``request.image_rate``; it has no sound.

    Raises
    ------
    MediaError
        ``too_short`` for a folder without images; ``corrupt`` if none of the wanted ones decodes; ``no_audio`` if sound
        is wanted and its absence is a failure.
    """
    rate = request.image_rate
    assert rate is not None
    av.logging.set_level(None)
    images = list_images(request.path, files)
    if not images:
        raise MediaError("too_short", "the folder holds no images")
    names = dict(images)
    duration_s = (images[-1][0] + 1) / rate
    check_duration(duration_s, request.limits)
    undecodable: set[int] = set()
    while True:
        there = [place for place in names if place not in undecodable]
        if not there:
            raise MediaError("corrupt", "none of the images decodes")
        timeline = Timeline(
            pts_s=np.array(there, dtype=np.float64) / rate,
            duration_s=duration_s,
            frame_rate=rate,
            nominal_rate=rate,
            dumped_rate=rate,
        )
        plan = lay_out(request, there, timeline)
        failed: set[int] = set()
        yield from _pass(request, files, names, plan, failed)
        if not failed:
            break
        undecodable |= failed  # the images before them take their place
    missing = images[-1][0] + 1 - len(images)
    if missing or undecodable:
        shown = set(there)
        stand_ins = {place for place in plan.uses if place + 1 not in shown and place < images[-1][0]}
        record = {"undecodable_images": len(undecodable), "missing_images": missing}
        yield Findings(record, plan.slots_of(stand_ins, len(request.policies)))
    if request.audio is not None:
        yield from absent_audio(request.audio, plan.duration_s, "a folder of images has no sound")


def _pass(
    request: DecodeRequest, files: Files, names: dict[int, str], plan: FramePlan, failed: set[int]
) -> Iterator[Event]:
    """Yield the header and the wanted images; those that do not decode go into ``failed``, and nothing follows them."""
    reformatter = VideoReformatter()
    header_due = True
    media = {
        "format": "images",
        "frames": len(plan.displayed),
        "frame_rate": request.image_rate,
        "duration_s": plan.source_duration_s,
        "zero_s": 0.0,
        "decode": "images",
        "backend": recipe("pyav"),
    }
    for place, uses in plan.uses.items():
        frame = _decode_image(f"{request.path}/{names[place]}", files, request)
        if frame is None:
            failed.add(place)
        elif not failed:
            rgb = picture.to_rgb(reformatter, frame, picture.SQUARE, request.limits)
            if header_due:
                yield Header(media | picture.describe(frame, picture.SQUARE), plan.duration_s, plan.samples)
                header_due = False
            yield Frame(rgb, plan.time_s[place], uses)
    if header_due and not failed:
        yield Header(media, plan.duration_s, plan.samples)


def _decode_image(path: str, files: Files, request: DecodeRequest) -> VideoFrame | None:
    """Return the picture of an image file, or None if it does not decode."""
    with files.open(path) as file:
        if file.seek(0, io.SEEK_END) > _MOST_BYTES:
            return None
        file.seek(0)
        data = file.read()
    kind = picture.image_kind(data)
    if kind is None:
        return None
    context = cast("VideoCodecContext", CodecContext.create(kind.codec, "r"))
    context.options = {"max_pixels": str(request.limits.max_pixels)}
    try:
        frames = [*context.decode(Packet(data)), *context.decode(None)]
    except av.error.FFmpegError as error:
        if not is_damage(error):
            raise
        return None
    return next((frame for frame in frames if not frame.is_corrupt), None)

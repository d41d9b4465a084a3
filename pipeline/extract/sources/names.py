"""Knows the names of files: which are videos, and which key a name gives."""

from __future__ import annotations

from collections import Counter
from typing import Literal

# Every format that the decoder opens (pipeline/media/source.py), by the names that its files commonly have.
_SUFFIXES = """
264 265 3g2 3gp asf avc avi divx dv f4v flv gif h264 h265 hevc ivf m1v m2t m2ts m2v m4v mj2 mjpeg mjpg mk3d mkv mod mov
mp4 mpe mpeg mpg mpv mts mxf nut obu ogg ogm ogv qt rm rmvb tod trp ts vc1 vob vro webm wmv wtv y4m
"""
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())
_BARE = frozenset(_SUFFIXES.split())

IMAGES_HINT = "folders of images are videos with --set source.image_rate=FPS"

KeyMode = Literal["stem", "relpath"]


def has_video_suffix(name: str, ignored: Counter[str]) -> bool:
    """Return whether a file's name is that of a video; count the name if it is not."""
    if name.startswith("."):
        ignored[".*"] += 1
        return False
    _, dot, suffix = name.rpartition(".")
    if dot and (suffix in _BARE or suffix.lower() in _BARE):
        return True
    ignored[f".{suffix.lower()}" if dot else ""] += 1
    return False

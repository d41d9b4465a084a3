"""Says what a feature's spec must record about decoding: equal recipes give equal pictures and sound."""

from __future__ import annotations

from functools import cache
from importlib import metadata
from typing import Any

from pipeline.media.audio import TOLERANCE_S
from pipeline.media.torchcodec_backend import libraries
from pipeline.media.types import MediaError

_PACKAGES = {"pyav": "av", "decord": "decord", "torchcodec": "torchcodec", "nvdec": "torchcodec"}
_RGB = {
    "pyav": "swscale bilinear, matrix and range from tags",
    "decord": "decord rgb24",
    "torchcodec": "torchcodec rgb24",
    "nvdec": "NVDEC, torchcodec rgb24; swscale where PyAV decodes instead",
}
RULES = {"time": 2, "sound": 2, "damage": 2}
"""Numbers of the rules in ``docs/facts/media.md``; a number rises when a rule is corrected.

Rule 1 was that of the first release. The planner carries rows over that a corrected rule does not touch
(``pipeline.media.survey``).
"""
_LIBRARIES = ("libavformat", "libavcodec", "libswscale", "libswresample")


@cache
def device_recipe() -> dict[str, Any]:
    """Return what else the spec of a feature must record whose pictures a GPU decodes, JSON-able. Imports torch.

    Raises
    ------
    MediaError
        ``unsupported_codec`` if torchcodec is not installed or cannot be loaded.
    """
    return {"ffmpeg_major": libraries()["ffmpeg_major"]}


@cache
def recipe(backend: str) -> dict[str, Any]:
    """Return the recipe of one backend, JSON-able.

    Raises
    ------
    MediaError
        ``unsupported_codec`` if the backend is unknown or not installed.
    """
    if backend not in _PACKAGES:
        raise MediaError("unsupported_codec", f"no decoding backend is named {backend!r}")
    import av

    package = _PACKAGES[backend]
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError as error:
        raise MediaError("unsupported_codec", f"the backend {backend!r} needs the package {package!r}") from error
    versions = {name: ".".join(map(str, av.library_versions[name])) for name in _LIBRARIES}
    return {
        "backend": backend,
        "version": version,
        "libraries": versions,
        "rules": RULES,
        "axis": "presentation zero after edit lists; greatest pts <= t",
        "rgb": _RGB[backend],
        "geometry": "square pixels by growing the short side, then display matrix",
        "audio": f"mean of channels, then swresample {versions['libswresample']}, clipped",
        "audio_tolerance_s": TOLERANCE_S,
    }

"""Image processors of transformers, read from their ``preprocessor_config.json`` without importing the library.

Only processors are read that resize, crop and normalise as written here; what another one does is not guessed. The
numbers are those of the library's backend ``pil``, bit for bit up to the normalisation. Its backend ``torchvision``
resizes with weights of fewer bits and differs from it by a step of 255 here and there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from extractors.base import ExtractorError
from extractors.preprocess import Interpolation, Preprocessing, Rgb
from settings.messages import available

_FILTERS: dict[Any, Interpolation] = {2: "bilinear", 3: "bicubic", "bilinear": "bilinear", "bicubic": "bicubic"}
_STANDARD, _IMAGENET = ([0.5] * 3, [0.5] * 3), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
_CLIP = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
_CONVNEXT_WARPS_FROM = 384


@dataclass(frozen=True, slots=True)
class _Processor:
    """What a class of image processors does unless its file says otherwise.

    Attributes
    ----------
    size
        The option ``size``.
    crop
        The option ``crop_size``; None does not crop.
    resample
        Number of Pillow's filter.
    statistics
        Mean and std.
    kind
        ``convnext`` takes ``crop_pct`` instead of ``crop_size``; ``float`` resizes what was scaled to floats before.
    """

    size: dict[str, int]
    crop: int | None
    resample: int
    statistics: tuple[list[float], list[float]]
    kind: Literal["plain", "convnext", "float"] = "plain"


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


PROCESSORS = {
    "BitImageProcessor": _Processor({"shortest_edge": 224}, 224, 3, _CLIP),
    "BlipImageProcessor": _Processor(_square(384), None, 3, _CLIP),
    "CLIPImageProcessor": _Processor({"shortest_edge": 224}, 224, 3, _CLIP),
    "ConvNextImageProcessor": _Processor({"shortest_edge": 384}, None, 3, _STANDARD, "convnext"),
    "DINOv3ViTImageProcessor": _Processor(_square(224), None, 2, _IMAGENET, "float"),
    "DeiTImageProcessor": _Processor(_square(256), 224, 3, _STANDARD),
    "SiglipImageProcessor": _Processor(_square(224), None, 3, _STANDARD),
    "ViTImageProcessor": _Processor(_square(224), None, 2, _STANDARD),
}
_TO_A_SQUARE = ("BlipImageProcessor", "DINOv3ViTImageProcessor", "DeiTImageProcessor", "ViTImageProcessor")
"""Processors that take a plain number as ``size`` for both sides; for the others it is the short side."""


def processor_name(settings: Mapping[str, Any]) -> str:
    """Return the name of the class that settings are for, without what tells its backend.

    Raises
    ------
    ExtractorError
        If they name none, or one that is not known here.
    """
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if not isinstance(name, str):
        raise ExtractorError("names no image_processor_type; add that of the model, for example 'ViTImageProcessor'")
    name = name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast").removesuffix("Pil")
    if name not in PROCESSORS:
        more = "; it cuts pictures into a varying number of patches" if name == "Siglip2ImageProcessor" else ""
        raise ExtractorError(
            f"has the processor {name}{more}, which is not supported ({available(sorted(PROCESSORS))})"
        )
    return name


def read(settings: Mapping[str, Any]) -> Preprocessing:
    """Return what an image processor does, for pictures of any shape.

    Parameters
    ----------
    settings
        The content of ``preprocessor_config.json``.

    Raises
    ------
    ExtractorError
        If the processor is not known, or its settings ask for something that is not supported; the message goes on
        after the name of the file.
    """
    name = processor_name(settings)
    known = PROCESSORS[name]
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if settings.get(step, True) is False:
            raise ExtractorError(f"has {step}=false, which is not supported")
    if abs((settings.get("rescale_factor") or 1 / 255) * 255 - 1) > 1e-6:
        raise ExtractorError(f"has rescale_factor={settings['rescale_factor']}; only 1/255 is supported")
    if settings.get("do_pad"):
        raise ExtractorError("has do_pad=true, which is not supported")
    resample = settings.get("resample")
    interpolation = _FILTERS.get(known.resample if resample is None else resample)
    if interpolation is None:
        raise ExtractorError(f"has resample={resample!r}; only 2 (bilinear) and 3 (bicubic) are supported")
    mean, std = (settings.get(f"image_{key}") or known.statistics[place] for place, key in enumerate(("mean", "std")))
    geometry = _convnext(settings, known) if known.kind == "convnext" else _plain(settings, known, name)
    return Preprocessing(
        interpolation=interpolation,
        mean=_rgb(mean),
        std=_rgb(std),
        odd_margin="down",
        rounded=known.kind != "float",
        **geometry,
    )


def _plain(settings: Mapping[str, Any], known: _Processor, name: str) -> dict[str, Any]:
    size = _size(settings.get("size") or known.size, name in _TO_A_SQUARE, "size")
    crops = settings.get("do_center_crop")
    if not (known.crop is not None if crops is None else crops):
        if "shortest_edge" in size:
            raise ExtractorError("resizes the short side and crops nothing, so that pictures would differ in size")
        return {"size": size["height"], "crop": "squash"}
    wanted = settings.get("crop_size") or known.crop
    if wanted is None:
        raise ExtractorError("has do_center_crop=true and no crop_size")
    side = _size(wanted, True, "crop_size")["height"]
    resized = size.get("shortest_edge") or size["height"]
    if side > resized:
        raise ExtractorError(f"crops {side} pixels from pictures of {resized}; crop_size must not be larger than size")
    if "height" in size:
        return {"size": side, "crop": "squash", "short_side": resized if resized != side else None}
    return {"size": side, "crop": "center_crop", "short_side": resized}


def _convnext(settings: Mapping[str, Any], known: _Processor) -> dict[str, Any]:
    if settings.get("do_center_crop"):
        raise ExtractorError("has do_center_crop=true, which is not supported for this processor")
    size = _size(settings.get("size") or known.size, False, "size")
    if "shortest_edge" not in size:
        raise ExtractorError(f"has size={dict(size)}; this processor needs shortest_edge")
    side = size["shortest_edge"]
    if side >= _CONVNEXT_WARPS_FROM:
        return {"size": side, "crop": "squash"}
    return {"size": side, "crop": "center_crop", "short_side": int(side / (settings.get("crop_pct") or 224 / 256))}


def _size(value: Any, to_a_square: bool, option: str) -> dict[str, int]:
    """Return ``{"shortest_edge": n}`` or ``{"height": n, "width": n}``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return _square(value) if to_a_square else {"shortest_edge": value}
    if isinstance(value, Mapping):
        given = {key: side for key, side in value.items() if side is not None}
        if set(given) == {"shortest_edge"} or (set(given) == {"height", "width"} and given["height"] == given["width"]):
            return given
    raise ExtractorError(f"has {option}={value!r}; only square pictures of one size are supported")


def _rgb(values: Any) -> Rgb:
    if isinstance(values, int | float):
        values = [values] * 3
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(value, int | float) for value in values):
        raise ExtractorError(f"has the statistics {values!r}; three numbers are needed")
    return cast(Rgb, tuple(map(float, values)))

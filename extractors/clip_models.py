"""What open_clip knows about its models and their weights, read from its installed files without importing it.

Importing open_clip imports torch (seconds, hundreds of megabytes), which planning and decoding must not pay for. Model
shapes are JSON files; ``extractors.clip_table`` reads the table of pretrained weights.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from extractors import weights as weights_
from extractors.base import ExtractorError, WeightsError
from extractors.clip_table import Table, read_table
from extractors.preprocess import Crop, Interpolation, Rgb
from extractors.weights import HubTag, PinnedWeights, RandomWeights, Weights, WeightsFile
from settings.messages import nearest

_QUICKGELU = "-quickgelu"
OPENAI_MEAN: Rgb = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Rgb = (0.26862954, 0.26130258, 0.27577711)
_CROPS: dict[str, Crop] = {"shortest": "center_crop", "squash": "squash", "longest": "letterbox"}


@dataclass(frozen=True, slots=True)
class Tower:
    """The image tower of an open_clip model.

    Attributes
    ----------
    model
        open_clip's name without ``-quickgelu``, which is an activation and not a model.
    kind
        ``vit`` is open_clip's own vision transformer, ``resnet`` is OpenAI's, ``timm`` is a timm backbone.
    image_size
        Side of the input in pixels.
    patch_size
        Side of a patch in pixels; None unless ``vit``.
    width
        Channels of a token; None unless ``vit``.
    layers
        Transformer blocks; None unless ``vit``.
    embed_dim
        Channels of the joint space of images and texts.
    quick_gelu
        Activation that the model's file names, for weights that do not say theirs.
    patch_tokens
        True if every token goes through the final norm that the class token goes through.
    """

    model: str
    kind: Literal["vit", "resnet", "timm"]
    image_size: int
    patch_size: int | None
    width: int | None
    layers: int | None
    embed_dim: int
    quick_gelu: bool
    patch_tokens: bool


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """What belongs to weights rather than to an architecture: how their images looked in training.

    Attributes
    ----------
    mean, std
        Normalisation per channel, on the 0..1 scale.
    interpolation
        Filter that resizes.
    crop
        Policy that makes a frame square.
    quick_gelu
        True for QuickGELU, False for GELU; None if nothing is known and the model's file decides.
    """

    mean: Rgb
    std: Rgb
    interpolation: Interpolation
    crop: Crop
    quick_gelu: bool | None


@dataclass(frozen=True, slots=True)
class ClipNetwork:
    """A whole open_clip model (image and text tower) with its weights, as the towers build it.

    Attributes
    ----------
    name
        open_clip's name of the model, with ``-quickgelu`` if the options say so.
    weights
        Its weights.
    image_size
        Side of the input in pixels; another than the model's own interpolates the position embedding.
    quick_gelu
        True if the transformer blocks use QuickGELU.
    """

    name: str
    weights: PinnedWeights
    image_size: int
    quick_gelu: bool


def package_folder() -> Path:
    """Return the folder of the installed open_clip. Raises ExtractorError if it is not installed."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ExtractorError("the clip extractor needs the package open_clip_torch")
    return Path(spec.submodule_search_locations[0])


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Return the name of every model that open_clip ships, sorted."""
    return tuple(sorted(path.stem for path in (package_folder() / "model_configs").glob("*.json")))


@lru_cache(maxsize=32)
def config(model: str) -> dict[str, Any]:
    """Return open_clip's own description of a model. Raises ExtractorError with the nearest names if there is none."""
    if model not in model_names():
        raise ExtractorError(f"open_clip has no model {model!r}{nearest(model, model_names(), 3)}")
    file = package_folder() / "model_configs" / f"{model}.json"
    description: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return description


@lru_cache(maxsize=32)
def tower(model: str) -> Tower:
    """Return the image tower of a model. Raises ExtractorError if open_clip has no such model."""
    description = config(model)
    vision = description["vision_cfg"]
    size = vision.get("image_size", 224)
    if not isinstance(size, int):
        raise ExtractorError(f"{model} takes images of {size} pixels; only square images are supported")
    layers = vision.get("layers", 12)
    kind: Literal["vit", "resnet", "timm"]
    if vision.get("timm_model_name"):
        kind = "timm"
    else:
        kind = "resnet" if isinstance(layers, list) else "vit"
    is_vit = kind == "vit"
    return Tower(
        model=model.removesuffix(_QUICKGELU),
        kind=kind,
        image_size=size,
        patch_size=vision.get("patch_size", 16) if is_vit else None,
        width=vision.get("width", 768) if is_vit else None,
        layers=layers if is_vit else None,
        embed_dim=description["embed_dim"],
        quick_gelu=bool(description.get("quick_gelu", False)),
        patch_tokens=is_vit
        and vision.get("pool_type", "tok") == "tok"
        and not vision.get("attentional_pool")
        and not vision.get("final_ln_after_pool"),
    )


@lru_cache(maxsize=1)
def pretrained() -> Table:
    """Return open_clip's table of pretrained weights: model, then tag, then its preprocessing and address."""
    return {model: tags for model, tags in read_table(package_folder()).items() if not model.endswith(_QUICKGELU)}


def tag_entry(model: str, tag: str) -> dict[str, Any]:
    """Return open_clip's entry for a tag of a model. Raises WeightsError that lists the tags of the model."""
    tags = pretrained().get(model, {})
    if not tags:
        raise WeightsError(f"{model} has no weights {tag!r}: open_clip has no weights for it; give a file")
    if tag not in tags:
        raise weights_.unknown_tag(model, tag, sorted(tags))
    return tags[tag]


def clean_tag(tag: str) -> str:
    """Spell a tag as open_clip's table does."""
    return tag.lower().replace("-", "_")


@lru_cache(maxsize=1)
def openai_digests() -> dict[str, str]:
    """Map the sha256 of OpenAI's released files to model names; the digest is a folder in the file's address."""
    addresses = {model: tags["openai"]["url"] for model, tags in pretrained().items() if "openai" in tags}
    return {address.split("/")[-2]: model for model, address in addresses.items()}


def weight_facts(tower_: Tower, weights: Weights) -> WeightFacts:
    """Return the preprocessing of weights and, for tags and fetched files, the activation.

    Reads at most the header of a file.

    Raises
    ------
    WeightsError
        If the tag is unknown, or a file's header is damaged or says that it holds another model.
    """
    match weights:
        case RandomWeights():
            known: dict[str, Any] = {}
        case HubTag(tag):
            entry = tag_entry(tower_.model, tag)
            known = {**entry, "quick_gelu": bool(entry.get("quick_gelu", False))}
        case WeightsFile(path):
            weights_.check_model(path, tower_.model)
            known = weights_.facts(path)
    return WeightFacts(
        mean=cast(Rgb, tuple(known.get("mean", OPENAI_MEAN))),
        std=cast(Rgb, tuple(known.get("std", OPENAI_STD))),
        interpolation="bilinear" if known.get("interpolation") == "bilinear" else "bicubic",
        crop=_CROPS[known.get("resize_mode", "shortest")],
        quick_gelu=known.get("quick_gelu"),
    )


def quick_gelu(tower_: Tower, weights: Weights, facts: WeightFacts) -> bool:
    """Tell whether the transformer blocks of these weights use QuickGELU; hashes a file of unknown origin.

    Raises
    ------
    ExtractorError
        If the model's name contradicts its weights.
    WeightsError
        If a weights file cannot be read or belongs to another model.
    """
    quick = facts.quick_gelu
    if quick is None and isinstance(weights, WeightsFile):
        released = openai_digests().get(weights_.digest(weights.path))
        if released not in (None, tower_.model):
            raise WeightsError(f"weights file {weights.path} is OpenAI's {released}, not {tower_.model}")
        quick = True if released else None
    if quick is False and tower_.quick_gelu:
        raise ExtractorError(f"the name {tower_.model}-quickgelu says QuickGELU, its weights say GELU; set activation")
    return tower_.quick_gelu if quick is None else quick

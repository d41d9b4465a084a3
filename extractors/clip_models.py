"""What open_clip knows about its models and their weights, read from its installed files without importing it.

Importing open_clip imports torch (seconds, hundreds of megabytes), which planning and decoding must not pay for. Model
shapes are JSON files; the table of pretrained weights is a Python module made of literals, of which only the literals
are evaluated.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import runpy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from extractors import weights as weights_
from extractors.base import ExtractorError, WeightsError
from extractors.preprocess import Crop, Interpolation, Rgb
from extractors.weights import HubTag, RandomWeights, Weights, WeightsFile

_QUICKGELU = "-quickgelu"
OPENAI_MEAN: Rgb = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD: Rgb = (0.26862954, 0.26130258, 0.27577711)
_CROPS: dict[str, Crop] = {"shortest": "center_crop", "squash": "squash", "longest": "letterbox"}


@dataclass(frozen=True, slots=True)
class Tower:
    """The image tower of an open_clip model.

    Attributes
    ----------
    model:
        open_clip's name without `-quickgelu`, which is an activation and not a model.
    kind:
        `vit` is open_clip's own vision transformer, `resnet` OpenAI's, `timm` a timm backbone.
    image_size, patch_size, width, layers, embed_dim:
        Pixels, pixels, channels, blocks, channels of the joint space; None where the tower has no such thing.
    quick_gelu:
        The model file's own activation, for weights that do not say.
    patch_tokens:
        True if every token went through the final norm that the class token goes through.
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

    `quick_gelu` is None where nothing is known and the model file decides.
    """

    mean: Rgb
    std: Rgb
    interpolation: Interpolation
    crop: Crop
    quick_gelu: bool | None


def _package() -> Path:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ExtractorError("the clip extractor needs the package open_clip_torch")
    return Path(spec.submodule_search_locations[0])


@lru_cache(maxsize=1)
def model_names() -> tuple[str, ...]:
    """Every model open_clip ships, sorted."""
    return tuple(sorted(path.stem for path in (_package() / "model_configs").glob("*.json")))


@lru_cache(maxsize=32)
def config(model: str) -> dict[str, Any]:
    """open_clip's own description of a model. Raises ExtractorError with near matches if there is none."""
    if model not in model_names():
        by_lower = {name.lower(): name for name in model_names()}
        near = difflib.get_close_matches(model.lower(), by_lower, n=3, cutoff=0.5)
        hint = f"; near: {', '.join(by_lower[name] for name in near)}" if near else ""
        raise ExtractorError(f"open_clip has no model {model!r}{hint}")
    read: dict[str, Any] = json.loads((_package() / "model_configs" / f"{model}.json").read_text("utf-8"))
    return read


@lru_cache(maxsize=32)
def tower(model: str) -> Tower:
    """The image tower of a model. Raises ExtractorError if open_clip has no such model."""
    described = config(model)
    vision = described["vision_cfg"]
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
        embed_dim=described["embed_dim"],
        quick_gelu=bool(described.get("quick_gelu", False)),
        patch_tokens=is_vit
        and vision.get("pool_type", "tok") == "tok"
        and not vision.get("attentional_pool")
        and not vision.get("final_ln_after_pool"),
    )


@lru_cache(maxsize=1)
def pretrained() -> dict[str, dict[str, dict[str, Any]]]:
    """open_clip's table of pretrained weights: model, then tag, then its preprocessing and address.

    Kept from `open_clip/pretrained.py` are the `_…cfg` helpers and the private dictionaries, nothing else: no import,
    no download code. Should a later open_clip be laid out differently, the module itself is imported.
    """
    package = _package()
    tree = ast.parse((package / "pretrained.py").read_text("utf-8"))
    kept = [node for node in tree.body if _is_table(node)]
    namespace: dict[str, Any] = runpy.run_path(str(package / "constants.py"))
    exec(compile(ast.Module(kept, []), str(package / "pretrained.py"), "exec"), namespace)
    if "_PRETRAINED" not in namespace:
        namespace = vars(importlib.import_module("open_clip.pretrained"))
    table = cast("dict[str, dict[str, dict[str, Any]]]", namespace["_PRETRAINED"])
    return {model: tags for model, tags in table.items() if not model.endswith(_QUICKGELU)}


def _is_table(node: ast.stmt) -> bool:
    if isinstance(node, ast.FunctionDef):
        return node.name.startswith("_") and node.name.endswith("cfg")
    if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
        return False
    return node.targets[0].id.startswith("_") and isinstance(node.value, ast.Call | ast.Dict)


def tag_entry(model: str, tag: str) -> dict[str, Any]:
    """open_clip's entry for a tag of a model. Raises WeightsError that lists the tags there are."""
    tags = pretrained().get(model, {})
    if tag not in tags:
        known = f"it has: {', '.join(sorted(tags))}" if tags else "open_clip has no weights for it; give a file"
        raise WeightsError(f"{model} has no weights {tag!r}; {known}")
    return tags[tag]


def clean_tag(tag: str) -> str:
    """A tag as open_clip's table spells it."""
    return tag.lower().replace("-", "_")


@lru_cache(maxsize=1)
def openai_digests() -> dict[str, str]:
    """sha256 of OpenAI's released files to model name; the digest is the directory in the file's address."""
    addresses = {model: tags["openai"]["url"] for model, tags in pretrained().items() if "openai" in tags}
    return {address.split("/")[-2]: model for model, address in addresses.items()}


def weight_facts(tower_: Tower, weights: Weights) -> WeightFacts:
    """The preprocessing (and, for tags and fetched files, the activation) of weights; reads no more than a header.

    Raises
    ------
    WeightsError:
        The tag is unknown or a file's header is damaged.
    """
    match weights:
        case RandomWeights():
            known: dict[str, Any] = {}
        case HubTag(tag):
            entry = tag_entry(tower_.model, tag)
            known = {**entry, "quick_gelu": bool(entry.get("quick_gelu", False))}
        case _:
            known = weights_.facts(weights.path)
            carried = known.get("model", tower_.model)
            if carried != tower_.model:
                raise WeightsError(f"weights file {weights.path} holds {carried}, not {tower_.model}")
    return WeightFacts(
        mean=cast(Rgb, tuple(known.get("mean", OPENAI_MEAN))),
        std=cast(Rgb, tuple(known.get("std", OPENAI_STD))),
        interpolation="bilinear" if known.get("interpolation") == "bilinear" else "bicubic",
        crop=_CROPS[known.get("resize_mode", "shortest")],
        quick_gelu=known.get("quick_gelu"),
    )


def quick_gelu(tower_: Tower, weights: Weights, facts: WeightFacts) -> bool:
    """True if the transformer blocks trained with these weights use QuickGELU; hashes a file of unknown origin.

    Raises
    ------
    ExtractorError:
        The model's name contradicts its weights.
    WeightsError:
        A weights file cannot be read or belongs to another model.
    """
    quick = facts.quick_gelu
    if quick is None and isinstance(weights, WeightsFile):
        released = openai_digests().get(weights_.digest(weights.path))
        if released not in (None, tower_.model):
            raise WeightsError(f"weights file {weights.path} is OpenAI's {released}, not {tower_.model}")
        quick = True if released else None
    if quick is False and tower_.quick_gelu:
        raise ExtractorError(f"the name {tower_.model}-quickgelu says QuickGELU, its weights say GELU: set activation")
    return tower_.quick_gelu if quick is None else quick

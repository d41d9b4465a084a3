"""The network behind `clip`: open_clip's model, strictly loaded, its image tower run in inference mode."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import huggingface_hub
import open_clip
import torch
from open_clip import pretrained as hub
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from torch import nn

from extractors import clip_models, weights
from extractors import hub as weights_hub
from extractors.base import ExtractorError, FetchedWeights, Json, OutputSpec
from extractors.preprocess import Preprocessing
from extractors.torch_model import Execution, ImageModel
from extractors.weights import HubTag, RandomWeights, WeightsFile

if TYPE_CHECKING:
    from extractors.clip import Clip

Tokens = Literal["cls", "patch", "patch_projected"]

# OpenAI's TorchScript archives keep three numbers about the architecture among their tensors.
_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")


class ClipModel(ImageModel):
    """An open_clip image tower on one device.

    Parameters
    ----------
    visual:
        The tower.
    tokens:
        Which tokens to return.
    output, preprocessing, execution, weights_sha256:
        As for every image tower.
    """

    def __init__(
        self,
        visual: nn.Module,
        tokens: Tokens,
        output: OutputSpec,
        preprocessing: Preprocessing,
        execution: Execution,
        weights_sha256: str | None,
    ) -> None:
        libraries: dict[str, Json] = {"open_clip": open_clip.__version__}
        super().__init__(visual, output, preprocessing, execution, libraries, weights_sha256)
        self._tokens = tokens

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        """`float32 [M,3,size,size]` normalised to `[M, *step_shape]`."""
        if self._tokens == "cls":
            pooled = self.network(images)
            # CoCa's tower also returns the tokens for its caption decoder.
            embedding: torch.Tensor = pooled[0] if isinstance(pooled, tuple) else pooled
            return embedding
        visual: Any = self.network
        last = visual.forward_intermediates(
            images,
            indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        tokens = torch.cat([last["image_intermediates_prefix"][0], last["image_intermediates"][0]], dim=1)
        return tokens if self._tokens == "patch" else tokens @ visual.proj


def load(extractor: Clip, device: str, threads: int | None) -> ClipModel:
    """Build and load what `extractor` describes. Raises WeightsError, ExtractorError."""
    network, digest = build_network(extractor, _quick_gelu(extractor))
    return ClipModel(
        network.visual,
        extractor.tokens,
        extractor.output(),
        extractor.preprocessing,
        Execution(device, extractor.compute_dtype, threads, extractor.compile),
        digest,
    )


def fetch(extractor: Clip, tag: str, directory: Path) -> FetchedWeights:
    """Download a tag, load it strictly, write it as one safetensors file. Raises WeightsError."""
    network, digest = build_network(extractor.model_copy(update={"image_size": None}), _quick_gelu(extractor))
    entry = clip_models.tag_entry(extractor.tower.model, tag)
    model = extractor.tower.model
    carried: dict[str, Json] = {
        "model": model,
        "tag": tag,
        "quick_gelu": bool(entry.get("quick_gelu", False)),
        "mean": list(entry["mean"]),
        "std": list(entry["std"]),
        "interpolation": entry["interpolation"],
        "resize_mode": entry["resize_mode"],
    }
    listed = {"extractor": extractor.name, "model": model, "tag": tag, "source_sha256": digest or ""}
    return weights.save(network.state_dict(), directory / f"{model}-{tag}.safetensors", carried, listed)


def _quick_gelu(extractor: Clip) -> bool:
    return {"quick_gelu": True, "gelu": False}.get(extractor.resolved_activation(), extractor.tower.quick_gelu)


def build_network(extractor: Clip, quick_gelu: bool) -> tuple[Any, str | None]:
    """The whole open_clip model (image and text tower) with its weights, and the digest of their file.

    Raises
    ------
    WeightsError:
        The weights cannot be had or do not fit.
    ExtractorError:
        open_clip cannot build the model.
    """
    tower, source = extractor.tower, extractor.source
    native, size = tower.image_size, extractor.preprocessing.size
    path = None
    if isinstance(source, HubTag | WeightsFile):
        path = weights.resolve(source, tower.model, extractor.sha256, lambda: _download(tower.model, extractor.weights))
    seed = source.seed if isinstance(source, RandomWeights) else 0
    network = _architecture(extractor, native if tower.kind == "timm" else size, quick_gelu, seed)
    digest = None
    if path is not None:
        digest = weights.digest(path)
        state = _state_dict(network, path, digest)
        if size != native and tower.kind == "vit":
            resize_pos_embed(state, network)
        weights.load_strict(network, state, f"{_described(source, path)} as {extractor.model}")
    if size != native and tower.kind == "timm":
        network.visual.set_input_size(size)
    return network, digest


def _architecture(extractor: Clip, image_size: int, quick_gelu: bool, seed: int) -> Any:
    """The untrained model, seeded, without touching the process's random state or the network.

    open_clip's `create_model` is not used: it would warn that weights are missing before they are loaded, and may
    download the text tower's base weights.
    """
    described = deepcopy(clip_models.config(extractor.model))
    described["vision_cfg"]["image_size"] = image_size
    described["vision_cfg"]["timm_model_pretrained"] = False
    described["text_cfg"]["hf_model_pretrained"] = False
    described["quick_gelu"] = quick_gelu
    custom_text = described.pop("custom_text", False) or "hf_model_name" in described["text_cfg"]
    if not custom_text:
        cls = open_clip.CLIP
    else:
        cls = open_clip.CoCa if "multimodal_cfg" in described else open_clip.CustomTextCLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return cls(**described)
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ExtractorError(f"open_clip cannot build {extractor.model}: {reason}") from error


def _state_dict(network: Any, path: Path, digest: str) -> dict[str, torch.Tensor]:
    """A file's tensors under open_clip's names; only renaming and the shape of two scalars are forgiven."""
    released = clip_models.openai_digests().get(digest)
    state = weights.read_state_dict(path, trust_torchscript=released is not None)
    if released is not None:
        state = {name: value for name, value in state.items() if name not in _ARCHIVE_EXTRAS}
    state = dict(convert_state_dict(network, state))
    if "positional_embedding" in state and not hasattr(network, "positional_embedding"):
        state = dict(convert_to_custom_text_state_dict(state))
    return {name: _like(value, network, name) for name, value in state.items()}


def _like(value: torch.Tensor, network: Any, name: str) -> torch.Tensor:
    scalar = getattr(network, name, None) if name in ("logit_scale", "logit_bias") else None
    return value.reshape(scalar.shape) if scalar is not None and value.numel() == 1 else value


def _download(model: str, tag: str) -> Path:
    """A tag's file in the hub cache; no request is sent if it is there already.

    Raises
    ------
    WeightsError:
        The hub cannot be reached or refuses.
    """
    entry: dict[str, Any] = clip_models.tag_entry(model, tag)
    repository, name = os.path.split(entry["hf_hub"])
    safe = Path(name).with_suffix(".safetensors").name if name else HF_SAFE_WEIGHTS_NAME
    for candidate in (safe, name or HF_WEIGHTS_NAME):
        cached = huggingface_hub.try_to_load_from_cache(repository, candidate)
        if isinstance(cached, str):
            return Path(cached)
    address = huggingface_hub.constants.ENDPOINT if repository else entry["url"]
    found: list[str] = []
    weights_hub.download(f"{model} {tag!r}", address, lambda: found.append(hub.download_pretrained(entry)))
    return Path(found[0])


def _described(source: weights.Weights, path: Path) -> str:
    return f"weights {source.tag!r}" if isinstance(source, HubTag) else f"weights file {path}"

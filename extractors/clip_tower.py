"""The network behind ``clip``: open_clip's model, strictly loaded, its image tower run in inference mode.

Paper: Alec Radford, Jong Wook Kim, Chris Hallacy et al., "Learning Transferable Visual Models From Natural Language
Supervision", 2021, https://arxiv.org/abs/2103.00020. Most weights other than OpenAI's follow Mehdi Cherti, Romain
Beaumont, Ross Wightman et al., "Reproducible scaling laws for contrastive language-image learning", 2022,
https://arxiv.org/abs/2212.07143.

Code: open_clip, https://github.com/mlfoundations/open_clip, MIT licence.

Weights: the tag ``openai`` is OpenAI's release, https://github.com/openai/CLIP, MIT licence. Every other tag has the
origin and the licence of the model card that open_clip's table names; some, as MetaCLIP's, exclude commercial use.
"""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed
from open_clip.pretrained import download_pretrained
from torch import nn

from extractors import clip_models, hub, tensors, weights
from extractors.base import Execution, ExtractorError, Json, OutputSpec, WeightsError
from extractors.clip_models import ClipNetwork
from extractors.preprocess import Preprocessing
from extractors.torch_model import ImageModel
from settings.messages import one_line

Tokens = Literal["cls", "patch", "patch_projected", "patch_map"]

# What open_clip's functions raise for a file of another architecture: they look for tensors, by name and shape.
_FOREIGN = (KeyError, IndexError, ValueError, AttributeError, TypeError, RuntimeError, AssertionError)
# OpenAI's TorchScript archives keep three numbers about the architecture among their tensors.
_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")


class ClipModel(ImageModel):
    """An open_clip image tower on one device.

    Parameters
    ----------
    visual
        The tower.
    tokens
        Which tokens to return.
    output, preprocessing, execution, weights_sha256
        As for every ``ImageModel``.
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

    def _embed(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised ``[M,3,size,size]`` into ``[M, *step_shape]``."""
        if self._tokens == "cls":
            pooled = network(images)
            # CoCa's tower also returns the tokens for its caption decoder.
            embedding: torch.Tensor = pooled[0] if isinstance(pooled, tuple) else pooled
            return embedding
        visual: Any = network
        last = visual.forward_intermediates(
            images,
            indices=1,
            normalize_intermediates=True,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        patches: torch.Tensor = last["image_intermediates"][0]  # [M,grid²,width]
        if self._tokens == "patch_map":
            return patches.reshape(len(patches), *self.output.step_shape)
        tokens = torch.cat([last["image_intermediates_prefix"][0], patches], dim=1)  # [M,1+grid²,width]
        return tokens if self._tokens == "patch" else tokens @ visual.proj


def load(
    network: ClipNetwork, tokens: Tokens, output: OutputSpec, preprocessing: Preprocessing, execution: Execution
) -> ClipModel:
    """Build a network, load its weights and keep its image tower.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    ExtractorError
        If open_clip cannot build the model, or the device cannot be used.
    """
    built, sha256 = build_network(network)
    return ClipModel(built.visual, tokens, output, preprocessing, execution, sha256)


def build_network(network: ClipNetwork) -> tuple[Any, str | None]:
    """Build the whole open_clip model, image and text tower, and load its weights strictly.

    Returns
    -------
    model
        The model, on the CPU.
    sha256
        Digest of the file that the weights came from; None for random weights.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    ExtractorError
        If open_clip cannot build the model.
    """
    tower = clip_models.tower(network.name)
    native, size = tower.image_size, network.image_size
    path = weights.resolve(network.weights, lambda tag: _download(tower.model, tag))
    model = _architecture(network, _loaded_size(network))
    sha256 = None
    if path is not None:
        sha256 = weights.digest(path)
        released = clip_models.openai_digests().get(sha256) is not None
        state = tensors.read_state_dict(path, trust_torchscript=released)
        title = f"{weights.label(network.weights, path)} as {network.name}"
        tensors.load_strict(model, _open_clip_layout(model, state, released, network, title), title)
    if size != native and tower.kind == "timm":
        model.visual.set_input_size(size)
    return model, sha256


def check_file(network: ClipNetwork, path: Path) -> None:
    """Check that a file fits, by the names and shapes of its tensors; of OpenAI's archives, the numbers are read, too.

    Raises
    ------
    WeightsError
        If it does not.
    ExtractorError
        If open_clip cannot build the model.
    """
    released = clip_models.openai_digests().get(weights.digest(path)) is not None
    state = tensors.read_state_dict(path, trust_torchscript=True) if released else tensors.read_zeros(path)
    with torch.device("meta"):
        model = _architecture(network, _loaded_size(network))
    title = f"{weights.label(network.weights, path)} as {network.name}"
    tensors.check_fit(model.state_dict(), _open_clip_layout(model, state, released, network, title), title)


def _loaded_size(network: ClipNetwork) -> int:
    """Return the side of the pictures for which a network is built: timm's towers change theirs after loading."""
    tower = clip_models.tower(network.name)
    return tower.image_size if tower.kind == "timm" else network.image_size


def _architecture(network: ClipNetwork, image_size: int) -> Any:
    """Build the untrained model from its seed, without touching the process's random state or sending a request.

    open_clip's ``create_model`` is not used: it would warn that weights are missing before they are loaded, and may
    download the text tower's base weights.
    """
    description = deepcopy(clip_models.config(network.name))
    description["vision_cfg"]["image_size"] = image_size
    description["vision_cfg"]["timm_model_pretrained"] = False
    description["text_cfg"]["hf_model_pretrained"] = False
    description["quick_gelu"] = network.quick_gelu
    custom_text = description.pop("custom_text", False) or "hf_model_name" in description["text_cfg"]
    if not custom_text:
        cls = open_clip.CLIP
    else:
        cls = open_clip.CoCa if "multimodal_cfg" in description else open_clip.CustomTextCLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(network.weights.seed)
        try:
            return cls(**description)
        except (ImportError, OSError, RuntimeError) as error:
            raise ExtractorError(f"open_clip cannot build {network.name}: {one_line(error)}") from error


def _open_clip_layout(
    model: Any, state: dict[str, torch.Tensor], released: bool, network: ClipNetwork, title: str
) -> dict[str, torch.Tensor]:
    """Return a file's tensors under open_clip's names; only renaming and the shape of two scalars are forgiven.

    The table of positions is interpolated if the network is built for another size than its own.

    Raises
    ------
    WeightsError
        If open_clip's functions fail over what is in the file.
    """
    tower = clip_models.tower(network.name)
    if released:
        state = {name: value for name, value in state.items() if name not in _ARCHIVE_EXTRAS}
    try:
        state = dict(convert_state_dict(model, state))
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = dict(convert_to_custom_text_state_dict(state))
        state = {name: _like(value, model, name) for name, value in state.items()}
        if network.image_size != tower.image_size and tower.kind == "vit":
            resize_pos_embed(state, model)
    except _FOREIGN as error:
        raise WeightsError(f"{title} does not fit: open_clip cannot read it ({one_line(error)})") from error
    return state


def _like(value: torch.Tensor, model: Any, name: str) -> torch.Tensor:
    """Give ``logit_scale`` and ``logit_bias`` the model's shape, ``[]`` or ``[1]``; return others as they are."""
    scalar = getattr(model, name, None) if name in ("logit_scale", "logit_bias") else None
    return value.reshape(scalar.shape) if scalar is not None and value.numel() == 1 else value


def _download(model: str, tag: str) -> Path:
    """Return a tag's file in the hub cache; no request is sent if it is there already.

    Raises
    ------
    WeightsError
        If the hub cannot be reached or refuses.
    """
    entry: dict[str, Any] = clip_models.tag_entry(model, tag)
    repository, name = os.path.split(entry["hf_hub"])
    safe = Path(name).with_suffix(".safetensors").name if name else HF_SAFE_WEIGHTS_NAME
    for candidate in (safe, name or HF_WEIGHTS_NAME):
        cached = huggingface_hub.try_to_load_from_cache(repository, candidate)
        if isinstance(cached, str):
            return Path(cached)
    address = huggingface_hub.constants.ENDPOINT if repository else entry["url"]
    return Path(hub.download(f"{model} {tag!r}", address, lambda: download_pretrained(entry)))

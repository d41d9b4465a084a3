"""The network behind ``timm``: any image model of timm without its classifier, strictly loaded.

Code: timm, https://github.com/huggingface/pytorch-image-models, Apache-2.0 licence. The paper of a model stands in its
module there.

Weights: a tag of timm's hub, under the licence of its model card; some exclude commercial use.

timm's own loader leaves a tensor that it does not find at its random value once the classifier is removed. Here every
tensor must come from the file. Files of other layouts are renamed by timm's own functions; the classifier is dropped.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.data.config import resolve_data_config
from timm.layers.config import use_fused_attn
from timm.models import get_pretrained_cfg

from extractors import hub, tensors, weights
from extractors.base import Execution, ExtractorError, Json, OutputSpec, WeightsError
from extractors.preprocess import Preprocessing
from extractors.torch_model import ImageModel
from extractors.weights import PinnedWeights
from settings.messages import nearest, one_line

Form = Literal["pooled", "map"]

# What timm's functions raise for a file of another architecture: they look for tensors, by name and shape.
_FOREIGN = (KeyError, IndexError, ValueError, AttributeError, TypeError, RuntimeError, AssertionError, StopIteration)


@dataclass(frozen=True, slots=True)
class TimmNetwork:
    """A timm model with its weights.

    Attributes
    ----------
    weights
        Its weights; their ``model`` is timm's name without a tag.
    image_size
        Side of the input in pixels; None is the model's own. Another one interpolates positions, as timm does.
    """

    weights: PinnedWeights
    image_size: int | None


class TimmModel(ImageModel):
    """A timm model on one device.

    Parameters
    ----------
    network
        The model, without a classifier.
    form
        What to return.
    output, preprocessing, execution, weights_sha256
        As for every ``ImageModel``.
    """

    def __init__(
        self,
        network: Any,
        form: Form,
        output: OutputSpec,
        preprocessing: Preprocessing,
        execution: Execution,
        weights_sha256: str | None,
    ) -> None:
        # timm chooses the attention kernel by an environment variable.
        libraries: dict[str, Json] = {"timm": timm.__version__, "fused_attention": use_fused_attn()}
        super().__init__(network, output, preprocessing, execution, libraries, weights_sha256)
        self._form = form

    def _embed(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised ``[M,3,size,size]`` into ``[M,C]`` or ``[M,h,w,C]``."""
        if self._form == "pooled":
            features: torch.Tensor = network(images)
            return features
        return _map(network, network.forward_features(images))


def load(
    network: TimmNetwork, form: Form, output: OutputSpec, preprocessing: Preprocessing, execution: Execution
) -> TimmModel:
    """Build a network and load its weights.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    ExtractorError
        If the device cannot be used.
    """
    built, sha256 = build_network(network)
    return TimmModel(built, form, output, preprocessing, execution, sha256)


def build_network(network: TimmNetwork) -> tuple[Any, str | None]:
    """Build timm's model without a classifier and load its weights strictly.

    Returns
    -------
    network
        The model, on the CPU.
    sha256
        Digest of the file that the weights came from; None for random weights.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    """
    pinned = network.weights
    model = pinned.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(pinned.seed)
        built = timm.create_model(model, pretrained=False, num_classes=0)
    path = weights.resolve(pinned, lambda tag: _download(model, tag))
    sha256 = None
    if path is not None:
        sha256 = weights.digest(path)
        title = f"{weights.label(pinned, path)} as {model}"
        tensors.load_strict(built, _timm_layout(tensors.read_state_dict(path), built, title), title)
    _set_size(built, network.image_size)
    return built, sha256


def _timm_layout(state: dict[str, torch.Tensor], network: Any, title: str) -> dict[str, torch.Tensor]:
    """Return the tensors under timm's names and without the classifier, none of them resized."""
    wanted = network.state_dict()
    resized = {name: value for name, value in state.items() if name in wanted and value.numel() != wanted[name].numel()}
    rename = vars(sys.modules[type(network).__module__]).get("checkpoint_filter_fn")
    if rename is not None and not resized:
        try:
            state = dict(rename(dict(state), network))
        except _FOREIGN as error:
            raise WeightsError(f"{title} does not fit: timm cannot read it ({one_line(error)})") from error
    named = network.pretrained_cfg.get("classifier") or ()
    classifiers = tuple(f"{name}." for name in ([named] if isinstance(named, str) else named))
    return {name: value for name, value in state.items() if name in wanted or not name.startswith(classifiers)}


def _download(model: str, tag: str) -> Path:
    """Return a tag's file in the hub cache, or the file at its address if the hub has none.

    Raises
    ------
    WeightsError
        If the hub cannot be reached or refuses.
    """
    config: Any = get_pretrained_cfg(f"{model}.{tag}")
    title = f"{model} {tag!r}"
    if config.hf_hub_id:
        return hub.hugging_face_file(title, config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    from timm.models._hub import download_cached_file

    return Path(hub.download(title, config.url, lambda: download_cached_file(config.url, progress=False)))


def _set_size(network: Any, size: int | None) -> None:
    """Prepare a network for pictures of another size than its own; convolutions take any."""
    if size is not None and size != network.pretrained_cfg["input_size"][1] and hasattr(network, "set_input_size"):
        network.set_input_size(size)


def _map(network: Any, features: Any) -> torch.Tensor:
    """Return unpooled features as ``[M,h,w,C]``, row-major, without class, register and distillation tokens.

    Raises
    ------
    ExtractorError
        If timm does not say where their rows and channels are.
    """
    channels = network.num_features
    if isinstance(features, torch.Tensor) and features.dim() == 4:
        last, first = features.shape[3] == channels, features.shape[1] == channels
        if last and not (first and getattr(network, "output_fmt", "NCHW") == "NCHW"):
            return features
        if first:
            return features.permute(0, 2, 3, 1)
    if isinstance(features, torch.Tensor) and features.dim() == 3 and features.shape[2] == channels:
        prefix = getattr(network, "num_prefix_tokens", None) or 0
        side = math.isqrt(features.shape[1] - prefix)
        if side * side == features.shape[1] - prefix:
            return features[:, prefix:].reshape(len(features), side, side, channels)
    shape = list(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
    raise ExtractorError(
        f"timm's {type(network).__name__} has no map (its unpooled features are {shape}); set form=pooled"
    )


def check_file(model: str, path: Path) -> None:
    """Check that a file fits, by the names and shapes of its tensors; their numbers are not read.

    Raises
    ------
    WeightsError
        If it does not.
    """
    title = f"weights file {path} as {model}"
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        network = timm.create_model(model, pretrained=False, num_classes=0)
    tensors.check_fit(network.state_dict(), _timm_layout(tensors.read_zeros(path), network, title), title)


def describe(model: str, tag: str | None, image_size: int | None) -> dict[str, Json]:
    """Return what timm knows about a model; for ``extractors.asking``.

    Parameters
    ----------
    model, tag
        timm's name, and the tag whose data configuration is wanted; None takes timm's default.
    image_size
        Side of the input in pixels; None is that of the data configuration.

    Returns
    -------
    facts
        ``tags``, those with weights; ``data``, the data configuration; ``one_data``, whether all tags have the same;
        ``pooled``, the number of channels; ``map``, ``[h, w, C]``, or as a text why there is none.

    Raises
    ------
    ExtractorError
        If timm has no such model, or the model does not take square pictures of this size.
    WeightsError
        If the model has no such tag.
    """
    if not timm.is_model(model):
        raise ExtractorError(f"timm has no model {model!r}{nearest(model, timm.list_models(), 3)}")
    tags = sorted(name.partition(".")[2] for name in timm.list_pretrained(f"{model}.*"))
    if tag is not None and tag not in tags:
        raise weights.unknown_tag(model, tag, tags)
    data = [_data(f"{model}.{name}") for name in tags]
    chosen = _data(model if tag is None else f"{model}.{tag}")
    _, height, width = chosen["input_size"]
    if height != width:
        raise ExtractorError(f"{model} takes pictures of {width}x{height} pixels; only square ones are supported")
    size = image_size or height
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            network: Any = timm.create_model(model, pretrained=False, num_classes=0).eval()
            _set_size(network, size)
            images = torch.empty(2, 3, size, size)
        with torch.inference_mode():
            pooled, features = network(images), network.forward_features(images)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ExtractorError(f"{model} does not take pictures of {size} pixels: {one_line(error)}") from error
    try:
        mapped: Json = [*_map(network, features).shape[1:]]
    except ExtractorError as error:
        mapped = str(error)
    return {
        "tags": [*tags],
        "data": {**chosen, "input_size": [*chosen["input_size"]]},
        "one_data": all(other == chosen for other in data),
        "pooled": pooled.shape[1],
        "map": mapped,
    }


def _data(name: str) -> dict[str, Any]:
    pretrained: Any = get_pretrained_cfg(name)
    config = resolve_data_config({}, pretrained_cfg=pretrained.to_dict())  # type: ignore[no-untyped-call]  # not annotated
    return {**config, "mean": [*config["mean"]], "std": [*config["std"]]}

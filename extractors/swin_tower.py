"""The network behind `swin`: timm's model without its classifier, strictly loaded.

Checkpoints of the original repository differ from timm's in three ways, all undone here: the tensors lie under
`model`; the patch merging between two stages belongs to the earlier stage (`layers.0.downsample` there is
`layers.1.downsample` in timm); and buffers that follow from the architecture are saved too. Those buffers are not
loaded, but must be the ones that the network computes: other indices mean another window.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from timm.layers.config import use_fused_attn

from extractors import hub, weights
from extractors.base import ExtractorError, FetchedWeights, Json, OutputSpec, WeightsError
from extractors.preprocess import Preprocessing
from extractors.torch_model import Execution, ImageModel
from extractors.weights import HubTag, RandomWeights, WeightsFile

if TYPE_CHECKING:
    from extractors.swin import Swin

_ORIGINAL_LAYOUT = "layers.0.downsample.reduction.weight"
_CLASSIFIER = re.compile(r"head\.(fc\.)?(weight|bias)")
_BUFFERS = ("relative_position_index", "relative_coords_table", "attn_mask")


class SwinModel(ImageModel):
    """A Swin tower on one device.

    Parameters
    ----------
    network:
        timm's model.
    pooled:
        Return the mean over positions instead of the map.
    output, preprocessing, execution, weights_sha256:
        As for every image tower.
    """

    def __init__(
        self,
        network: Any,
        pooled: bool,
        output: OutputSpec,
        preprocessing: Preprocessing,
        execution: Execution,
        weights_sha256: str | None,
    ) -> None:
        if getattr(network, "output_fmt", None) != "NHWC":
            raise ExtractorError(f"timm {timm.__version__} does not order Swin maps as rows, columns, channels")
        # timm chooses the attention kernel by an environment variable.
        libraries: dict[str, Json] = {"timm": timm.__version__, "fused_attention": use_fused_attn(experimental=True)}
        super().__init__(network, output, preprocessing, execution, libraries, weights_sha256)
        self._pooled = pooled

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        """`float32 [M,3,size,size]` normalised to `[M,grid,grid,C]` or its mean `[M,C]`."""
        network: Any = self.network
        features: torch.Tensor = network.forward_features(images)
        return features.float().mean((1, 2)) if self._pooled else features


def load(extractor: Swin, device: str, threads: int | None) -> SwinModel:
    """Build and load what `extractor` describes. Raises WeightsError, ExtractorError."""
    network, digest = _network(extractor)
    return SwinModel(
        network,
        extractor.pool == "mean",
        extractor.output(),
        extractor.preprocessing,
        Execution(device, extractor.compute_dtype, threads, extractor.compile),
        digest,
    )


def fetch(extractor: Swin, tag: str, directory: Path) -> FetchedWeights:
    """Download a tag, load it strictly, write the tower as one safetensors file. Raises WeightsError."""
    network, digest = _network(extractor)
    model = extractor.model
    listed = {"extractor": extractor.name, "model": model, "tag": tag, "source_sha256": digest or ""}
    carried: dict[str, Json] = {"model": model, "tag": tag}
    return weights.save(network.state_dict(), directory / f"{model}-{tag}.safetensors", carried, listed)


def _network(extractor: Swin) -> tuple[Any, str | None]:
    """timm's model with its weights, and the digest of their file."""
    source, model = extractor.source, extractor.model
    network = _architecture(model, source.seed if isinstance(source, RandomWeights) else 0)
    if isinstance(source, RandomWeights):
        return network, None
    path = weights.resolve(source, model, extractor.sha256, lambda: _download(model, extractor.weights))
    if isinstance(source, WeightsFile):
        weights.check_model(path, model)
    described = f"weights {source.tag!r}" if isinstance(source, HubTag) else f"weights file {path}"
    tensors, buffers = _timm_layout(weights.read_state_dict(path))
    weights.load_strict(network, tensors, f"{described} as {model}")
    _check_buffers(network, buffers, f"{described} as {model}")
    return network, weights.digest(path)


def _architecture(model: str, seed: int) -> Any:
    """The untrained model without a classifier, seeded, without touching the process's random state or the network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(model, pretrained=False, num_classes=0)


def _timm_layout(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters under timm's names, and the buffers; the classifier is dropped."""
    tensors: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    shift = 1 if _ORIGINAL_LAYOUT in state else 0
    for name, value in state.items():
        if name.endswith(_BUFFERS):
            buffers[name] = value
        elif not _CLASSIFIER.fullmatch(name):
            stage = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name)
            tensors[f"layers.{int(stage[1]) + shift}.downsample.{stage[2]}" if stage else name] = value
    return tensors, buffers


def _check_buffers(network: Any, buffers: dict[str, torch.Tensor], source: str) -> None:
    """Raise WeightsError unless a file's buffers are the network's own.

    A mask that the network makes anew in each forward has nothing to be compared with.
    """
    own = dict(network.named_buffers())
    for name, value in buffers.items():
        if name not in own:
            if name.endswith("attn_mask"):
                continue
            raise WeightsError(f"{source} does not fit: unexpected buffer {name}")
        same_shape = own[name].numel() == value.numel()
        if not same_shape or not torch.allclose(own[name].float().flatten(), value.float().flatten(), atol=1e-5):
            raise WeightsError(f"{source} does not fit: buffer {name} belongs to another window or image size")


def _download(model: str, tag: str) -> Path:
    """A tag's file in the hub cache. Raises WeightsError."""
    return hub.hugging_face_file(f"{model} {tag!r}", f"timm/{model}.{tag}", "model.safetensors")

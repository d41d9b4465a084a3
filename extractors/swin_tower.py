"""The network behind ``swin``: timm's model without its classifier, strictly loaded.

Papers: Ze Liu, Yutong Lin, Yue Cao et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
2021, https://arxiv.org/abs/2103.14030; Ze Liu, Han Hu, Yutong Lin et al., "Swin Transformer V2: Scaling Up Capacity and
Resolution", 2021, https://arxiv.org/abs/2111.09883.

Code: timm, https://github.com/huggingface/pytorch-image-models, Apache-2.0 licence.

Weights: Microsoft's release, https://github.com/microsoft/Swin-Transformer, MIT licence; timm's hub has copies of it
under ``timm/<model>.<tag>``.

Checkpoints of the original repository differ from timm's in three ways, all undone here: the tensors lie under
``model``; the patch merging between two stages belongs to the earlier stage (``layers.0.downsample`` there is
``layers.1.downsample`` in timm); and buffers that follow from the architecture are saved too. Those buffers are not
loaded, but must be the ones that the network computes: other indices mean another window.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.layers.config import use_fused_attn

from extractors import hub, tensors, weights
from extractors.base import Execution, ExtractorError, Json, OutputSpec, WeightsError
from extractors.preprocess import Preprocessing
from extractors.torch_model import ImageModel
from extractors.weights import PinnedWeights

_ORIGINAL_LAYOUT = "layers.0.downsample.reduction.weight"
_CLASSIFIER = re.compile(r"head\.(fc\.)?(weight|bias)")
_AS_CLOSE = (
    1.5  # the largest error of one image, fused by plain: 0.92 to 1.16 on CPUs, and another image varies as much
)
_BUFFERS = ("relative_position_index", "relative_coords_table", "attn_mask")


class SwinModel(ImageModel):
    """A Swin tower on one device.

    Parameters
    ----------
    network
        timm's model.
    pooled
        Return the mean over positions instead of the map.
    output, preprocessing, execution, weights_sha256
        As for every ``ImageModel``.

    Raises
    ------
    ExtractorError
        If this timm orders the map in another way, or the device cannot be used.
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
        # timm chooses the attention kernel by an environment variable; for half types it is chosen below.
        libraries: dict[str, Json] = {"timm": timm.__version__, "fused_attention": use_fused_attn(experimental=True)}
        super().__init__(network, output, preprocessing, execution, libraries, weights_sha256)
        self._pooled = pooled
        if execution.compute_dtype != "float32":
            self._libraries["fused_attention"] = self._choose_attention(preprocessing.size)

    def _choose_attention(self, size: int) -> bool:
        """Take fused attention if it is as close to float32 as the plain one; return whether it is taken.

        timm has it for Swin, untested by its own account. Both are measured here, on one image of noise, in the network
        that will be used.
        """
        attention: list[Any] = [module for module in self.network.modules() if hasattr(module, "fused_attn")]
        noise = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)
        exact = self.reference(noise)
        errors = []
        for fused in (False, True):
            for module in attention:
                module.fused_attn = fused
            with torch.inference_mode():
                features = self._own_features(torch.from_numpy(noise).to(self._device)).float().cpu().numpy()
            errors.append(float(np.abs(features - exact).max()))
        chosen = bool(attention) and errors[1] <= _AS_CLOSE * errors[0]
        for module in attention:
            module.fused_attn = chosen
        return chosen

    def _embed(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised ``[M,3,size,size]`` into ``[M,grid,grid,C]`` or its mean ``[M,C]``."""
        features: torch.Tensor = network.forward_features(images)  # [M,grid,grid,C]
        return features.float().mean((1, 2)) if self._pooled else features


def load(
    pinned: PinnedWeights, pooled: bool, output: OutputSpec, preprocessing: Preprocessing, execution: Execution
) -> SwinModel:
    """Build a network and load its weights.

    Raises
    ------
    WeightsError
        If the weights cannot be obtained or do not fit.
    ExtractorError
        If the device cannot be used.
    """
    network, sha256 = build_network(pinned)
    return SwinModel(network, pooled, output, preprocessing, execution, sha256)


def build_network(pinned: PinnedWeights) -> tuple[Any, str | None]:
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
    model = pinned.model
    network = _architecture(model, pinned.seed)
    path = weights.resolve(pinned, lambda tag: _download(model, tag))
    if path is None:
        return network, None
    title = f"{weights.label(pinned, path)} as {model}"
    parameters, buffers = _timm_layout(tensors.read_state_dict(path))
    tensors.load_strict(network, parameters, title)
    _check_buffers(network, buffers, title)
    return network, weights.digest(path)


def check_file(model: str, path: Path) -> None:
    """Check that a file fits, by the names and shapes of its tensors; their numbers are not read.

    Raises
    ------
    WeightsError
        If it does not.
    """
    title = f"weights file {path} as {model}"
    with torch.device("meta"):
        network = _architecture(model, 0)
    parameters, buffers = _timm_layout(tensors.read_state_dict(path, shapes_only=True))
    tensors.check_fit(network.state_dict(), parameters, title)
    _check_buffers(network, buffers, title)


def _architecture(model: str, seed: int) -> Any:
    """Build the untrained model from its seed, without touching the process's random state or sending a request."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return timm.create_model(model, pretrained=False, num_classes=0)


def _timm_layout(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the parameters under timm's names, and the buffers; the classifier is dropped."""
    parameters: dict[str, torch.Tensor] = {}
    buffers: dict[str, torch.Tensor] = {}
    shift = 1 if _ORIGINAL_LAYOUT in state else 0
    for name, value in state.items():
        if name.endswith(_BUFFERS):
            buffers[name] = value
        elif not _CLASSIFIER.fullmatch(name):
            stage = re.fullmatch(r"layers\.(\d+)\.downsample\.(.+)", name)
            parameters[f"layers.{int(stage[1]) + shift}.downsample.{stage[2]}" if stage else name] = value
    return parameters, buffers


def _check_buffers(network: Any, buffers: dict[str, torch.Tensor], title: str) -> None:
    """Raise WeightsError unless a file's buffers are the network's own.

    A mask that the network makes anew in each forward pass cannot be compared with anything. The shapes alone are
    compared if the file's buffers are on the meta device.
    """
    own = dict(network.named_buffers())
    for name, value in buffers.items():
        if name not in own:
            if name.endswith("attn_mask"):
                continue
            raise WeightsError(f"{title} does not fit: unexpected buffer {name}")
        same = own[name].numel() == value.numel() and (
            value.is_meta or torch.allclose(own[name].float().flatten(), value.float().flatten(), atol=1e-5)
        )
        if not same:
            raise WeightsError(f"{title} does not fit: buffer {name} belongs to another window or image size")


def _download(model: str, tag: str) -> Path:
    """Return a tag's file in the hub cache. Raises WeightsError if the hub cannot be reached or refuses."""
    return hub.hugging_face_file(f"{model} {tag!r}", f"timm/{model}.{tag}", "model.safetensors")

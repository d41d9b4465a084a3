"""The network behind ``hf``: the image tower of a model of transformers, strictly loaded.

Code: transformers, https://github.com/huggingface/transformers, Apache-2.0 licence. The paper of a model stands in the
library's documentation.

Weights: those of the folder or repository that the options name, under the licence of its model card; DINOv3's, for
example, has conditions of its own.

Every tensor that is used must come from the file; what is left over may only be a head that was trained on top.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from torch import nn

from extractors.base import Execution, ExtractorError, Json, OutputSpec
from extractors.hf_loading import REFUSALS, Architecture, quiet, read_config
from extractors.preprocess import Preprocessing
from extractors.torch_model import ImageModel
from settings.messages import one_line

Form = Literal["pooled", "cls", "map"]

_HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "lm_head.")


@dataclass(frozen=True, slots=True)
class HfNetwork:
    """A model of transformers.

    Attributes
    ----------
    folder
        Folder with ``config.json`` and, unless the weights are random, ``model.safetensors``.
    seed
        Seed of an untrained network; None reads the weights.
    form
        What is taken from the tower.
    interpolate
        Interpolate the positions of models that do so on demand.
    """

    folder: Path
    seed: int | None
    form: Form
    interpolate: bool


class ImageTower(nn.Module):
    """The image tower of a model: ``[M,3,size,size]`` to its last hidden state and its pooled output, if it has one.

    Models of images and texts keep their image tower only, with the projection into the joint space.
    """

    def __init__(self, model: Any, interpolate: bool) -> None:
        super().__init__()
        self.vision: Any = getattr(model, "vision_model", model)
        self.projection: Any = getattr(model, "visual_projection", None)
        self.config: Any = self.vision.config
        self._options: dict[str, bool] = {}
        taken = inspect.signature(self.vision.forward).parameters
        if "pixel_values" not in taken:
            raise ExtractorError(f"{model.config.model_type} is no model of images")
        if interpolate:
            if "interpolate_pos_encoding" not in taken:
                raise ExtractorError(f"{self.config.model_type} has no positions that it interpolates on demand")
            self._options["interpolate_pos_encoding"] = True

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ``[M,L,C]`` or ``[M,C,h,w]``, and ``[M,C]`` or None."""
        output = self.vision(pixel_values=images, return_dict=True, **self._options)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            pooled = pooled.flatten(1)
            pooled = pooled if self.projection is None else self.projection(pooled)
        return output.last_hidden_state, pooled

    def take(self, images: torch.Tensor, form: Form) -> torch.Tensor:
        """Return ``[M,C]`` or ``[M,h,w,C]``.

        Raises
        ------
        ExtractorError
            If the model has nothing of this form.
        """
        tokens: torch.Tensor
        pooled: torch.Tensor | None
        tokens, pooled = self(images)
        size = images.shape[2]
        if form == "pooled":
            if pooled is None:
                raise ExtractorError(f"{self.config.model_type} has no pooled output; set form=map")
            return pooled
        if tokens.dim() == 4:
            if form == "map":
                return tokens.permute(0, 2, 3, 1)
            raise ExtractorError(f"{self.config.model_type} has no class token; set form=pooled or form=map")
        side, prefix = self._layout(tokens.shape[1], size)
        if form == "map":
            return tokens[:, prefix:].reshape(len(tokens), side, side, -1)
        if prefix == 0:
            raise ExtractorError(f"{self.config.model_type} has no class token; set form=pooled or form=map")
        return tokens[:, 0]

    def _layout(self, count: int, size: int) -> tuple[int, int]:
        """Return the side of the map, and how many class and register tokens are before it."""
        patch = getattr(self.config, "patch_size", None)
        if isinstance(patch, int):
            side, most = size // patch, 2 + (getattr(self.config, "num_register_tokens", 0) or 0)
            if 0 <= count - side * side <= most:
                return side, count - side * side
        side = math.isqrt(count)
        if side * side == count:
            return side, 0
        raise ExtractorError(f"{self.config.model_type} gives {count} tokens, which are no map; set form=pooled")


class HfModel(ImageModel):
    """An image tower of transformers on one device.

    Parameters
    ----------
    network
        The tower.
    form
        What to return.
    output, preprocessing, execution, weights_sha256
        As for every ``ImageModel``.
    """

    def __init__(
        self,
        network: ImageTower,
        form: Form,
        output: OutputSpec,
        preprocessing: Preprocessing,
        execution: Execution,
        weights_sha256: str | None,
    ) -> None:
        attention = str(getattr(network.config, "_attn_implementation", None))
        libraries: dict[str, Json] = {"transformers": transformers.__version__, "attention": attention}
        super().__init__(network, output, preprocessing, execution, libraries, weights_sha256)
        self._form = form

    def _embed(self, network: Any, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised ``[M,3,size,size]`` into ``[M,C]`` or ``[M,h,w,C]``."""
        features: torch.Tensor = network.take(images, self._form)
        return features


def load(
    network: HfNetwork, output: OutputSpec, preprocessing: Preprocessing, execution: Execution, sha256: str | None
) -> HfModel:
    """Build a tower and load its weights.

    Raises
    ------
    WeightsError
        If the weights do not fit.
    ExtractorError
        If the library cannot build the model, or the device cannot be used.
    """
    return HfModel(build_network(network), network.form, output, preprocessing, execution, sha256)


def build_network(network: HfNetwork) -> ImageTower:
    """Build the image tower on the CPU, in float32, and load its weights strictly.

    Raises
    ------
    WeightsError
        If the weights do not fit.
    ExtractorError
        If the library cannot build the model.
    """
    architecture = _architecture(network.folder)
    if network.seed is not None:
        return ImageTower(architecture.untrained(network.seed), network.interpolate)
    return ImageTower(architecture.trained(network.folder, *_pooler(network.form)), network.interpolate)


def _architecture(folder: Path) -> Architecture:
    config = read_config(folder)
    return Architecture(config, f"weights of {folder} as {config.model_type}", used=_used, heads=_HEADS)


def _used(model: Any) -> tuple[str, ...]:
    """Return what the image tower needs of a model."""
    return ("vision_model.", "visual_projection.") if hasattr(model, "vision_model") else ("",)


def _pooler(form: Form) -> tuple[tuple[str, ...], str]:
    """Return what a file may lack, and what to do if it lacks the pooler alone."""
    return () if form == "pooled" else ("pooler.",), "set form=cls or form=map"


def check_files(network: HfNetwork, files: Sequence[Path]) -> None:
    """Check that the files of the weights fit, by the names and shapes of their tensors; their numbers are not read.

    Raises
    ------
    WeightsError
        If they do not.
    """
    _architecture(network.folder).check_files(files, *_pooler(network.form))


def describe(folder: str, config_sha256: str, form: Form, size: int, interpolate: bool) -> dict[str, Json]:
    """Return what the library knows about a model; for ``extractors.asking``.

    Parameters
    ----------
    folder
        Folder with ``config.json``.
    config_sha256
        Digest of that file, so that an edited one is another question.
    form
        What is taken from the tower.
    size
        Side of the input in pixels.
    interpolate
        Interpolate positions on demand.

    Returns
    -------
    facts
        ``model_type``, and ``step_shape`` of one picture.

    Raises
    ------
    ExtractorError
        If there is no such model, it has nothing of this form, or it does not take pictures of this size.
    """
    architecture = _architecture(Path(folder))
    tower = ImageTower(architecture.on_meta(), interpolate).eval()
    try:
        with quiet(), torch.inference_mode():
            features = tower.take(torch.empty(2, 3, size, size, device="meta"), form)
    except REFUSALS as error:
        raise ExtractorError(_size_advice(tower.config, size, error)) from error
    return {"model_type": architecture.config.model_type, "step_shape": [*features.shape[1:]]}


def _size_advice(config: Any, size: int, error: Exception) -> str:
    own = getattr(config, "image_size", None)
    refused = f"{config.model_type} does not take pictures of {size} pixels"
    if isinstance(own, int) and own != size:
        return f"{refused}, which its processor makes, but of {own}; set image_size={own} or interpolate_positions=true"
    return f"{refused}: {one_line(error)}"

"""The network behind ``hf_audio``: the audio tower of AST or CLAP of transformers, strictly loaded.

Code: transformers, https://github.com/huggingface/transformers, Apache-2.0 licence. The papers stand in
``extractors/hf_audio.py``.

Weights: those of the folder or repository that the options name, under the licence of its model card; AST's of MIT
are under the BSD 3-Clause licence, CLAP's of LAION under Apache-2.0.

Every tensor of the tower must come from the file. What is left over may only be a classifier, or CLAP's text tower and
temperatures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import nn

from extractors.base import Execution, ExtractorError, Json, OutputSpec
from extractors.hf_loading import Architecture, read_config
from extractors.torch_model import TorchModel, dtype_of
from settings.messages import available

Form = Literal["pooled", "map"]

_AST, _CLAP = "audio-spectrogram-transformer", "clap"
_CLAP_AUDIO = "clap_audio_model"  # CLAP saved without its text tower
_HEADS = {
    _AST: ("classifier.",),
    _CLAP: ("text_model.", "text_projection.", "logit_scale_a", "logit_scale_t"),
}
_PROCESSORS = {_AST: "ASTFeatureExtractor", _CLAP: "ClapFeatureExtractor"}
_LAYERS = {
    _AST: {"pooled": "pooler_output", "map": "last_hidden_state of patches that see the window"},
    _CLAP: {"pooled": "audio_embeds"},
}
_FUSED_CHANNELS = 4  # of a model with fusion: the whole sound, and three parts of a longer one


@dataclass(frozen=True, slots=True)
class HfAudioNetwork:
    """A model of sound.

    Attributes
    ----------
    folder
        Folder with ``config.json`` and, unless the weights are random, ``model.safetensors``.
    seed
        Seed of an untrained network; None reads the weights.
    form
        What is taken from the tower.
    places, fill, frames
        Where the prepared frames lie in the model's input, as ``hf_audio_processor.FrontEnd`` says.
    """

    folder: Path
    seed: int | None
    form: Form
    places: tuple[int, ...]
    fill: float
    frames: int


class AudioTower(nn.Module):
    """The audio tower of a model, from prepared frames to what is stored.

    Parameters
    ----------
    model
        ``ASTModel`` or ``ClapAudioModelWithProjection``.
    network
        Where frames lie in its input, and what is taken of it.
    """

    def __init__(self, model: Any, network: HfAudioNetwork) -> None:
        super().__init__()
        self.model: Any = model
        self._kind, self._form = _kind(model.config), network.form
        self._grid = _grid(model.config, network.frames) if self._kind == _AST else (0, 0, 0)
        # Place -1 is the frame of padding, which is put behind the others.
        self.places = nn.Buffer(torch.tensor(network.places) % (network.frames + 1), persistent=False)
        self.fill = nn.Buffer(torch.tensor(network.fill), persistent=False)

    def whole(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn prepared frames ``[M,frames,bands]`` into the model's input ``[M,times,bands]``."""
        padding = self.fill.to(frames.dtype).expand(len(frames), 1, frames.shape[2])
        return torch.cat([frames, padding], 1).index_select(1, self.places)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Turn prepared frames ``[M,frames,bands]`` into ``[M,C]`` or ``[M,time,bands,C]``."""
        return self.take(self.whole(frames))

    def take(self, times: torch.Tensor) -> torch.Tensor:
        """Turn the model's input ``[M,times,bands]`` into ``[M,C]`` or ``[M,time,bands,C]``."""
        features: torch.Tensor
        if self._kind == _CLAP:
            channels, longer = times[:, None], None
            if self.model.config.enable_fusion:
                channels = channels.expand(-1, _FUSED_CHANNELS, -1, -1)
                longer = torch.zeros(len(times), 1, dtype=torch.bool, device=times.device)
            features = self.model(input_features=channels, is_longer=longer).audio_embeds
            return features
        output = self.model(input_values=times)
        if self._form == "pooled":
            features = output.pooler_output
            return features
        rows, columns, seen = self._grid
        patches = output.last_hidden_state[:, 2:]  # after the class and the distillation token
        features = patches.unflatten(1, (rows, columns))[:, :, :seen].transpose(1, 2)
        return features


class HfAudioModel(TorchModel):
    """An audio tower of transformers on one device.

    Parameters
    ----------
    network, output, execution, weights_sha256
        As for every ``TorchModel``.
    """

    def __init__(
        self, network: AudioTower, output: OutputSpec, execution: Execution, weights_sha256: str | None
    ) -> None:
        attention = str(getattr(network.model.config, "_attn_implementation", None))
        # numpy computes the log-mel frames.
        libraries: dict[str, Json] = {
            "transformers": transformers.__version__,
            "attention": attention,
            "numpy": np.__version__,
        }
        super().__init__(network, output, execution, libraries, weights_sha256)

    def _features(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Turn log-mel ``float32 [M,frames,bands]`` into ``[M, *step_shape]``."""
        features: torch.Tensor = network(batch.to(dtype_of(network)))
        return features


def load(network: HfAudioNetwork, output: OutputSpec, execution: Execution, sha256: str | None) -> HfAudioModel:
    """Build a tower and load its weights.

    Raises
    ------
    WeightsError
        If the weights do not fit.
    ExtractorError
        If the library cannot build the model, or the device cannot be used.
    """
    return HfAudioModel(build_network(network), output, execution, sha256)


def build_network(network: HfAudioNetwork) -> AudioTower:
    """Build the audio tower on the CPU, in float32, and load its weights strictly.

    Raises
    ------
    WeightsError
        If the weights do not fit.
    ExtractorError
        If the library cannot build the model.
    """
    architecture = _architecture(network.folder)
    seed = network.seed
    return AudioTower(architecture.trained(network.folder) if seed is None else architecture.untrained(seed), network)


def check_files(network: HfAudioNetwork, files: Sequence[Path]) -> None:
    """Check that the files of the weights fit, by the names and shapes of their tensors; their numbers are not read.

    Raises
    ------
    WeightsError
        If they do not.
    """
    _architecture(network.folder).check_files(files)


def describe(
    folder: str,
    config_sha256: str,
    form: Form,
    processor: str,
    times: int,
    bands: int,
    frames: int,
    fused: bool,
) -> dict[str, Json]:
    """Return what the library knows about a model; for ``extractors.asking``.

    Parameters
    ----------
    folder
        Folder with ``config.json``.
    config_sha256
        Digest of that file, so that an edited one is another question.
    form
        What is taken from the tower.
    processor, times, bands, frames
        Class of the feature extractor; frames and bands of the input that it makes, and frames of it that are prepared.
    fused
        Whether it makes the input of a model with fusion.

    Returns
    -------
    facts
        ``model_type``; ``layer``, what the library calls what is taken; ``step_shape`` of one window.

    Raises
    ------
    ExtractorError
        If there is no such model, it has nothing of this form, or its feature extractor is that of another model.
    """
    config = _audio_config(read_config(Path(folder)))
    kind = _kind(config)
    if processor != _PROCESSORS[kind]:
        raise ExtractorError(f"{kind} takes the input of {_PROCESSORS[kind]}, not of {processor}, which its folder has")
    if bands != config.num_mel_bins:
        raise ExtractorError(f"{kind} takes {config.num_mel_bins} mel bands, but its feature extractor makes {bands}")
    if form not in _LAYERS[kind]:
        raise ExtractorError(f"{kind} has no map of a window, which it repeats; set form=pooled")
    shape = [config.projection_dim] if kind == _CLAP else [config.hidden_size]
    if kind == _CLAP:
        most = config.spec_size * (config.spec_size // config.num_mel_bins)
        if times > most:
            raise ExtractorError(f"{kind} takes {most} frames at most, but its feature extractor makes {times}")
        if fused != config.enable_fusion:
            wanted = "fusion" if config.enable_fusion else "rand_trunc"
            raise ExtractorError(
                f"{kind} has enable_fusion={config.enable_fusion}; its feature extractor must have truncation={wanted}"
            )
    elif times != config.max_length:
        raise ExtractorError(f"{kind} takes {config.max_length} frames, but its feature extractor makes {times}")
    if form == "map":
        rows, _, seen = _grid(config, frames)
        shape = [seen, rows, config.hidden_size]
    return {"model_type": kind, "layer": _LAYERS[kind][form], "step_shape": [*shape]}


def _architecture(folder: Path) -> Architecture:
    config = _audio_config(read_config(folder))
    kind = _kind(config)
    cls = transformers.ClapAudioModelWithProjection if kind == _CLAP else transformers.ASTModel
    return Architecture(config, f"weights of {folder} as {kind}", cls, heads=_HEADS[kind])


def _audio_config(config: Any) -> Any:
    """Return the part of a configuration that is about sound.

    Raises
    ------
    ExtractorError
        If the model is none of sound that is known here.
    """
    if config.model_type == _CLAP:
        return config.audio_config
    if config.model_type not in (_AST, _CLAP_AUDIO):
        raise ExtractorError(f"{config.model_type} is no model of sound that is known ({available([_AST, _CLAP])})")
    return config


def _kind(config: Any) -> str:
    return _CLAP if config.model_type == _CLAP_AUDIO else str(config.model_type)


def _grid(config: Any, frames: int) -> tuple[int, int, int]:
    """Return AST's rows of patches, one per band, its columns, one per time, and how many of these see the window."""
    rows = (config.num_mel_bins - config.patch_size) // config.frequency_stride + 1
    columns = (config.max_length - config.patch_size) // config.time_stride + 1
    return rows, columns, min(columns, 1 + (frames - 1) // config.time_stride)

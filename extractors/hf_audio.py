"""``hf_audio``: the audio tower of a model of transformers: AST and CLAP, one step per window of one second.

Papers: Yuan Gong, Yu-An Chung, James Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021,
https://arxiv.org/abs/2104.01778; Yusong Wu, Ke Chen, Tianyu Zhang et al., "Large-scale Contrastive Language-Audio
Pretraining with Feature Fusion and Keyword-to-Caption Augmentation", ICASSP 2023, https://arxiv.org/abs/2211.06687.

The model is a local folder or a repository of the Hugging Face hub, with ``config.json``, ``preprocessor_config.json``
and ``model.safetensors``. A repository and a copy of its files have one spec.

Windows
-------
Both models were trained on ten seconds. A window of one second is given to the rule that the library has for short
sound, at the model's own rate: AST's 98 frames at 16 kHz are followed by frames of zeros up to its 1024; CLAP's second
at 48 kHz is repeated ten times (``padding``: ``repeatpad``). What CLAP's library calls longer than its input, no window
is: a model with fusion takes the same path for every window, and not, as the library does to one of a batch by chance,
the one for long sound.

Output
------
``form=pooled`` is AST's ``pooler_output``, the mean of its class and distillation tokens, ``[C]``, and CLAP's
``audio_embeds``, the vector that it compares with texts, not normalised, ``[C]``. ``form=map`` is AST's last hidden
state of the patches that see some of the window, ``[time, bands, C]``: times ascend, and bands, from low to high. CLAP
has no map of a window, since it repeats it.

Preprocessing
-------------
That of the model's feature extractor; ``extractors/hf_audio_processor.py`` says which are known.

The origin of the weights and their licences are in ``extractors/hf_audio_tower.py``.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from extractors import hf_audio_processor
from extractors.base import Json, Model, OutputSpec, check_windows
from extractors.hf_audio_processor import FrontEnd
from extractors.hf_folder import HfTrained

if TYPE_CHECKING:
    from torch import nn

    from extractors.hf_audio_tower import HfAudioNetwork

_UNITS = {
    "pooled": "pooled features of {}, not normalised",
    "map": "last hidden state of {}, times then bands",
}


class HfAudio(HfTrained):
    """Options of the ``hf_audio`` extractor, beside those of ``HfTrained``.

    Attributes
    ----------
    form
        ``pooled`` or ``map``; see the module.
    """

    name: ClassVar[str] = "hf_audio"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "audio"
    prepared_dtype: ClassVar[str] = "float32"
    asked: ClassVar[str] = "extractors.hf_audio_tower:describe"

    form: Literal["pooled", "map"] = "pooled"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _ = self.facts
        return self

    @cached_property
    def front_end(self) -> tuple[str, FrontEnd]:
        """The class of the feature extractor, and what it does.

        Raises
        ------
        ExtractorError
            If the feature extractor is not known, or asks for something that is not supported.
        WeightsError
            If its file is missing or cannot be read.
        """
        return self.read_processor(
            lambda settings: (hf_audio_processor.name_of(settings), hf_audio_processor.read(settings))
        )

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the library knows: ``model_type``, ``layer`` and ``step_shape``; kept, so that workers do not ask again.

        Raises
        ------
        ExtractorError
            If transformers is missing, the model is none of sound, has nothing of this form, or takes other input than
            its feature extractor gives.
        WeightsError
            If a file of the model is missing.
        """
        name, front_end = self.front_end
        fused = getattr(front_end, "scale", "") == "htk"
        return self.ask_library(self.form, name, len(front_end.places), front_end.bands, front_end.frames, fused)

    @property
    def rate(self) -> int:  # type: ignore[override]  # a model's own, where others have their class's
        """Samples per second that the model takes."""
        return self.front_end[1].rate

    @property
    def window_samples(self) -> int:  # type: ignore[override]  # that of the rate
        """Samples of one second."""
        return self.rate

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads and hashes the model's files (once per process); imports no torch.

        Raises
        ------
        WeightsError
            If a file of the model is missing, cannot be downloaded, or is not the pinned one.
        """
        name, front_end = self.front_end
        return {
            "extractor": self.name,
            "version": self.version,
            "model": self.facts["model_type"],
            **self.weights_entries(),
            "form": self.form,
            "layer": self.facts["layer"],
            "processor": name,
            "preprocessing": front_end.spec(),
            "compute_dtype": self.compute_dtype_entry,
        }

    def output(self) -> OutputSpec:
        """Return ``[C]`` or ``[time, bands, C]``."""
        return OutputSpec(tuple(self.facts["step_shape"]), _UNITS[self.form].format(self.facts["model_type"]))

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(frames, bands)``: the frames that differ, 98 of 128 bands for AST and 104 of 64 for CLAP."""
        front_end = self.front_end[1]
        return (front_end.frames, front_end.bands)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Turn windows ``float32 [T,rate]`` into log-mel frames ``float32 [T,frames,bands]``."""
        check_windows(frames, self.window_samples)
        return self.front_end[1](frames)

    def preparation(self) -> Json:
        """Return the front end."""
        return self.front_end[1].spec()

    def _check_files(self, files: list[Path]) -> None:
        from extractors import hf_audio_tower

        hf_audio_tower.check_files(self._network(), files)

    def _network(self) -> HfAudioNetwork:
        from extractors.hf_audio_tower import HfAudioNetwork

        front_end = self.front_end[1]
        return HfAudioNetwork(
            self.folder, self.random_seed, self.form, front_end.places, front_end.fill, front_end.frames
        )

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the audio tower on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If a file of the model is missing, is not the pinned one, or does not fit.
        ExtractorError
            If the library cannot build the model, or the device cannot be used.
        """
        from extractors import hf_audio_tower

        sha256 = None if self.random_weights else self.weights_digest()
        return hf_audio_tower.load(self._network(), self.output(), self.execution(device, threads), sha256)

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the audio tower."""
        from extractors import hf_audio_tower

        return hf_audio_tower.build_network(self._network()), None if self.random_weights else self.weights_digest()

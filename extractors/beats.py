"""``beats``: BEATs, the audio encoder of Microsoft, one step per window of one second.

Paper: Sanyuan Chen, Yu Wu, Chengyi Wang et al., "BEATs: Audio Pre-Training with Acoustic Tokenizers", ICML 2023,
https://arxiv.org/abs/2212.09058. ``extractors/beats_tower.py`` has the formulas and the origin of the weights.

Windows
-------
A window of 16,000 samples at 16 kHz gives 98 frames of log-mel energies. The encoder takes patches of 16 frames by 16
of 128 bands: 6 times of 8 bands each, and the last two frames fill no patch. Nothing is padded or repeated.

Output
------
``form=pooled`` is the mean of the tokens after the last block, ``[768]``. ``form=map`` is the tokens themselves,
``[6, 8, 768]``: times ascend, and bands, from low to high.

Weights
-------
A file as published, ``{cfg, model}``, of any iteration; of one that was fine-tuned, the classifier is left out, and
listed in the log. A ``cfg`` that describes another encoder is refused. The files have no tags: no hub that answers
without a browser has them.

Preprocessing
-------------
Kaldi's log-mel energies of samples times 2**15, less 15.41663 and divided by 2 * 6.55582, in double precision:
``extractors/mel.py``. The published code computes them in single precision, in which the bands far below a loud tone
are lost in rounding errors.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from extractors.base import ExtractorError, Json, Model, OutputSpec, WeightsError, check_windows
from extractors.beats_models import BACKBONES, Backbone
from extractors.mel import Fbank
from extractors.trained import Trained
from extractors.weights import HubTag, identity
from settings.messages import available, nearest

if TYPE_CHECKING:
    from torch import nn

FBANK = Fbank(bands=128, window="povey", gain=2.0**15, mean=15.41663, std=6.55582)
_UNITS = {
    "pooled": "BEATs tokens after the last block, mean over times and bands",
    "map": "BEATs tokens after the last block, times then bands",
}


class Beats(Trained):
    """Options of the ``beats`` extractor, beside those of ``Trained``.

    Attributes
    ----------
    model
        Size of the encoder; ``base`` is the only published one.
    weights
        A published file, a ``.safetensors`` file of its ``model``, or ``random:<seed>``.
    form
        ``pooled`` or ``map``; see the module.
    """

    name: ClassVar[str] = "beats"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "audio"
    prepared_dtype: ClassVar[str] = "float32"
    rate: ClassVar[int] = Fbank.RATE
    window_samples: ClassVar[int] = Fbank.RATE

    model: str = "base"
    form: Literal["pooled", "map"] = "pooled"

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        if value not in BACKBONES:
            raise ExtractorError(f"BEATs has no size {value!r}{nearest(value, BACKBONES)} ({available(BACKBONES)})")
        return value

    @model_validator(mode="after")
    def _has_no_tags(self) -> Self:
        if isinstance(self.source, HubTag):
            raise WeightsError(f"{self.weights_of} has no tags: download its file and set weights to the path")
        return self

    @cached_property
    def backbone(self) -> Backbone:
        """Shapes of the encoder."""
        return BACKBONES[self.model]

    @property
    def weights_of(self) -> str:
        """``beats_`` and the size."""
        return f"{self.name}_{self.model}"

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads (and hashes, once per process) the weights file; imports no torch.

        Raises
        ------
        WeightsError
            If the weights file cannot be read, is not the pinned one, or says that it holds another model.
        """
        return {
            "extractor": self.name,
            "version": self.version,
            "model": self.model,
            "weights": identity(self.pinned_weights),
            "form": self.form,
            "layer": "last block",
            "preprocessing": self.preparation(),
            "compute_dtype": self.compute_dtype_entry,
        }

    @property
    def _grid(self) -> tuple[int, int]:
        """Patches along times and bands."""
        return FBANK.frames(self.window_samples) // self.backbone.patch, FBANK.bands // self.backbone.patch

    def output(self) -> OutputSpec:
        """Return ``[768]`` or ``[6, 8, 768]``."""
        grid = self._grid if self.form == "map" else ()
        return OutputSpec((*grid, self.backbone.width), _UNITS[self.form])

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(96, 128)``: the frames that fill patches, and bands."""
        return (self._grid[0] * self.backbone.patch, FBANK.bands)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Turn windows ``float32 [T,16000]`` into energies ``float32 [T,96,128]``."""
        check_windows(frames, self.window_samples)
        return FBANK(frames)[:, : self.prepared_shape()[0]].astype(np.float32)

    def preparation(self) -> Json:
        """Return the energies, and how many frames are kept."""
        return {**FBANK.spec(), "patch_frames": self.prepared_shape()[0]}

    def check_weights(self) -> None:
        """See that a file fits. Reads its ``cfg`` and the shapes of its tensors alone; imports torch.

        Raises
        ------
        WeightsError
            If it does not.
        """
        from extractors import beats_tower

        beats_tower.check_file(self.pinned_weights, self.backbone)

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the encoder on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If the weights cannot be read or do not fit.
        ExtractorError
            If the device cannot be used.
        """
        from extractors import beats_tower

        execution = self.execution(device, threads)
        return beats_tower.load(self.pinned_weights, self.backbone, self.form, self.output(), execution)

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build the encoder."""
        from extractors import beats_tower

        return beats_tower.build_network(self.pinned_weights, self.backbone)

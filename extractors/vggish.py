"""``vggish``: the audio tower of AudioSet, one embedding of 128 numbers per window of 0.975 s.

A window of 15,600 samples at 16 kHz is exactly one 96 × 64 log-mel patch. The sampling policy decides where windows
start, not this extractor. A window at the start of each second is MUSIC-AVQA's own rule (one patch per second, 60 steps
per minute); a window every 0.96 s is AudioSet's (each window gives the same patch that the published front end cuts
from the continuous signal, 62 steps per minute).

Options that move the numbers
-----------------------------
``final_relu=True`` is what torchvggish, torchaudio and MUSIC-AVQA's features have: no value is negative. TensorFlow's
current VGGish stops before that ReLU.
``pca`` applies AudioSet's whitening, ``E (x - mu)``, and ``quantise`` its 8 bits: clip to -2..2, scale to 0..255,
truncate as TensorFlow does (torchvggish rounds, and differs by one in a third of the values). The released means have
negative entries, because they were fitted before the final ReLU.

The papers, the origin of the weights and their licence are in ``extractors/vggish_tower.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from extractors import logmel
from extractors.base import ExtractorError, Json, Model, OutputSpec, check_windows
from extractors.trained import Trained
from extractors.weights import HubTag, WeightsFile, digest, identity, unknown_tag

if TYPE_CHECKING:
    from torch import nn

TAG = "torchvggish"
_WIDTH = 128


class Vggish(Trained):
    """Options of the ``vggish`` extractor, beside those of ``Trained``.

    Attributes
    ----------
    weights
        ``torchvggish`` (the file that this package downloads), a ``.safetensors`` or torch file, or ``random:<seed>``.
    final_relu
        Keep the ReLU after the last layer.
    pca
        ``none``, or a file with ``pca_eigen_vectors`` ``[128,128]`` and ``pca_means`` ``[128]``: ``.npz``, or
        torchvggish's ``.pth``. PCA is computed in float64, whatever ``compute_dtype``.
    quantise
        Give AudioSet's 8-bit values, 0..255 as float32; needs ``pca``.
    """

    name: ClassVar[str] = "vggish"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "audio"
    prepared_dtype: ClassVar[str] = "float32"
    rate: ClassVar[int] = logmel.RATE
    window_samples: ClassVar[int] = logmel.PATCH_SAMPLES

    weights: str = TAG
    final_relu: bool = True
    pca: str = "none"
    quantise: bool = False

    @field_validator("pca")
    @classmethod
    def _absolute_pca(cls, value: str) -> str:
        if value == "none":
            return value
        path = Path(value).expanduser().absolute()
        if path.suffix not in (".npz", ".pth"):
            raise ExtractorError(f"option 'pca': write none or a .npz or .pth file (got {value!r})")
        return str(path)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if isinstance(self.source, HubTag) and self.source.tag != TAG:
            raise unknown_tag("vggish", self.source.tag, [TAG])
        if self.quantise and self.pca_file is None:
            raise ExtractorError("option 'quantise': the 8 bits are those of the PCA output; name a pca file")
        return self

    @property
    def pca_file(self) -> Path | None:
        """The file with the PCA parameters; None without PCA."""
        return None if self.pca == "none" else Path(self.pca)

    def spec(self) -> dict[str, Json]:
        """Return the spec. Reads (and hashes, once per process) the files; imports no torch.

        Raises
        ------
        WeightsError
            If a file cannot be read, is not the pinned one, or says that it holds another model.
        """
        return {
            "extractor": self.name,
            "version": self.version,
            "model": "VGGish",
            "weights": identity(self.pinned_weights),
            "final_relu": self.final_relu,
            "pca": None if self.pca_file is None else {"sha256": digest(self.pca_file)},
            "quantise": "clip -2..2, 8 bits, truncated" if self.quantise else None,
            "preprocessing": {**logmel.spec(), "patch_frames": logmel.PATCH_FRAMES},
            "compute_dtype": self.compute_dtype_entry,
        }

    def output(self) -> OutputSpec:
        """Return ``[128]``."""
        embedding = "VGGish embedding" if self.final_relu else "VGGish embedding before the final ReLU"
        if self.pca_file is None:
            return OutputSpec((_WIDTH,), embedding)
        bits = ", AudioSet's 8-bit values 0..255" if self.quantise else ""
        return OutputSpec((_WIDTH,), f"{embedding}, PCA-whitened{bits}")

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(96, 64)``: frames of 10 ms, mel bands."""
        return (logmel.PATCH_FRAMES, logmel.BANDS)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Turn windows ``float32 [T,15600]`` into log-mel patches ``float32 [T,96,64]``."""
        check_windows(frames, self.window_samples)
        return logmel.patches(frames)

    def preparation(self) -> Json:
        """Return what a patch is; the options of VGGish come after it."""
        return {"patch_frames": logmel.PATCH_FRAMES, **logmel.spec()}

    def check_weights(self) -> None:
        """See that a weights file fits, by the shapes of its tensors alone, and read the PCA file; imports torch.

        Raises
        ------
        WeightsError
            If one does not fit, or the PCA file cannot be used.
        ExtractorError
            If torchvggish is not installed.
        """
        if isinstance(self.source, WeightsFile) or self.pca_file is not None:
            from extractors import vggish_tower

            vggish_tower.check_files(self.pinned_weights, self.pca_file)

    def load(self, device: str, threads: int | None = None) -> Model:
        """Build the network on ``device`` and load its weights strictly.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit, or the PCA file cannot be used.
        ExtractorError
            If torchvggish is not installed, or the device cannot be used.
        """
        from extractors import vggish_tower

        return vggish_tower.load(
            self.pinned_weights,
            self.final_relu,
            self.pca_file,
            self.quantise,
            self.output(),
            self.execution(device, threads),
        )

    def build_network(self) -> tuple[nn.Module, str | None]:
        """Build torchvggish's network, the final ReLU included."""
        from extractors import vggish_tower

        return vggish_tower.build_network(self.pinned_weights)

"""`vggish`: the audio tower of AudioSet, one 128-number embedding per window of 0.975 s.

A window of 15,600 samples at 16 kHz is exactly one 96 × 64 log-mel patch. Where windows start is the sampling policy's
business, not this extractor's: at the start of each second it is MUSIC-AVQA's own rule (one patch of each second, 60
rows a minute), every 0.96 s it is AudioSet's (each window gives the very patch that the published front end cuts from
the continuous signal, 62 rows a minute).

Options that move the numbers
-----------------------------
`final_relu=True` is what torchvggish, torchaudio and MUSIC-AVQA's features have: no value is negative. TensorFlow's
current VGGish stops before that ReLU.
`pca` applies AudioSet's whitening, `E (x - mu)`, and `quantise` its 8 bits: clip to -2..2, scale to 0..255, truncate as
TensorFlow does (torchvggish rounds, and differs by one in a third of the values). The released means have negative
entries: they were fitted before the final ReLU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator, model_validator

from extractors import logmel
from extractors import weights as weights_
from extractors.base import ExtractorError, Json, OutputSpec, WeightsError, check_windows
from extractors.trained import Trained
from extractors.weights import HubTag, WeightsFile

TAG = "torchvggish"
_WIDTH = 128


class Vggish(Trained):
    """Options of the `vggish` extractor.

    Attributes
    ----------
    weights:
        `torchvggish` (the file that package downloads), a `.safetensors` or torch file, or `random:<seed>`.
    sha256:
        Digest that the weights file must have.
    final_relu:
        Keep the ReLU after the last layer.
    pca:
        `none`, or a file with `pca_eigen_vectors` [128,128] and `pca_means` [128]: `.npz`, or torchvggish's `.pth`.
    quantise:
        AudioSet's 8-bit values, 0..255 as float32; needs `pca`.
    compute_dtype:
        float16 and bfloat16 run under autocast; PCA stays in float64.
    compile:
        Run through `torch.compile`; in the numerics, not in the spec.
    """

    name: ClassVar[str] = "vggish"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "audio"
    tower_module: ClassVar[str] = "extractors.vggish_tower"
    prepared_dtype: ClassVar[str] = "float32"
    rate: ClassVar[int] = logmel.RATE
    window_samples: ClassVar[int] = logmel.PATCH_SAMPLES

    weights: str = TAG
    final_relu: bool = True
    pca: str = "none"
    quantise: bool = False
    compute_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    compile: bool = False

    @field_validator("weights")
    @classmethod
    def _canonical_weights(cls, value: str) -> str:
        parsed = weights_.parse(value)
        return str(parsed.path) if isinstance(parsed, WeightsFile) else value

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
            raise WeightsError(f"vggish has no weights {self.source.tag!r}; it has: {TAG}")
        if self.quantise and self.pca_file is None:
            raise ExtractorError("option 'quantise': the 8 bits are those of the PCA output; name a pca file")
        return self

    @property
    def pca_file(self) -> Path | None:
        """The file with the PCA parameters."""
        return None if self.pca == "none" else Path(self.pca)

    def spec(self) -> dict[str, Json]:
        """The model part of the recipe. Reads (and hashes, once per process) files; imports no torch.

        Raises
        ------
        WeightsError:
            A file cannot be read, is not the pinned one, or says that it holds another model.
        """
        if isinstance(self.source, WeightsFile):
            weights_.check_model(self.source.path, self.name)
        return {
            "extractor": self.name,
            "version": self.version,
            "model": "VGGish",
            "weights": weights_.identity(self.source, self.sha256),
            "final_relu": self.final_relu,
            "pca": None if self.pca_file is None else {"sha256": weights_.digest(self.pca_file)},
            "quantise": "clip -2..2, 8 bits, truncated" if self.quantise else None,
            "preprocessing": {**logmel.spec(), "patch_frames": logmel.PATCH_FRAMES},
            "compute_dtype": self.compute_dtype,
        }

    def output(self) -> OutputSpec:
        """`[128]`."""
        embedding = "VGGish embedding" if self.final_relu else "VGGish embedding before the final ReLU"
        if self.pca_file is None:
            return OutputSpec((_WIDTH,), embedding)
        bits = ", AudioSet's 8-bit values 0..255" if self.quantise else ""
        return OutputSpec((_WIDTH,), f"{embedding}, PCA-whitened{bits}")

    def prepared_shape(self) -> tuple[int, ...]:
        """`(96, 64)`: 10 ms frames, mel bands."""
        return (logmel.PATCH_FRAMES, logmel.BANDS)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Windows `float32 [T,15600]` to log-mel patches `float32 [T,96,64]`."""
        check_windows(frames, self.window_samples)
        return logmel.patches(frames)

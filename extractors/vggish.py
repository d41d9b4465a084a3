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

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from extractors import logmel
from extractors import weights as weights_
from extractors.base import Extractor, ExtractorError, FetchedWeights, Json, OutputSpec, WeightsError, check_windows
from extractors.weights import HubTag, RandomWeights, Weights, WeightsFile

if TYPE_CHECKING:
    from extractors.vggish_tower import VggishModel

TAG = "torchvggish"
_WIDTH = 128


class Vggish(Extractor):
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
    prepared_dtype: ClassVar[str] = "float32"
    rate: ClassVar[int] = logmel.RATE
    window_samples: ClassVar[int] = logmel.PATCH_SAMPLES

    weights: str = TAG
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
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
        if isinstance(self.source, RandomWeights) and self.sha256:
            raise ExtractorError("option 'sha256' pins a file; random weights have none")
        if self.quantise and self.pca_file is None:
            raise ExtractorError("option 'quantise': the 8 bits are those of the PCA output; name a pca file")
        return self

    @cached_property
    def source(self) -> Weights:
        """The `weights` option, parsed."""
        return weights_.parse(self.weights)

    @property
    def pca_file(self) -> Path | None:
        """The file with the PCA parameters."""
        return None if self.pca == "none" else Path(self.pca)

    @property
    def random_weights(self) -> bool:
        """True for `random:<seed>`."""
        return isinstance(self.source, RandomWeights)

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

    def load(self, device: str, threads: int | None = None) -> VggishModel:
        """Build the network on `device` and load its weights, strictly; downloads the tag if it is not cached."""
        from extractors import vggish_tower

        return vggish_tower.load(self, device, threads)

    def fetch(self, directory: Path) -> FetchedWeights | None:
        """Download the tag as safetensors; None for files and random weights."""
        if not isinstance(self.source, HubTag):
            return None
        from extractors import vggish_tower

        return vggish_tower.fetch(self, self.source.tag, directory)

    def verify(self, directory: Path) -> FetchedWeights | None:
        """Check what `fetch` left: digest, and a strict load. None for files and random weights."""
        if not isinstance(self.source, HubTag):
            return None
        path, entry = weights_.fetched(directory, self.name, self.name, self.source.tag)
        options = self.model_dump(exclude_unset=True) | {"weights": str(path), "sha256": entry.sha256}
        type(self).model_validate(options).load("cpu")
        return entry

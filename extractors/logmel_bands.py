"""``logmel_bands``: how loud each frequency band is in each second. No network, no torch, no weights.

The log-mel frames of ``extractors.logmel`` (VGGish's front end) are averaged over the window and over neighbouring
bands.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import field_validator

from extractors import logmel
from extractors.base import Extractor, Json, Model, OutputSpec, check_windows


class LogmelBands(Extractor):
    """Mean log-mel energy per band of a window of one second.

    A step is ``[bands] float32``, from low to high, natural logarithm; silence is ln(0.01) = -4.605 in every band.

    Attributes
    ----------
    bands
        Bands, a divisor of the front end's 64.
    """

    name: ClassVar[str] = "logmel_bands"
    version: ClassVar[int] = 1
    input: ClassVar[Literal["frames", "audio"]] = "audio"
    prepared_dtype: ClassVar[str] = "float32"
    rate: ClassVar[int] = logmel.RATE
    window_samples: ClassVar[int] = logmel.RATE

    bands: int = 16

    @field_validator("bands")
    @classmethod
    def _divides(cls, value: int) -> int:
        if value < 1 or logmel.BANDS % value:
            raise ValueError(f"must divide the {logmel.BANDS} bands of the front end")
        return value

    def spec(self) -> dict[str, Json]:
        """Return the spec: the front end and the number of bands."""
        return {
            "extractor": self.name,
            "version": self.version,
            "bands": self.bands,
            "preprocessing": logmel.spec(),
            "compute_dtype": "float64",
        }

    def output(self) -> OutputSpec:
        """Return ``[bands]``."""
        return OutputSpec((self.bands,), "mean log-mel energy per band, natural logarithm")

    def prepared_shape(self) -> tuple[int, ...]:
        """Return ``(bands,)``."""
        return (self.bands,)

    def prepare(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """Turn windows ``float32 [T,16000]`` into ``float32 [T,bands]``."""
        check_windows(frames, self.window_samples)
        energy = logmel.log_mel(frames)  # [T, n, 64]
        means: NDArray[np.float64] = energy.reshape(*energy.shape[:2], self.bands, -1).mean(axis=(1, 3))
        return means.astype(np.float32)

    def load(self, device: str, threads: int | None = None) -> LogmelBandsModel:
        """Return the model. It runs on the CPU, whatever the device."""
        return LogmelBandsModel(self.output())


class LogmelBandsModel(Model):
    """Return what was prepared.

    Parameters
    ----------
    output
        Shape of one step.
    """

    def __init__(self, output: OutputSpec) -> None:
        self.output = output

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``float32 [M,bands]``, unchanged."""
        return batch.astype(np.float32)

    def numerics(self) -> dict[str, Json]:
        """Return numpy's version: the values were computed in double precision when they were prepared."""
        return {"device_type": "cpu", "compute_dtype": "float64", "numpy": np.__version__}

"""The contract every extractor keeps: a frozen description that loads into a model.

An `Extractor` is a pydantic model of its options. It is cheap to build, to pickle and to ask for its `spec()`;
it prepares frames on the CPU. `load()` returns the `Model`, the only object that holds weights and a device.

A new backbone is one file: subclass `Extractor` (options, `spec`, `output`, `prepared_shape`, `prepare`, `load`)
and `Model` (`forward`, `numerics`), then name it `package.module:Class` in the configuration.
`extractors/rgb_grid.py` is the shortest complete example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class ExtractorError(Exception):
    """An extractor cannot do what is asked of it. The message is one line."""


class WeightsError(ExtractorError):
    """Weights are missing, are not the ones pinned, or do not fit the model."""


class ModelOutputError(ExtractorError):
    """A model returned something that cannot be stored.

    Attributes
    ----------
    keys:
        The keys of the rows concerned; empty when the whole batch is wrong (a shape, a dtype).
    """

    def __init__(self, message: str, keys: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What one time step becomes.

    Attributes
    ----------
    step_shape:
        Shape of one step, e.g. `(768,)` or `(257, 1024)`.
    units:
        What the numbers are, for the reader of a store.
    dtype:
        Always `float32`: the stored dtype is the pipeline's choice.
    """

    step_shape: tuple[int, ...]
    units: str
    dtype: Literal["float32"] = "float32"


@dataclass(frozen=True, slots=True)
class FetchedWeights:
    """One file that `fetch` wrote, as `weights.json` lists it.

    Attributes
    ----------
    file:
        File name inside the directory.
    sha256:
        Digest of that file, hexadecimal.
    extractor, model, tag:
        What the file holds.
    source_sha256:
        Digest of the file that the hub sent.
    """

    file: str
    sha256: str
    extractor: str
    model: str
    tag: str
    source_sha256: str


class Model(ABC):
    """A loaded network on one device. Not picklable, not shared between threads."""

    output: OutputSpec

    @abstractmethod
    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network once.

        Parameters
        ----------
        batch:
            `[M, *prepared_shape]` of the prepared dtype; valid only during the call.

        Returns
        -------
        `[M, *step_shape] float32`; step m belongs to input m.
        """

    def submit(self, batch: NDArray[Any]) -> Callable[[], NDArray[np.float32]]:
        """Start one forward; call what is returned, once, for its result.

        `batch` may be overwritten as soon as this returns. Results are asked for in the order of submission. Models
        of an asynchronous device override this; here the forward is done at once.
        """
        values = self.forward(batch)
        return lambda: values

    def reference(self, batch: NDArray[Any]) -> NDArray[np.float32] | None:
        """What `forward` would give in float32, for any number of steps; None where it computes in float32 anyway."""
        return None

    @abstractmethod
    def numerics(self) -> dict[str, Json]:
        """Everything but the recipe that can move the last bits: device, dtype, threads, library versions."""


class Extractor(BaseModel, ABC):
    """Options of one extractor, validated and frozen.

    Class attributes
    ----------------
    name:
        The name in configurations and specs.
    version:
        Raised whenever this code changes the numbers it produces; part of the spec.
    input:
        `frames` (`uint8 [N,H,W,3]` RGB) or `audio` (`float32 [N, window_samples]` mono, nominally -1..1).
    prepared_dtype:
        dtype of what `prepare` returns.
    rate, window_samples:
        For audio extractors: samples per second of the waveform, and samples of the window of one step.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int]
    input: ClassVar[Literal["frames", "audio"]] = "frames"
    prepared_dtype: ClassVar[str] = "uint8"
    rate: ClassVar[int] = 16_000
    window_samples: ClassVar[int] = 16_000

    @abstractmethod
    def spec(self) -> dict[str, Json]:
        """The model part of the recipe: equal specs promise equal numbers on equal numerics."""

    @abstractmethod
    def output(self) -> OutputSpec:
        """Shape, dtype and units of one step."""

    @abstractmethod
    def prepared_shape(self) -> tuple[int, ...]:
        """Shape of one prepared step, e.g. `(224, 224, 3)`."""

    @abstractmethod
    def prepare(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Turn decoded input into model input, on the CPU and without side effects.

        Parameters
        ----------
        frames:
            `uint8 [N,H,W,3]` RGB frames, or `float32 [N, window_samples]` windows for audio extractors.

        Returns
        -------
        `[N, *prepared_shape()]` of `prepared_dtype`.

        Raises
        ------
        ExtractorError:
            The input has another shape or dtype.
        """

    @abstractmethod
    def load(self, device: str, threads: int | None = None) -> Model:
        """Load the weights.

        Parameters
        ----------
        device:
            A torch device, `cpu`, `cuda` or `cuda:1`.
        threads:
            CPU threads of the network; None keeps the library's own number.

        Raises
        ------
        WeightsError:
            The weights cannot be had or do not fit.
        """

    @property
    def random_weights(self) -> bool:
        """True if the network is not trained: logs, cards and readers warn."""
        return False

    def fetch(self, directory: Path) -> FetchedWeights | None:
        """Download hub weights into `directory` as safetensors; None when there is nothing to fetch.

        Raises
        ------
        WeightsError:
            The hub cannot be reached or the file does not fit.
        """
        return None

    def verify(self, directory: Path) -> FetchedWeights | None:
        """Check the digest of what `fetch` left in `directory` and load it strictly; None when nothing is needed.

        Raises
        ------
        WeightsError:
            The file is missing, has other bytes or does not fit.
        """
        return None


def check_frames(frames: NDArray[Any]) -> None:
    """Raise ExtractorError unless `frames` is `uint8 [N,H,W,3]` with at least one pixel."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:3]:
        shape = list(frames.shape)
        raise ExtractorError(f"expected RGB frames uint8 [N,H,W,3], got {frames.dtype} {shape}")


def check_windows(windows: NDArray[Any], samples: int) -> None:
    """Raise ExtractorError unless `windows` is `float32 [N, samples]`."""
    if windows.dtype != np.float32 or windows.ndim != 2 or windows.shape[1] != samples:
        shape = list(windows.shape)
        raise ExtractorError(f"expected audio windows float32 [N,{samples}], got {windows.dtype} {shape}")

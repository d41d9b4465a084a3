"""The contract that every extractor keeps: a frozen description that loads into a model.

An ``Extractor`` is a pydantic model of its options. It is cheap to build, to pickle and to ask for its ``spec()``, and
it prepares frames on the CPU. ``load()`` returns the ``Model``, the only object that holds weights and a device.

A new backbone is one file: subclass ``Extractor`` (options, ``spec``, ``output``, ``prepared_shape``, ``prepare``,
``load``) and ``Model`` (``forward``, ``numerics``), then name it ``package.module:Class`` in the configuration.
``extractors/rgb_grid.py`` is the shortest complete example, and ``extractors.testing.check_extractor`` checks that a
new extractor keeps the contract.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import torch

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Input: TypeAlias = Literal["frames", "clips", "audio"]
"""What an extractor takes at each step: one frame, the frames of a clip, or a window of sound."""
Steps: TypeAlias = "NDArray[Any] | torch.Tensor"
"""Prepared steps: an array, or a tensor on the device of the model."""
_Pictures = TypeVar("_Pictures", "NDArray[Any]", "torch.Tensor")


class ExtractorError(Exception):
    """Raised when an extractor cannot do what it was asked to do. The message is one line."""


class WeightsError(ExtractorError):
    """Raised when weights are missing, are not the pinned ones, or do not fit the model."""


class UnreachableError(WeightsError):
    """Raised when a model hub cannot be reached or refuses; the message says how to bring the weights here.

    Attributes
    ----------
    reason
        What cannot be had and why, without that advice.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


class ModelOutputError(ExtractorError):
    """Raised when a model returns something that cannot be stored.

    Attributes
    ----------
    keys
        Keys of the rows concerned; empty if the whole batch is wrong (a shape, a dtype).
    """

    def __init__(self, message: str, keys: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.keys = tuple(keys)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """Shape, units and dtype of one time step of a feature.

    Attributes
    ----------
    step_shape
        Shape of one step, for example ``(768,)`` or ``(257, 1024)``.
    units
        What the numbers are, for readers of a store.
    dtype
        Always ``float32``; the pipeline chooses the stored dtype.
    """

    step_shape: tuple[int, ...]
    units: str
    dtype: Literal["float32"] = "float32"


@dataclass(frozen=True, slots=True)
class FetchedWeights:
    """One file or folder that ``fetch`` wrote, as ``weights.json`` lists it.

    Attributes
    ----------
    file
        Its name inside the directory.
    sha256
        Digest of the weights, hexadecimal.
    extractor
        Name of the extractor that uses the file.
    model
        Model whose weights the file holds.
    tag
        Hub tag that was downloaded.
    source_sha256
        Digest of the file that the hub sent.
    option
        Option of the extractor that names the file.
    """

    file: str
    sha256: str
    extractor: str
    model: str
    tag: str
    source_sha256: str
    option: str = "weights"


@dataclass(frozen=True, slots=True)
class Execution:
    """How a network runs.

    Attributes
    ----------
    device
        A torch device.
    compute_dtype
        ``float32``, ``float16`` or ``bfloat16``: what weights are cast to, once, and activations are kept in.
    threads
        CPU threads; None keeps torch's own number.
    compile
        Run the network through ``torch.compile``, for the one batch shape that it is given.
    """

    device: str
    compute_dtype: str = "float32"
    threads: int | None = None
    compile: bool = False


class Model(ABC):
    """A loaded network on one device. It cannot be pickled and is not shared between threads."""

    output: OutputSpec

    @abstractmethod
    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network once.

        Parameters
        ----------
        batch
            ``[M, *prepared_shape]`` of the prepared dtype; valid only during the call.

        Returns
        -------
        features
            ``[M, *step_shape] float32``; step m belongs to input m.
        """

    def submit(self, batch: Steps) -> Callable[[], NDArray[np.float32]]:
        """Start one forward pass and return a function that waits for its result; call that function once.

        ``batch`` is a tensor only for extractors with a ``prepare_tensor``.

        ``batch`` may be overwritten as soon as this returns. Results are requested in the order of submission. Models
        on an asynchronous device override this method; here the forward pass is done at once.
        """
        values = self.forward(np.asarray(batch))
        return lambda: values

    @property
    def parameters(self) -> int | None:
        """Numbers of the network that were learnt; None if it is no network."""
        return None

    def reference(self, batch: Steps) -> NDArray[np.float32] | None:
        """Return what ``forward`` would give in float32, for any number of steps; None if it computes in float32."""
        return None

    @abstractmethod
    def numerics(self) -> dict[str, Json]:
        """Return all that can move the last bits beside the spec: device, dtype, threads, library versions."""


def is_built_in(cls: type) -> bool:
    """Return whether a class belongs to this package."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _code_digest(cls: type) -> str | None:
    """Return the sha256 of the file that defines a class; None if it cannot be read."""
    if cls.__module__ == "__main__":  # another file in a worker process
        return None
    try:
        file = inspect.getsourcefile(cls)
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except (OSError, TypeError):  # typed into an interpreter; compiled
        return None


class Description(BaseModel, ABC):
    """Options of an extractor or a text encoder: validated, frozen, cheap to build and to pickle.

    Attributes
    ----------
    name
        Name in configurations and specs.
    version
        Raised whenever a change of the code changes the numbers that it produces; part of the spec.
    code_sha256
        Digest of the file in which a class of a user's own is written, as it was when the class was imported; part of
        its spec. It is that file alone: neither what it imports, nor the file of a base class. None if Python cannot
        show the file, and for the classes of this package: there, only ``version`` tells one state from the next.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    version: ClassVar[int]
    code_sha256: ClassVar[str | None] = None

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Add the digest of its file to the spec of a user's own class, so that an edited class has another spec."""
        super().__pydantic_init_subclass__(**options)
        if is_built_in(cls):
            return
        cls.code_sha256 = digest = _code_digest(cls)
        described = cls.spec

        @functools.wraps(described)
        def spec(self: Description) -> dict[str, Json]:
            return {**described(self), "code": {"sha256": digest}}

        cls.spec = spec  # type: ignore[method-assign]  # whoever writes a class writes spec() and could forget this part

    @abstractmethod
    def spec(self) -> dict[str, Json]:
        """Return all that defines the numbers that the network computes, the identity of the weights included.

        Equal specs promise equal numbers on equal numerics.

        Raises
        ------
        WeightsError
            If a weights file cannot be read or is not the pinned one.
        """

    @property
    def random_weights(self) -> bool:
        """True if the network is not trained, so that logs, cards and readers warn."""
        return False


class Extractor(Description):
    """Options of one extractor.

    Attributes
    ----------
    input
        ``frames`` (``uint8 [N,H,W,3]`` RGB), ``clips`` (``uint8 [N,F,H,W,3]`` RGB) or ``audio`` (``float32
        [N, window_samples]`` mono, nominally -1..1).
    prepared_dtype
        dtype of what ``prepare`` returns.
    rate
        For audio: samples per second of the waveform.
    window_samples
        For audio: samples in the window of one step.
    """

    input: ClassVar[Input] = "frames"
    prepared_dtype: ClassVar[str] = "uint8"
    rate: ClassVar[int] = 16_000
    window_samples: ClassVar[int] = 16_000

    @abstractmethod
    def output(self) -> OutputSpec:
        """Return the shape, dtype and units of one step."""

    @abstractmethod
    def prepared_shape(self) -> tuple[int, ...]:
        """Return the shape of one prepared step, for example ``(224, 224, 3)``.

        That of a clip begins with its number of frames, ``(8, 224, 224, 3)``; the sampling policy must give as many.
        """

    @abstractmethod
    def prepare(self, frames: NDArray[Any]) -> NDArray[Any]:
        """Turn decoded input into model input, on the CPU and without side effects.

        Parameters
        ----------
        frames
            RGB frames ``uint8 [N,H,W,3]``, clips ``uint8 [N,F,H,W,3]`` for extractors of clips, or windows ``float32
            [N, window_samples]`` for audio extractors. Clips come frame by frame while a video is decoded, so F is any
            number of frames here.

        Returns
        -------
        prepared
            ``[N, *prepared_shape()]`` of ``prepared_dtype``; step n depends on frame n only. For clips, ``[N, F,
            *prepared_shape()[1:]]``; each frame depends on itself only.

        Raises
        ------
        ExtractorError
            If the input has another shape or dtype.
        """

    def prepare_tensor(self, frames: torch.Tensor) -> torch.Tensor | None:
        """Do what ``prepare`` does with frames that a GPU has decoded, where they lie; None if that is not known.

        What is returned must be equal to what ``prepare`` returns, on the same device as ``frames``. Without it, as
        here, the frames are copied to the CPU and given to ``prepare``.

        Parameters
        ----------
        frames
            RGB frames ``uint8 [N,H,W,3]``, or clips ``uint8 [N,F,H,W,3]``, on any device.
        """
        return None

    def preparation(self) -> Json:
        """Return all that ``prepare`` depends on, so that extractors which prepare alike share their steps.

        Extractors of equal preparation must give equal bytes for equal frames, whether they take them one by one or
        in clips, and for equal windows. None, as here, shares nothing.
        """
        return None

    @property
    def shared_preparation(self) -> Json:
        """``preparation()``, or None if a subclass has a ``prepare`` of its own that it does not know of."""
        order = type(self).__mro__
        described, prepared = (
            next(place for place, cls in enumerate(order) if name in vars(cls)) for name in ("preparation", "prepare")
        )
        return self.preparation() if described <= prepared else None

    @property
    def prepares_tensors(self) -> bool:
        """Whether ``prepare_tensor`` does what ``prepare`` does: not if a subclass overrides the latter alone."""
        order = type(self).__mro__
        on_device, prepared = (
            next(place for place, cls in enumerate(order) if name in vars(cls))
            for name in ("prepare_tensor", "prepare")
        )
        return order[on_device] is not Extractor and on_device <= prepared

    @abstractmethod
    def load(self, device: str, threads: int | None = None) -> Model:
        """Load the weights.

        Parameters
        ----------
        device
            A torch device: ``cpu``, ``cuda`` or ``cuda:1``.
        threads
            CPU threads of the network; None keeps the library's own number.

        Raises
        ------
        WeightsError
            If the weights cannot be obtained or do not fit.
        """

    def check_weights(self) -> None:
        """See that local weights files fit, by names and shapes of their tensors alone, before anything is decoded.

        Nothing is checked here; ``load`` checks in any case.

        Raises
        ------
        WeightsError
            If a file does not fit.
        """
        return None

    def fetch(self, directory: Path) -> FetchedWeights | None:
        """Download hub weights into ``directory`` as safetensors; return None if there is nothing to fetch.

        Raises
        ------
        WeightsError
            If the hub cannot be reached or the file does not fit.
        """
        return None

    def verify(self, directory: Path) -> FetchedWeights | None:
        """Check and strictly load what ``fetch`` left in ``directory``; return None if nothing is needed.

        Raises
        ------
        WeightsError
            If the file is missing, has other bytes or does not fit.
        """
        return None


def spec_digest(spec: Mapping[str, Json]) -> str:
    """Return the sha256 of a spec's canonical JSON, hexadecimal, as stores compute it."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_frames(frames: NDArray[Any]) -> None:
    """Raise ExtractorError unless ``frames`` is ``uint8 [N,H,W,3]`` with at least one pixel."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:3]:
        shape = list(frames.shape)
        raise ExtractorError(f"expected RGB frames uint8 [N,H,W,3], got {frames.dtype} {shape}")


def check_clips(clips: NDArray[Any]) -> None:
    """Raise ExtractorError unless ``clips`` is ``uint8 [N,F,H,W,3]`` with at least one frame of one pixel."""
    if clips.dtype != np.uint8 or clips.ndim != 5 or clips.shape[4] != 3 or 0 in clips.shape[1:4]:
        raise ExtractorError(f"expected RGB clips uint8 [N,F,H,W,3], got {clips.dtype} {list(clips.shape)}")


def frame_by_frame(prepare: Callable[[_Pictures], _Pictures], clips: _Pictures) -> _Pictures:
    """Prepare clips, an array or tensor ``[N,F,H,W,3]``, with a function that prepares frames ``[M,H,W,3]``."""
    prepared = prepare(clips.reshape(-1, *clips.shape[2:]))
    return prepared.reshape(*clips.shape[:2], *prepared.shape[1:])


def check_windows(windows: NDArray[Any], samples: int) -> None:
    """Raise ExtractorError unless ``windows`` is ``float32 [N, samples]``."""
    if windows.dtype != np.float32 or windows.ndim != 2 or windows.shape[1] != samples:
        shape = list(windows.shape)
        raise ExtractorError(f"expected audio windows float32 [N,{samples}], got {windows.dtype} {shape}")

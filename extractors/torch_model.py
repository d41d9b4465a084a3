"""What all torch towers share: device, dtype, transfers, compilation, and the record of their numerics."""

from __future__ import annotations

import copy
import platform
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from extractors.base import Execution, ExtractorError, Json, Model, OutputSpec, Steps
from extractors.half_layers import replace_layers
from extractors.preprocess import Preprocessing
from settings.messages import one_line


class TorchModel(Model):
    """A network on one device, in evaluation mode; subclasses define what it computes.

    With a half compute dtype, the network on the device is a copy whose weights were cast once. The float32 network
    then stays on the CPU, and ``reference`` lends it to the device for one call.

    Parameters
    ----------
    network
        The float32 network; convolution weights are put in channels_last order.
    output
        Shape, dtype and units of one step.
    execution
        Device, dtype, threads and compilation.
    libraries
        Version by package name, for the numerics.
    weights_sha256
        Digest of the file that the weights came from; None for random weights.

    Attributes
    ----------
    network
        The network on the device, in the compute dtype.

    Raises
    ------
    ExtractorError
        If the device cannot be used, or ``compile`` finds no compiler that works.
    """

    def __init__(
        self,
        network: nn.Module,
        output: OutputSpec,
        execution: Execution,
        libraries: Mapping[str, Json],
        weights_sha256: str | None,
    ) -> None:
        network = network.eval().requires_grad_(False)
        self._exact: nn.Module | None = None
        half = None
        if execution.compute_dtype != "float32":
            half = getattr(torch, execution.compute_dtype)
            self._exact = network.to(memory_format=torch.channels_last)
            network = replace_layers(copy.deepcopy(network))
        try:
            self._device = torch.device(execution.device)
            self.network = network.to(self._device, half).to(memory_format=torch.channels_last)
        except (RuntimeError, AssertionError) as error:
            raise ExtractorError(f"device {execution.device!r} cannot be used: {one_line(error)}") from error
        self.output = output
        self._compute_dtype = execution.compute_dtype
        self._threads = execution.threads or torch.get_num_threads()
        self._compile = execution.compile
        self._libraries = dict(libraries)
        self._weights_sha256 = weights_sha256
        if execution.compile:
            from extractors.compiling import check_compiler  # here, because torch's code generator is slow to import

            check_compiler(self._device.type)
        # One fixed micro-batch shape is all a model ever sees: a graph with symbolic sizes would only be slower.
        self._compute: Callable[[torch.Tensor], torch.Tensor] = (
            torch.compile(self._own_features, dynamic=False) if execution.compile else self._own_features
        )
        self._staging = _Staging()
        if self._device.type == "cuda":
            _set_cuda_precision()

    @property
    def parameters(self) -> int:
        """Numbers of the network that were learnt."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @abstractmethod
    def _features(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Run a network over ``[M, *prepared_shape]`` on its device.

        Parameters
        ----------
        network
            ``self.network``, or the float32 network that it was cast from. What goes into it must have its dtype, see
            ``dtype_of``.
        batch
            The prepared steps, in the prepared dtype.

        Returns
        -------
        features
            ``[M, *step_shape]`` of any floating dtype.
        """

    def _own_features(self, batch: torch.Tensor) -> torch.Tensor:
        return self._features(self.network, batch)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Turn ``[M, *prepared_shape]`` into ``float32 [M, *step_shape]``."""
        return self.submit(batch)()

    def submit(self, batch: Steps) -> Callable[[], NDArray[np.float32]]:
        """Queue one forward pass. On a GPU the caller fills its next batch while this one is computed."""
        self._set_threads()
        steps = torch.as_tensor(batch)
        on_gpu = self._device.type == "cuda"
        if on_gpu and steps.device.type == "cpu":
            steps = self._staging.upload(steps, self._device)
        with torch.inference_mode():
            features = self._compute(steps).float().contiguous()
            return _download(features) if on_gpu else _ready(features)

    def reference(self, batch: Steps) -> NDArray[np.float32] | None:
        """Run the network in float32, uncompiled; return None if that is how it runs anyway."""
        if self._exact is None:
            return None
        self._set_threads()
        try:
            exact = self._exact.to(self._device)
            with torch.inference_mode():
                features = self._features(exact, torch.as_tensor(batch).to(self._device)).float().cpu()
        finally:
            self._exact.to("cpu")
        values: NDArray[np.float32] = features.numpy()
        return values

    def _set_threads(self) -> None:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def numerics(self) -> dict[str, Json]:
        """Return the device, dtype, threads, library versions, and the digest of the weights file."""
        on_cpu = self._device.type == "cpu"
        return {
            "device_type": self._device.type,
            "device_name": _cpu_name() if on_cpu else torch.cuda.get_device_name(self._device),
            "cpu_capability": torch.backends.cpu.get_cpu_capability() if on_cpu else None,
            "threads": self._threads if on_cpu else None,
            "compute_dtype": self._compute_dtype,
            "tf32": False,
            "compile": self._compile,
            "torch": torch.__version__,
            **({} if on_cpu else _cuda_numerics()),
            **self._libraries,
            "weights_sha256": self._weights_sha256,
        }


class ImageModel(TorchModel):
    """A tower of square RGB images, or of clips of them, which are normalised on the device.

    Parameters
    ----------
    preprocessing
        Mean and std of the normalisation.
    network, output, execution, libraries, weights_sha256
        As for every ``TorchModel``.
    """

    def __init__(
        self,
        network: nn.Module,
        output: OutputSpec,
        preprocessing: Preprocessing,
        execution: Execution,
        libraries: Mapping[str, Json],
        weights_sha256: str | None,
    ) -> None:
        super().__init__(network, output, execution, libraries, weights_sha256)
        # [1,3,1,1] float32, channel first like the network's input.
        self._mean = torch.tensor(preprocessing.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocessing.std, device=self._device).view(1, 3, 1, 1)

    def _features(self, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Turn RGB ``[M,size,size,3]`` or ``[M,F,size,size,3]``, 0..255, into ``[M, *step_shape]``.

        Pictures are normalised in float32, then cast.
        """
        # NHWC memory seen as NCHW is torch's channels_last: no copy but the one into float32.
        images = batch.flatten(0, -4).permute(0, 3, 1, 2).to(torch.float32, copy=True)
        images = images.div_(255).sub_(self._mean).div_(self._std)
        return self._embed(network, images.to(dtype_of(network)))

    @abstractmethod
    def _embed(self, network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """Turn normalised ``[M,3,size,size]`` in the network's dtype into ``[M, *step_shape]``.

        The frames of clips come one after the other: ``[M*F,3,size,size]``.
        """


def dtype_of(network: nn.Module) -> torch.dtype:
    """Return the dtype of a network's parameters, which is what goes into it."""
    return next(network.parameters()).dtype


def _set_cuda_precision() -> None:
    """Hold this process's CUDA kernels to what a spec says: float32 means float32, sums of half products too."""
    # TensorFloat-32 keeps 10 of 23 bits: a spec that says float32 means all of them.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _cuda_numerics() -> dict[str, Json]:
    """Return what beside torch can move the last bits on a GPU, and which attention kernels torch may choose from."""
    backends: Any = torch.backends  # not annotated
    attention = {
        "cudnn": backends.cuda.cudnn_sdp_enabled(),
        "flash": backends.cuda.flash_sdp_enabled(),
        "math": backends.cuda.math_sdp_enabled(),
        "memory_efficient": backends.cuda.mem_efficient_sdp_enabled(),
    }
    return {
        "cuda": torch.version.cuda,
        "cudnn": backends.cudnn.version(),
        "fp16_reduced_precision_reduction": bool(backends.cuda.matmul.allow_fp16_reduced_precision_reduction),
        "bf16_reduced_precision_reduction": bool(backends.cuda.matmul.allow_bf16_reduced_precision_reduction),
        "attention_kernels": [name for name, allowed in attention.items() if allowed],
    }


class _Staging:
    """Two pinned buffers used in turn: one may still be on its way to the GPU while the other is filled."""

    def __init__(self) -> None:
        self._slots: list[tuple[torch.Tensor, torch.cuda.Event]] = []

    def upload(self, steps: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Queue a copy to ``device`` and return it; ``steps`` may be overwritten as soon as this returns."""
        if self._slots and (self._slots[0][0].shape, self._slots[0][0].dtype) != (steps.shape, steps.dtype):
            self._slots.clear()
        if len(self._slots) < 2:
            pinned, sent = torch.empty_like(steps, pin_memory=True), _event()
        else:
            pinned, sent = self._slots.pop(0)
            sent.synchronize()
        pinned.copy_(steps)
        uploaded = pinned.to(device, non_blocking=True)
        sent.record(torch.cuda.current_stream(device))
        self._slots.append((pinned, sent))
        return uploaded


def _download(features: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    """Queue the copy of ``float32`` features into pinned memory; the returned function waits for it."""
    host = torch.empty_like(features, device="cpu", pin_memory=True)
    host.copy_(features, non_blocking=True)
    done = _event()
    done.record(torch.cuda.current_stream(features.device))

    def wait() -> NDArray[np.float32]:
        done.synchronize()
        values: NDArray[np.float32] = host.numpy()
        return values

    return wait


def _event() -> torch.cuda.Event:
    return torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it


def _ready(features: torch.Tensor) -> Callable[[], NDArray[np.float32]]:
    values: NDArray[np.float32] = features.cpu().numpy()
    return lambda: values


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

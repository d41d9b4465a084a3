"""Tells a fault of the machine (a card, its driver, a compiler) from a fault of a row.

A card that has faulted answers every forward pass with an error, and faster than a healthy one answers with numbers.
Whoever takes these errors for bad rows marks a whole dataset as failed in minutes. So the first error that names the
machine ends the process that holds the card; the rows that it was to compute are as they were.
"""

from __future__ import annotations

import re

from extractors.base import ExtractorError

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
    "status_not_initialized",  # what cuBLAS and cuDNN say when a full card has no room for their handles
)

# Classes are known by name: torch, which defines them, is not imported by who only describes features.
_CLASSES = frozenset(
    {
        "AcceleratorError",
        "BackendCompilerFailed",
        "CudaError",
        "InductorError",
        "InvalidCxxCompiler",
        "OutOfResources",
        "TritonMissing",
    }
)
_WORDS = re.compile(
    r"""
    \b(CUDA|HIP)\ (driver\ |kernel\ )?error | CUDA\ driver\ version | cudart | cudaError | cudaGetDeviceCount
    | \bCU(BLAS|DNN|FFT|SOLVER|SPARSE|RAND)(_STATUS_|\ error|\ call) | cuDNN\ error | \bNVRTC\b | \bNCCL\b
    | no\ kernel\ image | device-side\ assert | unspecified\ launch\ failure | illegal\ memory\ access
    | uncorrectable\ ECC | fell\ off\ the\ bus | device\ (is\ )?(unavailable|not\ ready|kernel\ image\ is\ invalid)
    | No\ CUDA\ GPUs\ are\ available | Found\ no\ NVIDIA\ driver | Torch\ not\ compiled\ with\ CUDA
    | InductorError | BackendCompilerFailed | InvalidCxxCompiler | No\ working\ C\+\+\ compiler
    | Failed\ to\ find\ C\ compiler | working\ triton\ installation | ptxas
    """,
    re.VERBOSE | re.IGNORECASE,
)


class MachineFaultError(Exception):
    """Raised when the machine, not a row, is at fault; its text names the device and the error in one line.

    The process that raises it must not compute another row.
    """


def is_out_of_memory(error: BaseException) -> bool:
    """Recognise MemoryError, torch's OutOfMemoryError, and the RuntimeErrors that libraries raise for the same."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def is_machine_fault(error: BaseException) -> bool:
    """Recognise errors that say by themselves that the machine is at fault: of a card, its driver, a compiler.

    Out of memory is none of them: a smaller micro-batch may fit.
    """
    if isinstance(error, MachineFaultError):
        return True
    if isinstance(error, ExtractorError) or is_out_of_memory(error):
        return False
    chain: BaseException | None = error
    while chain is not None:
        named = any(cls.__name__ in _CLASSES for cls in type(chain).__mro__)
        if named or names_machine(f"{type(chain).__name__}: {chain}"):
            return True
        chain = chain.__cause__
    return False


def names_machine(message: str) -> bool:
    """Return whether an error message blames the machine."""
    return _WORDS.search(message) is not None

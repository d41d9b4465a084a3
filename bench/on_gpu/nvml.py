"""Samples how busy a GPU is: by NVIDIA's management library, or by ``nvidia-smi`` where the library is not found."""

from __future__ import annotations

import ctypes
import math
import shutil
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

LIBRARY = "libnvidia-ml.so.1"
_QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader,nounits")


@dataclass(frozen=True, slots=True)
class Busy:
    """What was sampled of a GPU over some time.

    Attributes
    ----------
    source
        ``nvml``, ``nvidia-smi`` or ``none``.
    samples
        Number of samples.
    percent
        Mean share of the time in which a kernel ran, by the driver's own count, in percent; None without samples.
    watts
        Mean power; None without samples, or where the driver does not tell.
    """

    source: str
    samples: int = 0
    percent: float | None = None
    watts: float | None = None


class _Utilization(ctypes.Structure):
    """``nvmlUtilization_t``: percent of the last sampling period in which the GPU computed, and moved memory."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


_Sample = Callable[[], tuple[float, float | None]]


def reader(uuid: str | None = None) -> tuple[str, _Sample] | None:
    """Return the source of samples and a function that takes one: percent busy, and watts.

    Parameters
    ----------
    uuid
        The GPU, as torch names it without ``GPU-``; None is the first one.

    Returns
    -------
    Source and function; None where neither the library nor the command answers.
    """
    try:
        return "nvml", _by_library(uuid)
    except OSError:
        pass
    if shutil.which(_QUERY[0]) is None:
        return None
    try:
        _by_command(uuid)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return "nvidia-smi", lambda: _by_command(uuid)


def _by_library(uuid: str | None) -> _Sample:
    """Open the library. Raises OSError if it is missing or does not know the GPU."""
    library = ctypes.CDLL(LIBRARY)

    def call(name: str, *arguments: object) -> None:
        status = getattr(library, name)(*arguments)
        if status:
            raise OSError(f"{name} failed with status {status}")

    call("nvmlInit_v2")
    device = ctypes.c_void_p()
    if uuid is None:
        call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(0), ctypes.byref(device))
    else:
        call("nvmlDeviceGetHandleByUUID", ctypes.c_char_p(f"GPU-{uuid}".encode()), ctypes.byref(device))

    def sample() -> tuple[float, float | None]:
        used, milliwatts = _Utilization(), ctypes.c_uint()
        call("nvmlDeviceGetUtilizationRates", device, ctypes.byref(used))
        try:
            call("nvmlDeviceGetPowerUsage", device, ctypes.byref(milliwatts))
        except OSError:
            return float(used.gpu), None
        return float(used.gpu), milliwatts.value / 1000

    sample()
    return sample


def _by_command(uuid: str | None) -> tuple[float, float | None]:
    chosen = () if uuid is None else (f"--id=GPU-{uuid}",)
    done = subprocess.run([*_QUERY, *chosen], capture_output=True, text=True, check=True, timeout=10)
    percent, watts = done.stdout.splitlines()[0].split(",")
    return float(percent), float(watts) if watts.strip().replace(".", "", 1).isdigit() else None


class Watch:
    """Samples a GPU in a thread between ``__enter__`` and ``__exit__``; ``busy`` then says what was seen.

    Parameters
    ----------
    uuid
        The GPU, as torch names it; None is the first one.
    every_s
        Seconds between samples. The driver itself averages over a sixth of a second to a second.
    """

    def __init__(self, uuid: str | None = None, every_s: float = 0.2) -> None:
        self._reader, self._every_s = reader(uuid), every_s
        self._ended = threading.Event()
        self._samples: list[tuple[float, float, float | None]] = []  # time, percent, watts
        self._thread = threading.Thread(target=self._run, name="gpu-watch", daemon=True)

    def __enter__(self) -> Watch:
        if self._reader is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def busy(self, since: float = -math.inf, until: float = math.inf) -> Busy:
        """Return what was seen between two readings of ``time.perf_counter``."""
        samples = [sample for sample in self._samples if since <= sample[0] <= until]
        if self._reader is None or not samples:
            return Busy("none" if self._reader is None else self._reader[0])
        watts = [watt for _, _, watt in samples if watt is not None]
        return Busy(
            self._reader[0],
            len(samples),
            statistics.fmean(percent for _, percent, _ in samples),
            statistics.fmean(watts) if watts else None,
        )

    def _run(self) -> None:
        assert self._reader is not None
        while not self._ended.wait(self._every_s):
            try:
                self._samples.append((time.perf_counter(), *self._reader[1]()))
            except (OSError, ValueError, subprocess.SubprocessError):
                continue

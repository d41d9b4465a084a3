"""Decodes deferred pictures in the process of the models, on their device, and prepares them there.

Several files are decoded at a time, each in a thread and on a stream of its own: a GPU has several video engines, and
the towers use none of them. A file that the device refuses is decoded by PyAV in a child process instead, and its media
record says why.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from extractors import Extractor, ExtractorError, MachineFaultError, Steps, is_machine_fault
from pipeline.extract.decode_unit import decode_instead, share_of
from pipeline.extract.features import Feature
from pipeline.extract.identity import describe_os_error, source_status
from pipeline.extract.remote import copy_remote
from pipeline.extract.units import Decoded, DeferredPictures, PreparedSteps, RunContext
from pipeline.media import MediaError, MediaProcess, RefusalError, read_picks
from pipeline.media.torchcodec_backend import libraries, why_unavailable
from settings.messages import one_line

logger = logging.getLogger("reelstore.extract.device_decoding")

_FILES_AT_A_TIME = 4  # an H100 has seven video engines, an L4 four, an A100 five
_CHANGED = ("changed_during_read", "the file changed before its pictures were decoded")


class DeviceDecoder:
    """Decodes what decoding children have only picked.

    Parameters
    ----------
    features
        The features whose pictures it decodes.
    device
        A torch device; on ``cpu``, which only tests use, FFmpeg decodes.

    Raises
    ------
    ExtractorError
        If this machine cannot decode there, or has other libraries than the specs say.
    """

    def __init__(self, features: Sequence[Feature], device: str) -> None:
        reason = why_unavailable("torchcodec" if device == "cpu" else "nvdec")
        if reason is not None:
            raise ExtractorError(f"media.backend=nvdec: {reason}")
        self._features = {feature.name: feature for feature in features}
        self._device = device
        self._libraries = libraries()
        for feature in features:
            planned = {name: feature.spec["decode"][name] for name in self._libraries}
            if planned != self._libraries:
                raise ExtractorError(
                    f"media.backend=nvdec: planned with torchcodec {planned}, here is {self._libraries}"
                )
        self._lock = threading.Lock()
        self._local = threading.local()
        self._threads = ThreadPoolExecutor(1 if device == "cpu" else _FILES_AT_A_TIME, "nvdec")

    def decode(self, context: RunContext, units: Sequence[Decoded]) -> list[Decoded]:
        """Return the units with all their model input: that of one feature is of one kind and on one device.

        Raises
        ------
        MachineFaultError
            If the device is at fault.
        """
        with self._lock, self._deadline(context.media.deadline_s * (1 + len(units))):
            return list(self._threads.map(lambda unit: self._decode_unit(context, unit), units))

    @contextlib.contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """End this process if the driver hangs: whoever waits for it tries again, and then blames the file."""
        if self._device == "cpu":
            yield
            return
        faulthandler.dump_traceback_later(seconds, exit=True, file=2)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()

    def _decode_unit(self, context: RunContext, decoded: Decoded) -> Decoded:
        if decoded.deferred is not None:
            decoded = self._resolved(context, decoded, decoded.deferred)
        uploaded: dict[int, Steps] = {}
        features = {
            name: replace(prepared, steps=self._placed(name, prepared.steps, uploaded))
            for name, prepared in decoded.features.items()
        }
        return replace(decoded, features=features)

    def _placed(self, name: str, steps: Steps, uploaded: dict[int, Steps]) -> Steps:
        """Return steps where the feature's tower takes them: what PyAV decoded goes to the device here."""
        feature = self._features.get(name)
        if feature is None or not feature.extractor.prepares_tensors or not isinstance(steps, np.ndarray):
            return steps
        import torch

        if id(steps) not in uploaded:
            uploaded[id(steps)] = torch.tensor(steps, device=self._device)
        return uploaded[id(steps)]

    def _resolved(self, context: RunContext, decoded: Decoded, deferred: DeferredPictures) -> Decoded:
        started = time.perf_counter()
        failures: Mapping[str, tuple[str, str]] = {}
        prepared: Mapping[str, PreparedSteps] = {}
        try:
            if deferred.copied and not Path(deferred.request.path).exists():
                # Whoever read the copy died before its rows were finished.
                path = context.copy_path()
                deferred = replace(deferred, request=replace(deferred.request, path=str(path)))
                if copy_remote(decoded.unit.uri, path, context.media.bounds()) != decoded.source.content_id:
                    raise _ChangedError
            try:
                prepared = self._on_device(deferred)
            except RefusalError as refusal:
                cause = refusal.__cause__
                if isinstance(cause, Exception) and is_machine_fault(cause):
                    raise MachineFaultError(f"{self._device}, decoding: {one_line(cause)}") from refusal
                logger.debug("%s: %s", decoded.unit.uri, refusal.message, exc_info=True)
                prepared, failures = decode_instead(context, deferred, refusal, self._child(context))
            if not deferred.copied and self._has_changed(decoded):
                raise _ChangedError
        except ExtractorError as error:
            prepared, failures = {}, dict.fromkeys(deferred.policies, ("model_error", one_line(error)))
        except _ChangedError:
            prepared, failures = {}, dict.fromkeys(deferred.policies, _CHANGED)
        except MediaError as error:
            prepared, failures = {}, dict.fromkeys(deferred.policies, (error.failure_class, error.message))
        except OSError as error:
            prepared, failures = {}, dict.fromkeys(deferred.policies, describe_os_error(error))
        finally:
            if deferred.copied:
                context.remove_copy(deferred.request.path)
        return replace(
            decoded,
            features={**decoded.features, **prepared},
            failures={**decoded.failures, **failures},
            seconds=decoded.seconds + time.perf_counter() - started,
            deferred=None,
        )

    def _has_changed(self, decoded: Decoded) -> bool:
        source = decoded.source
        return source_status(Path(decoded.unit.uri), decoded.unit.image_rate) != (source.size, source.stamp)

    def _child(self, context: RunContext) -> MediaProcess:
        """Return this thread's decoding child; it is started when it is needed."""
        if not hasattr(self._local, "media"):
            self._local.media = context.media_process("pyav")
        media: MediaProcess = self._local.media
        return media

    def _on_device(self, deferred: DeferredPictures) -> dict[str, PreparedSteps]:
        """Decode and prepare one unit's pictures; raise ``RefusalError`` if the device does not deliver them."""
        record, samples = deferred.header.media, deferred.header.samples
        size = (record["display_height"], record["display_width"])
        try:
            with self._stream():
                steps = _StepBuffers(self._features, deferred, self._device)
                for places, frames in read_picks(deferred.request.path, deferred.picks, size, self._device):
                    steps.fill(places, frames)
                steps.release(self._device)
        except (RuntimeError, ValueError, MemoryError) as error:
            raise RefusalError("nvdec", one_line(error)) from error
        media = {**record, "ffmpeg_major": self._libraries["ffmpeg_major"]}
        return {
            name: PreparedSteps(steps.of(name), samples[policy], media) for name, policy in deferred.policies.items()
        }

    @contextlib.contextmanager
    def _stream(self) -> Iterator[None]:
        """Let a thread's work on a GPU go beside that of the towers, and wait for it at the end."""
        if not self._device.startswith("cuda"):
            yield
            return
        import torch

        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # not annotated
        with torch.cuda.stream(self._local.stream):
            yield
        self._local.stream.synchronize()


class _ChangedError(Exception):
    """Raised when the file is no longer the one that was hashed."""


class _StepBuffers:
    """The model input of one unit: features of one policy that prepare alike share it."""

    def __init__(self, features: Mapping[str, Feature], deferred: DeferredPictures, device: str) -> None:
        self._picks = deferred.picks
        self._samples = deferred.header.samples
        self._keys: dict[str, tuple[int, str]] = {}
        self._preparing: dict[tuple[int, str], Feature] = {}
        self._steps: dict[tuple[int, str], Any] = {}
        for name, policy in deferred.policies.items():
            feature = features[name]
            on_device = feature.extractor.prepares_tensors
            key = (policy, f"{share_of(feature)} {on_device}")
            self._keys[name] = key
            if key in self._steps:
                continue
            shape = (len(self._samples[policy].time_s), *feature.extractor.prepared_shape())
            self._preparing[key] = feature
            self._steps[key] = _zeros(shape, feature.extractor.prepared_dtype, device if on_device else None)

    def of(self, name: str) -> Steps:
        """Return the steps of a feature."""
        steps: Steps = self._steps[self._keys[name]]
        return steps

    def fill(self, places: range, frames: Any) -> None:
        """Prepare the frames of some picks, ``uint8 [n,H,W,3]`` on the device, and put them where they are shown."""
        prepared: dict[str, Any] = {}
        for (policy, share), feature in self._preparing.items():
            shown = [
                (number, slot)
                for number, place in enumerate(places)
                for of_policy, slots in self._picks.uses[place]
                if of_policy == policy
                for slot in slots
            ]
            if not shown:
                continue
            if share not in prepared:
                prepared[share] = _prepared(feature.extractor, frames)
            numbers, slots = map(list, zip(*shown, strict=True))
            self._samples[policy].by_slot(self._steps[policy, share])[slots] = prepared[share][numbers]

    def release(self, device: str) -> None:
        """Let the towers, which work on another stream, be the ones that use the steps last."""
        if not device.startswith("cuda"):
            return
        import torch

        for steps in self._steps.values():
            if not isinstance(steps, np.ndarray):
                steps.record_stream(torch.cuda.default_stream(device))


def _prepared(extractor: Extractor, frames: Any) -> Any:
    """Prepare frames that lie on the device, there if the extractor can; clips are prepared frame by frame."""
    clips = extractor.input == "clips"
    given = frames[:, None] if clips else frames
    prepared: Any = extractor.prepare_tensor(given) if extractor.prepares_tensors else None
    if prepared is None:
        prepared = extractor.prepare(given.cpu().numpy())
    return prepared[:, 0] if clips else prepared


def _zeros(shape: tuple[int, ...], dtype: str, device: str | None) -> Any:
    if device is None:
        return np.zeros(shape, dtype)
    import torch

    return torch.zeros(shape, dtype=getattr(torch, dtype), device=device)

"""Frames and sound of the videos that pages show, decoded anew by processes of their own."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..describe.origins import Origin
from ..files import open_regular
from ..format.rows import Array
from ..wording import one_line

CHILD = Path(__file__).with_name("media_child.py")
HEIGHT = 96
"""Height of pictures in pixels."""
DEADLINE_S = 60.0
"""Seconds after which the decoding of one video is given up."""
MISSING = "decoding needs PyAV: pip install 'reelstore[report]'"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of one video.

    Attributes
    ----------
    origins
        Its sources, of which the first that still has its bytes is decoded.
    record
        The media record of a row.
    start_s, seconds
        The clip in the source.
    times
        Seconds of the clip at which pictures are wanted, ascending.
    sound
        Whether sound is wanted.
    """

    origins: Sequence[Origin]
    record: dict[str, Any]
    start_s: float
    seconds: float
    times: Sequence[float]
    sound: bool = False


@dataclass(frozen=True, slots=True)
class Sound:
    """Sound as it is drawn: least and greatest sample of equal pieces, and log-mel levels ``[64, columns] uint8``."""

    peaks: list[tuple[float, float]]
    levels: Array


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a video gave: JPEG files in the order of the wanted times, and sound; ``problem`` says what is missing."""

    pictures: list[bytes] = field(default_factory=list)
    sound: Sound | None = None
    problem: str = ""


def decode_all(wanted: Sequence[Wanted]) -> list[Decoded]:
    """Decode videos, as many at once as there are CPUs, and return what they gave in their order.

    A file that has other bytes than those that its rows were computed from is not shown, nor one that does not decode
    within ``DEADLINE_S`` seconds; ``problem`` says so.
    """
    if importlib.util.find_spec("av") is None:
        return [Decoded(problem=MISSING)] * len(wanted)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    children = [_Child() for _ in range(min(cpus, len(wanted)))]
    for child in children:
        free.put(child)

    def decode(one: Wanted) -> Decoded:
        child = free.get()
        try:
            return _decode(one, child)
        finally:
            free.put(child)

    try:
        with ThreadPoolExecutor(len(children) or 1) as pool:
            return list(pool.map(decode, wanted))
    finally:
        for child in children:
            child.close()


class _Child:
    """A process that decodes one video after the other; it starts with the first, and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | str:
        """Return the answer to a request, or why there is none."""
        if self._process is None:
            command = [sys.executable, "-P", str(CHILD)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        late = threading.Timer(DEADLINE_S, process.kill)
        late.start()
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        timed_out = not late.is_alive()
        late.cancel()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.close()
        if timed_out:
            return f"not decoded within {DEADLINE_S:.0f} s"
        return f"it brought its decoder down (exit code {process.returncode})"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _decode(wanted: Wanted, child: _Child) -> Decoded:
    path, problem = _unchanged(wanted.origins)
    if path is None:
        return Decoded(problem=problem)
    record = wanted.record
    if record.get("clock_leaps"):
        return Decoded(problem=f"the clock of {path} leaps, so its frames are not decoded again here")
    answer = child.ask(
        {
            "path": str(path),
            "zero_s": record.get("zero_s") or 0.0,
            "start_s": wanted.start_s,
            "seconds": wanted.seconds,
            "times": list(wanted.times),
            "height": HEIGHT,
            "rotation": record.get("rotation_clockwise") or 0,
            "mirrored": bool(record.get("mirrored")),
            "aspect": str(record.get("sample_aspect_ratio") or "1").replace(":", "/"),
            "sound": wanted.sound,
        }
    )
    return Decoded(problem=one_line(f"{path}: {answer}")) if isinstance(answer, str) else _read(path, answer)


def _read(path: Path, found: dict[str, Any]) -> Decoded:
    sound = found["sound"]
    drawn = None
    if sound is not None:
        levels = np.frombuffer(base64.b64decode(sound["mel"]), np.uint8).reshape(-1, sound["columns"])
        drawn = Sound([(low, high) for low, high in sound["peaks"]], levels)
    problem = one_line(f"{path}: {found['problem']}") if found["problem"] else ""
    return Decoded([base64.b64decode(picture) for picture in found["pictures"]], drawn, problem)


def _unchanged(origins: Sequence[Origin]) -> tuple[Path | None, str]:
    """Return the first source that still has its bytes; else None, and why there is none."""
    if not origins:
        return None, "the store does not know the file that its rows were computed from"
    problems = []
    for origin in origins:
        path = Path(origin.uri)
        if path.is_dir():
            problems.append(f"{path} is a folder of images, which are not shown here")
        elif not path.is_file():
            problems.append(f"{origin.uri} cannot be read here")
        elif _has_bytes(path, origin):
            return path, ""
        else:
            problems.append(f"{path} has changed since its rows were computed")
    return None, problems[0]


def _has_bytes(path: Path, origin: Origin) -> bool:
    try:
        if path.stat().st_size != origin.size:
            return False
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == origin.content_id
    except OSError:
        return False

"""Files that attack the decoder, in a whole job: one typed failure row each, all other videos stored."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from pipeline.extract.units import RunContext
from pipeline.media.supervisor import MediaProcess
from stores import Store
from stores.upkeep.verification import verify
from tests._helpers.runs import digests, extract, rgb_config
from tests.pipeline.media.test_failures import bomb

EVIL_CHILD = """
import ctypes, sys, threading
import pipeline.media.child as child
real = child.decode
def decode(request, files):
    if "hang" in request.path:
        threading.Event().wait()
    if "segfault" in request.path:
        ctypes.string_at(0)
    if "memory" in request.path:
        bytearray(1 << 40)
    yield from real(request, files)
child.decode = decode
child.main(sys.argv[1:])
"""


def sound_only(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.planes[0].update(bytes(4096))
        frame.rate, frame.pts = 8000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def test_three_kinds_of_attack_and_five_broken_files(
    videos: Path, tmp_path: Path, clip_bytes: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_child.py").write_text(EVIL_CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(RunContext, "media_process", lambda self: MediaProcess(3.0, 512, 300, module="evil_child"))
    for index, name in enumerate(("hang", "segfault", "memory")):
        (videos / f"{name}.mp4").write_bytes(clip_bytes[0] + bytes([index]))
    (videos / "text.mp4").write_text("I only claim to be a video.")
    (videos / "empty.mp4").touch()
    (videos / "cut.mp4").write_bytes(clip_bytes[1][: len(clip_bytes[1]) // 2])
    sound_only(videos / "sound.mp4")
    bomb(videos)
    store = tmp_path / "store"
    result = extract(videos, store, rgb_config(tmp_path))
    assert result.exit_code == 3
    assert list(digests(store)) == ["clip0", "clip1", "clip2", "clip3"]
    with Store.open(store) as opened:
        rows = opened.failures().to_pylist()
    assert {row["video_id"]: (row["class"], row["permanent"]) for row in rows} == {
        "hang": ("timeout", False),
        "segfault": ("crash", False),
        "memory": ("oom", False),
        "text": ("corrupt", True),
        "empty": ("corrupt", True),
        "cut": ("corrupt", True),
        "sound": ("no_video", True),
        "bomb": ("too_large", True),
    }
    assert len(rows) == 8
    assert all("\n" not in row["message"] for row in rows)
    assert verify(store, deep=True).ok

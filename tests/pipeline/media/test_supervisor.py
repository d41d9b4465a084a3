"""The decoding child: what it imports, and what happens when it hangs, crashes or eats memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from examples.clips import write_clip
from pipeline.media.decoding import decode
from pipeline.media.supervisor import ROOT, MediaProcess
from pipeline.media.types import Audio, AudioRequest, DecodeRequest, Frame, Header, MediaError

POLICIES = ({"policy": "uniform", "n": 8}, {"policy": "nextgqa32"}, {"policy": "segments", "t": 3, "pad": "zero"})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, seconds=2.0, width=96, height=64)
    return path


@pytest.fixture
def misbehaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a child module whose ``decode`` runs the given code for files named ``bad``, and the real one for others."""

    def make(code: str) -> str:
        (tmp_path / "bad_child.py").write_text(
            "import sys, os, time, signal, ctypes\n"
            "import pipeline.media.child as child\n"
            "real = child.decode\n"
            "def decode(request, files):\n"
            "    if 'bad' in request.path:\n" + textwrap.indent(textwrap.dedent(code), " " * 8) + "\n"
            "    yield from real(request, files)\n"
            "child.decode = decode\n"
            "child.main(sys.argv[1:])\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "bad_child"

    return make


def request(path: Path, **fields: Any) -> DecodeRequest:
    return DecodeRequest(str(path), POLICIES, **fields)


def assert_works(process: MediaProcess, clip: Path) -> None:
    assert sum(isinstance(event, Frame) for event in process.decode(request(clip))) > 8


def test_the_child_gives_what_this_process_gives(clip: Path) -> None:
    whole = request(clip, audio=AudioRequest(), start_s=0.3, end_s=1.7)
    with MediaProcess() as process:
        far, near = list(process.decode(whole)), list(decode(whole))
    assert [type(event) for event in far] == [type(event) for event in near]
    for one, other in zip(far, near, strict=True):
        if isinstance(one, Header):
            assert (one.media, one.duration_s) == (other.media, other.duration_s)
            for mine, theirs in zip(one.samples, other.samples, strict=True):
                assert np.array_equal(mine.frame, theirs.frame) and np.array_equal(mine.time_s, theirs.time_s)
                assert np.array_equal(mine.valid, theirs.valid)
        elif isinstance(one, Frame):
            assert (one.time_s, one.uses) == (other.time_s, other.uses)
            assert np.array_equal(one.rgb, other.rgb)
        else:
            assert isinstance(other, Audio)
            assert np.array_equal(one.samples, other.samples)
            assert (one.segments, one.state, one.record) == (other.segments, other.state, other.record)


def test_the_child_imports_av_and_numpy_alone() -> None:
    code = "import sys, pipeline.media.child; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    stray = {
        name.partition(".")[0]
        for name in done.stdout.split()
        if name.partition(".")[0] not in sys.stdlib_module_names and not name.startswith(("_", "sitecustom"))
    }
    assert {"av", "numpy", "pipeline"} <= stray
    assert stray <= {"av", "numpy", "pipeline", "cython_runtime", "distutils-precedence"}
    ours = {name for name in done.stdout.split() if name.startswith("pipeline.")}
    assert all(name.startswith(("pipeline.media", "pipeline.media.sampling")) for name in ours), ours


def test_failures_come_through_typed(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a film")
    with MediaProcess() as process:
        with pytest.raises(MediaError) as caught:
            list(process.decode(request(tmp_path / "text.mp4")))
        assert caught.value.failure_class == "corrupt"
        pid = process.pid
        assert_works(process, clip)
        assert process.pid == pid


@pytest.mark.parametrize(
    ("code", "failure_class", "words"),
    [
        ("time.sleep(3600)", "timeout", "within 1 s"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "timeout", "within 1 s"),
        ("ctypes.string_at(0)", "crash", "SIGSEGV"),
        ("os.abort()", "crash", "SIGABRT"),
        ("os._exit(3)", "crash", "status 3"),
        ("raise RuntimeError('unforeseen')", "crash", "unforeseen"),
        ("hoard = bytearray(10 << 30)", "oom", "memory"),
        ("hoard = [bytes(1 << 20) for _ in iter(int, 1)]", "oom", "memory"),
    ],
)
def test_a_misbehaving_child_is_one_typed_failure(
    code: str, failure_class: str, words: str, misbehaving: Callable[[str], str], clip: Path, tmp_path: Path
) -> None:
    with MediaProcess(deadline_s=1.0, memory_mb=256, module=misbehaving(code)) as process:
        (tmp_path / "bad.mp4").touch()
        with pytest.raises(MediaError) as caught:
            list(process.decode(request(tmp_path / "bad.mp4")))
        assert caught.value.failure_class == failure_class and words in caught.value.message
        process.deadline_s = 60.0
        assert_works(process, clip)


@pytest.mark.parametrize(
    ("code", "failure_class"),
    [
        ("import mmap; reserved = mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)", None),
        ("hoard = [bytes(1 << 20) for _ in iter(int, 1)]", "oom"),
        ("time.sleep(3600)", "timeout"),
    ],
)
def test_a_torch_backend_is_bound_by_what_is_resident(
    code: str, failure_class: str | None, misbehaving: Callable[[str], str], clip: Path, tmp_path: Path
) -> None:
    """CUDA reserves far more address space than it uses; 0x4000 is MAP_NORESERVE."""
    name = misbehaving(code)
    module = tmp_path / f"{name}.py"
    light = "import pipeline.media.torchcodec_backend as backend\nbackend.why_unavailable = lambda name: None\n"
    module.write_text(light + module.read_text())
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(clip.read_bytes())
    with MediaProcess(deadline_s=5.0, memory_mb=256, backend="torchcodec", module=name) as process:
        if failure_class is None:
            assert_works(process, bad)
        else:
            with pytest.raises(MediaError) as caught:
                list(process.decode(request(bad)))
            assert caught.value.failure_class == failure_class


def test_a_hang_between_events_meets_the_deadline(
    misbehaving: Callable[[str], str], clip: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(clip.read_bytes())
    module = misbehaving("events = real(request, files)\nyield next(events)\nyield next(events)\ntime.sleep(3600)")
    with MediaProcess(deadline_s=1.0, module=module) as process:
        events = process.decode(request(bad))
        assert isinstance(next(events), Header) and isinstance(next(events), Frame)
        with pytest.raises(MediaError, match="timeout"):
            next(events)


def test_what_a_library_prints_does_not_garble_the_events(
    misbehaving: Callable[[str], str], clip: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(clip.read_bytes())
    module = misbehaving("ctypes.CDLL(None).puts(b'noise'); os.write(1, b'more'); print('and more', flush=True)")
    with MediaProcess(module=module) as process:
        assert_works(process, bad)


def test_garbled_events_are_a_crash(misbehaving: Callable[[str], str], tmp_path: Path) -> None:
    module = misbehaving("[os.write(fd, b'x' * 64) for fd in range(3, 9) if os.path.exists(f'/proc/self/fd/{fd}')]")
    (tmp_path / "bad.mp4").touch()
    with MediaProcess(module=module) as process, pytest.raises(MediaError) as caught:
        list(process.decode(request(tmp_path / "bad.mp4")))
    assert caught.value.failure_class == "crash" and "garbled" in caught.value.message


def test_children_are_recycled(clip: Path) -> None:
    pids = []
    with MediaProcess(recycle_after=2) as process:
        for _ in range(5):
            assert_works(process, clip)
            pids.append(process.pid)
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_an_abandoned_iterator_leaves_a_usable_process(taken: int, clip: Path) -> None:
    with MediaProcess() as process:
        events = process.decode(request(clip))
        for _ in range(taken):
            next(events)
        events.close()
        assert_works(process, clip)


def test_a_second_decode_ends_the_first(clip: Path) -> None:
    with MediaProcess() as process:
        first = process.decode(request(clip))
        next(first)
        assert_works(process, clip)
        with pytest.raises(RuntimeError, match="given up"):
            next(first)
        assert_works(process, clip)


def test_a_child_killed_while_idle_is_replaced(clip: Path) -> None:
    with MediaProcess() as process:
        assert_works(process, clip)
        os.kill(process.pid, signal.SIGKILL)
        psutil.Process(process.pid).wait(timeout=10)
        assert_works(process, clip)


def test_the_child_dies_with_its_parent(misbehaving: Callable[[str], str], tmp_path: Path) -> None:
    module = misbehaving("time.sleep(3600)")
    (tmp_path / "bad").touch()
    code = textwrap.dedent(f"""
        import os, threading
        from pipeline.media.supervisor import MediaProcess
        from pipeline.media.types import DecodeRequest
        process = MediaProcess(module={module!r})
        thread = threading.Thread(target=lambda: list(process.decode(DecodeRequest('{tmp_path}/bad', ()))), daemon=True)
        thread.start()
        while process.pid is None:
            pass
        print(process.pid, flush=True)
        os.kill(os.getpid(), 9)
    """)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=10)


def test_closing_ends_the_child(clip: Path) -> None:
    process = MediaProcess()
    assert_works(process, clip)
    child = psutil.Process(process.pid)
    process.close()
    assert not child.is_running() and process.pid is None


def test_relative_paths_are_the_callers(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    with MediaProcess() as process:
        assert_works(process, Path(clip.name))

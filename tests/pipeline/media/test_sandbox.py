"""What a decoding child cannot do: open a file, reach a network, start or signal a process. Its threads still work."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from examples.clips import write_clip
from pipeline.media import sandbox
from pipeline.media.supervisor import ROOT, MediaProcess
from pipeline.media.types import AudioRequest, DecodeRequest, Frame, MediaError
from tests._helpers.runs import extract, rgb_config

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter for this machine")

POLICY = {"policy": "uniform", "n": 4}
ATTEMPTS = """
import ctypes, json, os, signal, socket, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)

def raw(name, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

tries = {
    "read a file": lambda: open(SECRET).read(),
    "read by the C library": lambda: raw("open", SECRET.encode(), 0),
    "read /proc": lambda: open("/proc/self/environ"),
    "reopen a descriptor": lambda: open("/proc/self/fd/0"),
    "list a folder": lambda: os.listdir(os.path.dirname(SECRET)),
    "write a file": lambda: open(SECRET + ".new", "w"),
    "write over a file": lambda: os.truncate(SECRET, 0),
    "remove a file": lambda: os.unlink(SECRET),
    "move a file": lambda: os.rename(SECRET, SECRET + ".moved"),
    "link a file": lambda: os.link(SECRET, SECRET + ".link"),
    "make a folder": lambda: os.mkdir(SECRET + ".folder"),
    "change rights": lambda: os.chmod(SECRET, 0o777),
    "open a socket": lambda: socket.socket(),
    "open a local socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": os.fork,
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "spawn": lambda: subprocess.run(["/bin/true"]),
    "signal the parent": lambda: os.kill(os.getppid(), 0),
    "trace the parent": lambda: raw("ptrace", 16, os.getppid(), 0, 0),
    "leave by io_uring": lambda: raw("syscall", 425, 8, ctypes.create_string_buffer(256)),
    "take the filter off": lambda: open("/proc/self/status"),
}
for name, attempt in tries.items():
    try:
        attempt()
    except OSError as error:
        os.write(2, json.dumps([name, error.errno]).encode() + b"\\n")
    else:
        os.write(2, json.dumps([name, 0]).encode() + b"\\n")
worked = []
threads = [threading.Thread(target=worked.append, args=(1,)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
os.write(2, json.dumps(["threads", len(worked)]).encode() + b"\\n")
"""


def outcome(code: str, files: bool) -> tuple[str, dict[str, int]]:
    """What is on, and the error number of each attempt of a process that entered the sandbox."""
    first = f"import os\nfrom pipeline.media import sandbox\nos.write(1, sandbox.enter(files={files}).encode())\n"
    imports, _, rest = code.partition("libc =")
    done = subprocess.run(
        [sys.executable, "-c", imports + first + "libc =" + rest], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout, dict(json.loads(line) for line in done.stderr.splitlines())


def test_nothing_outside_can_be_reached(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    name, tries = outcome(f"SECRET = {str(secret)!r}\n" + ATTEMPTS, files=False)
    assert name == sandbox.WHOLE
    assert tries.pop("threads") == 4
    assert len(tries) == 21 and set(tries.values()) == {13}, tries  # EACCES
    assert secret.read_text() == "x" and [path.name for path in tmp_path.iterdir()] == ["secret"]


def test_a_library_that_reads_files_itself_may_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    name, tries = outcome(f"SECRET = {str(tmp_path / 'secret')!r}\n" + ATTEMPTS, files=True)
    assert name == sandbox.WITH_FILES
    assert {tries[n] for n in ("read a file", "list a folder", "threads")} <= {0, 4}
    refused = ("open a socket", "open a local socket", "fork", "run a program", "spawn", "signal the parent")
    assert {tries[n] for n in (*refused, "trace the parent", "leave by io_uring")} == {13}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(path, seconds=1.0, width=96, height=64)
    return path


def frames(process: MediaProcess, request: DecodeRequest) -> int:
    return sum(isinstance(event, Frame) for event in process.decode(request))


@pytest.fixture
def probing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Make a child whose ``decode`` first runs some code; what it raises is told as ``corrupt``."""

    def make(code: str) -> str:
        (tmp_path / "probing_child.py").write_text(
            "import os, socket, sys\nimport pipeline.media.child as child\n"
            "from pipeline.media.types import MediaError\nreal = child.decode\n"
            "def decode(request, files):\n"
            "    try:\n" + textwrap.indent(code, " " * 8) + "\n"
            "    except OSError as error:\n"
            "        raise MediaError('corrupt', f'refused: {error.errno}')\n"
            "    yield from real(request, files)\n"
            "child.decode = decode\nchild.main(sys.argv[1:])\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "probing_child"

    return make


def refusals(*attempts: str) -> str:
    """Code that tries each of some expressions and raises the list of their error numbers."""
    code = f"numbers = []\nfor attempt in ({', '.join(f'lambda: {attempt}' for attempt in attempts)},):\n"
    code += "    try:\n        attempt()\n    except OSError as error:\n        numbers.append(error.errno)\n"
    return f"{code}raise OSError(numbers, '')"


@pytest.mark.parametrize("backend", ["pyav", "nvdec"])
def test_the_child_is_in_it_while_it_decodes(backend: str, clip: Path, probing: Callable[[str], str]) -> None:
    """Not even its own input can be opened by name, and no image of a request that is not for a folder."""
    request = DecodeRequest(str(clip), (POLICY,), AudioRequest())
    code = refusals("open(request.path)", "socket.socket()", "os.fork()", "files.open('/etc/hostname')")
    with MediaProcess(backend=backend, module=probing(code)) as process:
        with pytest.raises(MediaError, match=r"refused: \[13, 13, 13, 13\]"):
            frames(process, request)
        assert process.sandbox == sandbox.WHOLE


def test_a_child_that_asks_for_other_files_is_garbled(clip: Path, probing: Callable[[str], str]) -> None:
    with MediaProcess(module=probing("files._ask('x.png')")) as process, pytest.raises(MediaError, match="is garbled"):
        frames(process, DecodeRequest(str(clip), (POLICY,)))


def test_images_are_handed_over_one_by_one(tmp_path: Path, probing: Callable[[str], str]) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        pixels = np.full((16, 16, 3), 80 * number, np.uint8)
        with av.open(str(folder / f"{number}.png"), "w", format="image2") as container:
            stream = container.add_stream("png", rate=1)
            stream.width = stream.height = 16
            stream.pix_fmt = "rgb24"
            container.mux([*stream.encode(av.VideoFrame.from_ndarray(pixels)), *stream.encode(None)])
    (tmp_path / "outside.png").write_bytes((folder / "0.png").read_bytes())
    request = DecodeRequest(str(folder), (POLICY,), image_rate=2.0)
    with MediaProcess() as process:
        assert frames(process, request) == 3
        assert process.sandbox == sandbox.WHOLE
    names = ("../outside.png", "nothing.png", str(tmp_path / "outside.png"))
    opens = (f"files.open(request.path + '/' + {name!r})" for name in names)
    asks = (f"(files._ask({name!r}), files._answer())" for name in names)
    for code, said in ((refusals(*opens), "[13, 2, 13]"), (refusals(*asks), "[2, 2, 2]")):
        with MediaProcess(module=probing(code)) as process, pytest.raises(MediaError, match=re.escape(said)):
            frames(process, request)


def test_what_is_on_stands_in_the_summary(clip: Path, tmp_path: Path) -> None:
    done = extract(clip, tmp_path / "store", rgb_config(tmp_path))
    assert done.summary["sandbox"] == {sandbox.WHOLE: 1}


def test_a_kernel_without_filters_leaves_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert sandbox.enter(files=False) == sandbox.LIMITS_ALONE

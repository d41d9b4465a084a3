"""Sources that name what they should not: other protocols, other folders, servers that never end or drip."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from pipeline.extract.config import SourceConfig
from pipeline.extract.remote import Bounds, StalledError, copy_remote, read_remote, remote_status
from pipeline.extract.sources import Rules, outside, read_source
from pipeline.media import MediaError
from pipeline.shared.errors import SourceError
from stores import Store
from stores.format import StorePath
from tests._helpers.runs import extract, rgb_config
from tests.conftest import ROOT


class _Hostile(BaseHTTPRequestHandler):
    """Sends without end under ``/endless``, one byte now and then under ``/drip``, nothing at all under ``/silent``."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()
        over: threading.Event = self.server.over  # type: ignore[attr-defined]  # of the fixture
        try:
            while not over.is_set():
                if self.path.startswith("/endless"):
                    self.wfile.write(bytes(1 << 16))
                elif self.path.startswith("/drip"):
                    self.wfile.write(b"x")
                    over.wait(0.05)
                else:
                    over.wait()
        except OSError:  # the reader has gone
            pass

    def _answer(self) -> None:
        if self.path.startswith("/mute"):
            self.server.over.wait()  # type: ignore[attr-defined]  # of the fixture
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
    made.daemon_threads = True
    made.over = threading.Event()  # type: ignore[attr-defined]  # for the handlers
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_address[1]}"
    made.over.set()  # type: ignore[attr-defined]  # for the handlers
    made.shutdown()
    made.server_close()


def failed(call: Callable[[], object]) -> MediaError:
    with pytest.raises(MediaError) as caught:
        call()
    return caught.value


def test_a_copy_ends_at_its_size_and_when_nothing_comes(server: str, tmp_path: Path) -> None:
    error = failed(lambda: copy_remote(f"{server}/endless.mp4", StorePath(tmp_path) / "a", Bounds(3 << 20, 20.0)))
    assert error.failure_class == "too_large" and "more than 3145728 bytes (media.max_bytes)" in error.message
    assert (tmp_path / "a").stat().st_size <= 3 << 20
    for name in ("drip", "silent"):
        error = failed(
            lambda name=name: copy_remote(f"{server}/{name}.mp4", StorePath(tmp_path) / name, Bounds(1 << 20, 0.4))
        )
        assert (error.failure_class, error.message) == ("timeout", "nothing arrived for 0.4 s (media.stall_s)")
    with pytest.raises(StalledError):
        remote_status(f"{server}/mute.mp4", Bounds(stall_s=0.3))
    with pytest.raises(OSError, match="more than 9 bytes"):
        read_remote(f"{server}/endless.csv", Bounds(9, 20.0))


def test_hostile_servers_are_rows_of_their_own(server: str, videos: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    rows = [f"good,{videos}/clip0.mp4", f"endless,{server}/endless.mp4", f"drip,{server}/drip.mp4"]
    table.write_text("\n".join(["video_id,uri", *rows]) + "\n")
    config = rgb_config(tmp_path, "media.max_bytes=1000000", "media.stall_s=0.4")
    done = extract(table, tmp_path / "store", config)
    assert done.exit_code == 3
    with Store.open(tmp_path / "store") as store:
        assert store.keys("rgb") == ["good"]
        classes = {row["video_id"]: (row["class"], row["permanent"]) for row in store.failures().to_pylist()}
    assert classes == {"endless": ("too_large", True), "drip": ("timeout", False)}
    assert not list((tmp_path / "store" / "staging").iterdir())


@pytest.mark.slow
def test_sigterm_ends_a_copy_that_never_ends(server: str, tmp_path: Path) -> None:
    table, config = tmp_path / "list.csv", tmp_path / "rgb.yaml"
    table.write_text(f"video_id,uri\na,{server}/silent.mp4\n")
    rgb_config(tmp_path)
    command = ["jobs/extract.py", str(table), "--store", str(tmp_path / "store"), "--config", str(config)]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "store" / "staging").glob("*.copy")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)  # for the copy to begin
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
        assert time.monotonic() - started < 2.0
        assert process.returncode == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    assert not list((tmp_path / "store" / "staging").glob("*.copy"))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("nosuch://a/b.mp4", "protocol 'nosuch' is not allowed"),
        ("data:,x", None),
        ("data://text/plain;base64,AAAA", "protocol 'data' is not allowed"),
        ("reference://a", "protocol 'reference' is not allowed"),
        ("zip://a.mp4::http://127.0.0.1:9/a.zip", "protocol 'zip' is not allowed"),
        ("simplecache::http://127.0.0.1:9/a.mp4", "protocol 'simplecache' is not allowed"),
        ("memory://a.mp4", r"--set source.protocols=\[file, .*, hf, memory\]"),
        ("gs://bucket/a.mp4", r"needs a package that is not installed: pip install gcsfs"),
    ],
)
def test_a_table_may_use_the_allowed_protocols_alone(uri: str, words: str | None, tmp_path: Path) -> None:
    if uri.startswith("gs://") and _has("gcsfs"):
        pytest.skip("gcsfs is installed")
    table = tmp_path / "list.jsonl"
    table.write_text(json.dumps({"video_id": "a", "uri": uri}) + "\n")
    if words is None:  # no URI of fsspec, but the name of a file
        assert read_source(str(table)).items[0].uri == f"{tmp_path}/{uri}"
        return
    with pytest.raises(SourceError, match=rf"list\.jsonl: line 1: field 'uri': .*{words}"):
        read_source(str(table))
    if "::" not in uri:
        with pytest.raises(SourceError, match=words):
            read_source(uri)


def _has(package: str) -> bool:
    try:
        __import__(package)
    except ImportError:
        return False
    return True


def test_protocols_are_a_setting_and_each_of_a_chain_is_asked_for(tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/chained/a.mp4", b"1")
    table = tmp_path / "list.csv"
    table.write_text("video_id,uri\na,simplecache::memory://chained/a.mp4\n")
    for allowed in (("memory",), ("simplecache",)):
        with pytest.raises(SourceError, match="is not allowed"):
            read_source(str(table), rules=Rules(protocols=allowed))
    config = rgb_config(tmp_path, "source.protocols=[memory, simplecache]")
    (item,) = read_source(str(table), rules=Rules(config.source.protocols)).items
    assert remote_status(item.uri)[0] == 1
    with pytest.raises(SourceError, match="no filesystem is known for the protocol 'nosuch'"):
        read_source("nosuch://a", rules=Rules(protocols=("nosuch",)))


def test_what_a_filesystem_raises_is_one_os_error(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_bytes(b"no zip at all")
    with pytest.raises(OSError, match="BadZipFile"):
        remote_status(f"zip://a.mp4::file://{tmp_path}/no.zip")


def test_a_table_can_be_held_to_a_folder(videos: Path, tmp_path: Path) -> None:
    root = videos.parent / videos.name
    (tmp_path / "secret").mkdir()
    secret = tmp_path / "secret" / "x.mp4"
    secret.write_bytes(b"1")
    (videos / "link.mp4").symlink_to(secret)
    (videos / "again").symlink_to(root)
    table = videos / "list.csv"
    good = ["clip0.mp4", "./clip1.mp4", f"{root}/again/clip2.mp4"]
    rules = Rules(root=root)
    table.write_text("video_id,uri\n" + "".join(f"{i},{uri}\n" for i, uri in enumerate(good)))
    assert len(read_source(str(table), rules=rules).items) == 3
    for uri in (secret, "link.mp4", f"../{tmp_path.name}/x", "/dev/zero", "https://127.0.0.1:9/x.mp4"):
        table.write_text(f"video_id,uri\nk,{uri}\n")
        with pytest.raises(SourceError, match=r"key 'k': .* lies outside of .* \(source\.root\)"):
            read_source(str(table), rules=rules)
    with pytest.raises(SourceError, match="lies outside"):
        read_source(str(videos), rules=rules)
    images = videos / "images"
    images.mkdir()
    (images / "1.png").symlink_to(secret)
    assert outside(root, images, 5.0) == f"{images}/1.png" and outside(root, images, None) is None


def test_a_link_that_is_moved_after_planning_is_caught(videos: Path, tmp_path: Path) -> None:
    from pipeline.extract.decode_unit import decode_unit
    from pipeline.extract.features import ready_features
    from pipeline.extract.plan import Unit
    from pipeline.extract.units import RunContext, UnitFailure

    config = rgb_config(tmp_path, f"source.root={tmp_path}/root")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.mp4").symlink_to(videos / "clip0.mp4")
    (tmp_path / "store.json").touch()
    context = RunContext(tmp_path, ready_features(config), config.media, config.limits(), config.source.root)
    with context.media_process() as media:
        result = decode_unit(context, Unit(f"{tmp_path}/root/a.mp4", ("a",), ("rgb",), None, 1, ""), media)
    assert isinstance(result, UnitFailure) and "lies outside of" in result.message


def test_devices_in_a_table_are_rows_that_are_missing(videos: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    table = tmp_path / "list.csv"
    table.write_text(f"video_id,uri\ngood,{videos}/clip0.mp4\nzero,/dev/zero\nfifo,fifo.mp4\nfolder,{videos}\n")
    done = extract(table, tmp_path / "store", rgb_config(tmp_path))
    assert done.exit_code == 3
    with Store.open(tmp_path / "store") as store:
        messages = {row["video_id"]: row["message"] for row in store.failures().to_pylist()}
    assert messages == {
        "zero": "not a regular file but a device",
        "fifo": "not a regular file but a FIFO",
        "folder": "Is a directory",
    }
    table.unlink()
    os.mkfifo(table)
    with pytest.raises(SourceError, match="not a regular file but a FIFO"):
        read_source(str(table))


def test_a_file_that_is_no_video_is_not_quoted(tmp_path: Path) -> None:
    secret = "root:$6$SECRET:19000"
    for name in ("plain", "ffconcat", "playlist", "json", "xml", "sdp"):
        head = {"ffconcat": "ffconcat version 1.0\nfile ", "playlist": "#EXTM3U\n", "json": '{"a": "', "xml": "<?xml "}
        (tmp_path / f"{name}.mp4").write_text(head.get(name, "v=0\no=" if name == "sdp" else "") + secret)
    done = extract(tmp_path, tmp_path / "store", rgb_config(tmp_path))
    assert done.summary["failed"] == 6
    assert "SECRET" not in json.dumps(done.summary)


def test_a_table_is_bounded_and_survives_deep_json(tmp_path: Path) -> None:
    table = tmp_path / "deep.jsonl"
    table.write_text('{"video_id": ' + "[" * 100_000 + "\n")
    with pytest.raises(SourceError, match=r"deep\.jsonl: line 1: not valid JSON"):
        read_source(str(table))
    with pytest.raises(SourceError, match=r"larger than 100 bytes.*; --set source\.table_bytes=N allows more"):
        read_source(str(table), rules=Rules(table_bytes=100))
    assert SourceConfig().table_bytes == Rules().table_bytes

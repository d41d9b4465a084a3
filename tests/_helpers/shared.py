"""Places to share stores at: a folder, and a bucket of an S3 server on the loopback."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from stores.commit import Changes, Failure, commit, create_store
from stores.format.manifest import load
from stores.sharing import Place, open_place
from stores.sharing.places import FolderPlace, RemotePlace
from tests._helpers.building import OTHER_SPEC, commit_rows, row
from tests._helpers.question_worlds import MAPS, SOUND, maps, put_questions, question, sound

BUCKET = "stores"


@contextmanager
def s3_server() -> Iterator[None]:
    """Run an S3 server with an empty bucket, and set the environment so that clients use it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with mock.patch.dict(os.environ, environment):
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)
        try:
            yield
        finally:
            server.stop()


def world(root: Path) -> Path:
    """Make a store with three features in several shards, questions of two datasets, and a failure."""
    create_store(root)
    for videos in ("ab", "cd"):
        commit_rows(root, map(maps, videos), feature="maps", spec=MAPS)
        commit_rows(root, map(sound, videos), feature="sound", spec=SOUND)
    commit_rows(root, [row("a"), row("b")])
    commit_rows(root, [row("a", content=1)], spec=OTHER_SPEC)  # the spec before it is retired
    put_questions(root, "nextgqa", "train", [question(video, 0) for video in "ab"])
    put_questions(root, "nextgqa", "val", [question("c", 0)])
    put_questions(root, "avqa", "val", [question("d", 0), question("gone", 1)])
    digest = load(root).features["maps"].current
    failure = Failure("gone", "maps", digest, "decode", True, "no picture", "/videos/gone.mp4", "", 1)
    commit(root, Changes(failures=[failure]))
    return root


def objects(place: Place) -> dict[str, bytes]:
    """Return everything that lies at a place, by name."""
    if isinstance(place, FolderPlace):
        root = Path(place.address)
        files = [path for path in root.rglob("*") if path.is_file()] if root.exists() else []
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
    assert isinstance(place, RemotePlace)
    names = place._files.find(place._base) if place._files.exists(place._base) else []
    return {name[len(place._base) + 1 :]: place._files.cat_file(name) for name in names}


def overwrite(place: Place, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change what lies at a place behind everybody's back."""
    place.put(name, change(place.read(name)))


class Dead(BaseException):
    """Raised where a process dies: nothing that a place does is done after it."""


class Dying(Place):
    """A place whose user dies at one of the calls that change it: before it is made, or after."""

    def __init__(self, address: str, at: int, after: bool) -> None:
        self._place = open_place(address)
        self.address = self._place.address
        self.exclusive = self._place.exclusive
        self.calls = 0
        self._at = at
        self._after = after

    def sizes(self, folder: str) -> dict[str, int]:
        return self._place.sizes(folder)

    def chunks(self, name: str) -> Iterator[bytes]:
        return self._place.chunks(name)

    def send(self, name: str, source: Any) -> None:
        self._call(lambda: self._place.send(name, source))

    def put(self, name: str, data: bytes) -> None:
        self._call(lambda: self._place.put(name, data))

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._call(lambda: self._place.create(name, data)))

    def _call(self, make: Callable[[], Any]) -> Any:
        number = self.calls
        self.calls += 1
        if number > self._at or (number == self._at and not self._after):
            raise Dead
        result = make()
        if number == self._at:
            raise Dead
        return result

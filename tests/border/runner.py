"""Runs jobs in this process on mutated files, and prints whatever does not end as it should.

``python -m tests.border.runner FOLDER FIRST COUNT [KIND …]`` runs COUNT mutations of each kind, from a seed on.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import random
import signal
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from extractors.tensors import read_state_dict
from jobs import _cli as jobs
from parsers.annotations import Anomalies, read_annotations
from pipeline.media import AudioRequest, DecodeRequest, MediaError, MediaProcess
from tests._helpers.hostile import mutate_bytes, mutate_json, picture
from tests.border.kinds import KINDS, Kind

SECONDS = 20
MAY_END_WITH = (0, 2, 3)
DEEP = 20_000


@functools.cache
def job(name: str) -> Any:
    """Return the command of a job, or of one that does no more than read a file."""
    read = {"weights-file": weights_file, "annotations": annotations, "video": video}.get(name)
    if read is None:
        return typer.main.get_command(importlib.import_module(f"jobs.{name}").app)
    application = jobs.job(None)
    application.command(cls=jobs.Command)(read)
    return typer.main.get_command(application)


def weights_file(path: Path) -> None:
    """Read the tensors of a file."""
    read_state_dict(path)


def annotations(path: Path, format: str, split: str) -> None:
    """Read the questions of a file, as jobs/parse.py does before it parses them."""
    read_annotations(format, path, split, Anomalies())


@functools.cache
def decoder() -> MediaProcess:
    return MediaProcess(deadline_s=SECONDS / 2)


def video(path: Path) -> None:
    """Decode frames and sound, as an extraction does; a typed failure is what becomes a failure row."""
    request = DecodeRequest(str(path), ({"policy": "uniform", "n": 4},), audio=AudioRequest())
    with contextlib.suppress(MediaError):
        for _ in decoder().decode(request):
            pass


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """Raise ``TimeoutError`` where a command hangs."""

    def late(*_: object) -> None:
        raise RuntimeError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def ends(words: list[str]) -> tuple[Any, str]:
    """Run a command line; return its exit code, or what it raised, and what it wrote to stderr."""
    said, told = io.StringIO(), io.StringIO()
    try:
        with deadline(), contextlib.redirect_stderr(said), contextlib.redirect_stdout(told):
            job(words[0]).main(words[1:])
        code: Any = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException as error:  # noqa: BLE001 (that is what is looked for)
        code = f"{type(error).__name__}: {str(error)[:200]}"
    return code, said.getvalue()


def mutated(data: bytes, name: str, chance: random.Random) -> bytes:
    """Return the content of a file with something changed, as its kind asks for."""
    suffix = Path(name).suffix
    if chance.random() < 0.02 and suffix not in (".npy", ".h5", ".parquet", ".pt"):
        opening, closing = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"{a: ", b"}"), (b"- ", b"")))
        return opening * DEEP + b"1" + closing * DEEP
    if suffix in (".json", ".jsonl") and chance.random() < 0.7:
        texts = data.splitlines() if suffix == ".jsonl" else [data]
        at = chance.randrange(len(texts))
        texts[at] = json.dumps(mutate_json(json.loads(texts[at]), chance)).encode()
        return b"\n".join(texts)
    return mutate_bytes(data, chance)


def write(kind: Kind, folder: Path) -> None:
    for name, data in kind.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def main(folder: Path, first: int, count: int, name: str) -> None:
    """Mutate the files of a kind, one at a time, and run its commands."""
    kind = KINDS[name]
    folder.mkdir(parents=True)
    work = folder / "work"
    write(kind, work)
    for words in kind.commands(work):
        code, said = ends(words)
        if code != kind.end:
            print(f"{name}: the good files: {code}: {said[-300:]}", flush=True)
            return
    (folder / "beside.txt").write_text("mine")
    for seed in range(first, first + count):
        chance = random.Random(zlib.crc32(name.encode()) + seed)
        write(kind, work)
        changed = chance.choice(list(kind.files)[: kind.mutated])
        (work / changed).write_bytes(mutated(kind.files[changed], changed, chance))
        for words in kind.commands(work):
            sys.stderr.write(f"{name}: seed {seed}: {changed}\n")
            code, said = ends(words)
            lines = said.strip().splitlines()
            if code not in MAY_END_WITH or "Traceback" in said or (code == 2 and not lines[-1:]):
                print(f"{name}: seed {seed}: {changed}: {code}: {lines[-1:]}", flush=True)
            if any(len(line) > 2000 for line in lines):
                print(f"{name}: seed {seed}: {changed}: a line of {max(map(len, lines))} characters", flush=True)
    left = picture(folder)
    if left["beside.txt"] != ("file", b"mine") or {entry.split("/")[0] for entry in left} != {"beside.txt", "work"}:
        print(f"{name}: something outside changed: {sorted(left)[:5]}", flush=True)


if __name__ == "__main__":
    for number, name in enumerate(sys.argv[4:] or KINDS):
        main(Path(sys.argv[1]) / str(number), int(sys.argv[2]), int(sys.argv[3]), name)

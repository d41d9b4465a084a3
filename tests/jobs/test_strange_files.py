"""Every job, given what is no file in the place of each file that it reads, or JSON of a hundred thousand levels."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests._helpers.jobs import job

# The job, and its words: {f} is the folder of the strange files, {s} a store that may be made, {v} a folder of videos.
WORDS: dict[str, tuple[str, str]] = {
    "a table of videos": ("extract", "{f}/x.csv --store {s}"),
    "a table of lines": ("extract", "{f}/x.jsonl --store {s}"),
    "a configuration": ("extract", "{v} --store {s} --config {f}/x.yaml --plan"),
    "weights": ("extract", "{v} --store {s} --preset demo --set features.clip.weights={f}/x.safetensors --plan"),
    "a checkpoint of weights": ("extract", "{v} --store {s} --preset demo --set features.clip.weights={f}/x.pt"),
    "annotations": ("parse", "{f}/x.csv --format table --split val --store {s}"),
    "annotations of objects": ("parse", "{f}/x.json --format music_avqa --split val --store {s}"),
    "parses": ("parse", "{g}/q.csv --format table --split val --store {s} --set conllu={f}/x.conllu"),
    "settings of a parse": ("parse", "{g}/q.csv --format table --split val --store {s} --config {f}/x.yaml"),
    "a dataset": ("refresh", "{f}/x.yaml --plan"),
    "settings of a dictionary": ("cluster", "--store {s} --kind linguistic --config {f}/x.yaml"),
    "answers": ("evaluate", "avqa --annotations {g}/q.csv --split val --answers {f}/x.json"),
    "questions of answers": ("evaluate", "avqa --annotations {f}/x.csv --split val --answers {g}/a.json"),
    "times and spans": (
        "evaluate",
        "grounding --annotations {f}/x.json --questions {f}/x.csv --answers {f}/x.json --spans {f}/x.json",
    ),
    "settings of a training": ("train", "cra --store {s} --config {f}/x.yaml"),
    "a run": ("panel", "{f}/run 1"),
    "a run for its page": ("report", "{f}/run"),
    "an HDF5 file": ("store", "import {s} {f}/x.h5 --feature clip"),
    "an index of arrays": ("store", "import {s} {f}/npy --feature clip"),
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    (folder / "q.csv").write_text("question_id,video_id,split,question,answer\n1,v,val,what?,dog\n")
    (folder / "a.json").write_text("{}")
    return folder


@pytest.fixture
def strange(tmp_path: Path) -> Callable[[Callable[[Path], object]], Path]:
    """Make a folder whose every file is made by a function."""

    def make(put: Callable[[Path], object]) -> Path:
        folder = tmp_path / "strange"
        for below in ("run", "npy"):
            (folder / below).mkdir(parents=True)
        suffixes = ("csv", "jsonl", "json", "yaml", "safetensors", "pt", "conllu", "h5")
        for name in (*(f"x.{suffix}" for suffix in suffixes), "run/results.json", "run/settings.json", "npy/index.csv"):
            put(folder / name)
        return folder

    return make


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """A job that waits for a FIFO would wait for ever."""

    def late(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def says(name: str, words: str, tmp_path: Path, folder: Path, good: Path) -> str:
    """The one line of a job."""
    places = {"f": folder, "g": good, "s": tmp_path / "store", "v": tmp_path}
    done = job(name, *(word.format(**places) for word in words.split()), check=2)
    assert "Traceback" not in done.output
    lines: list[str] = done.stderr.strip().splitlines()
    assert lines[-1].startswith("error: ") and len(lines[-1]) < 1000
    return done.stderr


@pytest.mark.parametrize("what", WORDS)
def test_what_is_no_file_is_one_line(
    what: str, strange: Callable[[Callable[[Path], object]], Path], good: Path, tmp_path: Path
) -> None:
    name, words = WORDS[what]
    said = says(name, words, tmp_path, strange(os.mkfifo), good)
    assert "a FIFO" in said or "no such" in said or "does not exist" in said, said


DEEP = [what for what in WORDS if what not in ("an index of arrays",)]


@pytest.mark.parametrize("what", DEEP)
def test_what_is_nested_too_deeply_is_one_line(
    what: str, strange: Callable[[Callable[[Path], object]], Path], good: Path, tmp_path: Path
) -> None:
    def deep(path: Path) -> None:
        text = b'{"a": ' * 20_000
        head = len(text).to_bytes(8, "little") if path.suffix == ".safetensors" else b""
        path.write_bytes(head + text)

    name, words = WORDS[what]
    says(name, words, tmp_path, strange(deep), good)

"""Write a world: videos, annotation files in published layouts, and the truth.

OUT/videos/<video_id>.mp4
OUT/grounding/{train,val,test,test_ood}.csv      NExT-GQA's 13 columns; the kind linked has more splits
OUT/grounding/gsub_{val,test,test_ood}.json      true spans; train has none, as in NExT-GQA
OUT/grounding/parses.conllu                      the correct parse of every text that graphs are made from
OUT/avqa/{train,val,test}.jsonl                  one object per question; not of kinds without band videos
OUT/dataset.yaml                                 all of it for jobs/refresh.py, which puts the store beside it
OUT/truth.json                                   the world, every script and every question with its bias
"""

from __future__ import annotations

import csv
import json
import multiprocessing
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from examples.clips import encode
from examples.toyworld.draw import pictures, sound
from examples.toyworld.grammar import conllu
from examples.toyworld.kinds import DEFAULT, KINDS, Kind
from examples.toyworld.world import (
    FPS,
    HEIGHT,
    SAMPLE_RATE,
    WIDTH,
    AvQuestion,
    GroundingQuestion,
    Scene,
    Split,
    World,
)

AV_SPLITS: tuple[Split, ...] = ("train", "val", "test")
TEXT_DIM = 64
CLUSTERS = 32
COLUMNS = ("video_id", "frame_count", "width", "height", "question", "answer", "qid", "type")


@dataclass(frozen=True, slots=True)
class Written:
    """The scripts and questions of a world, in the order in which they are written."""

    scenes: tuple[Scene, ...]
    grounding: tuple[GroundingQuestion, ...]
    avqa: tuple[AvQuestion, ...]


def build(world: World, kind: str = DEFAULT) -> Written:
    """Draw all scripts and questions of a world of a kind; nothing is rendered.

    Raises
    ------
    KeyError
        If there is no such kind.
    """
    of = KINDS[kind]
    staged = [of.stage(world, split, index) for split, size in of.splits.items() for index in range(world.videos(size))]
    played = [of.band(world, index) for index in range(world.band)] if of.band is not None else []
    return Written(
        scenes=tuple(scene for scene, _ in (*staged, *played)),
        grounding=tuple(question for _, questions in staged for question in questions),
        avqa=tuple(question for _, questions in played for question in questions),
    )


def write(world: World, out: Path, workers: int = 1, kind: str = DEFAULT) -> Written:
    """Build a world and write its files, replacing those of the same names.

    Parameters
    ----------
    world
        What to write.
    out
        Folder to write to; it is made if missing.
    workers
        Encoding processes; the bytes are the same whatever their number.
    kind
        One of ``KINDS``.

    Raises
    ------
    KeyError
        If there is no such kind.
    """
    built, of = build(world, kind), KINDS[kind]
    for name in ("videos", "grounding", *(("avqa",) if of.band is not None else ())):
        (out / name).mkdir(parents=True, exist_ok=True)
    paths = [out / "videos" / f"{scene.key}.mp4" for scene in built.scenes]
    if workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            deque(pool.map(write_video, built.scenes, paths, chunksize=8), maxlen=0)
    else:
        for scene, path in zip(built.scenes, paths, strict=True):
            write_video(scene, path)
    scenes = {scene.key: scene for scene in built.scenes}
    for split in of.splits:
        questions = [question for question in built.grounding if question.split == split]
        _write_csv(out / "grounding" / f"{split}.csv", questions, scenes)
        if split != "train":
            _write_json(out / "grounding" / f"gsub_{split}.json", _spans(questions, scenes))
    for split in _av_splits(of):
        lines = [json.dumps(asdict(question)) for question in built.avqa if question.split == split]
        (out / "avqa" / f"{split}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    sentences = conllu(text for question in built.grounding for text in (question.question, question.answer))
    (out / "grounding" / "parses.conllu").write_text(sentences, encoding="utf-8")
    _write_json(out / "dataset.yaml", _dataset(of))  # JSON is YAML
    named = {"kind": kind} if kind != DEFAULT else {}
    _write_json(out / "truth.json", {**named, "world": asdict(world), **asdict(built)})
    return built


def _av_splits(kind: Kind) -> tuple[Split, ...]:
    return AV_SPLITS if kind.band is not None else ()


def _dataset(kind: Kind) -> dict[str, Any]:
    """Describe to ``jobs/refresh.py`` the store of a world: features, questions, graphs and dictionaries."""
    grounding = [
        {"path": f"grounding/{split}.csv", "format": "nextgqa", "split": split, "dataset": "toy_grounding"}
        for split in kind.splits
    ]
    avqa = [
        {"path": f"avqa/{split}.jsonl", "format": "table", "split": split, "dataset": "toy_avqa", "graphs": False}
        for split in _av_splits(kind)
    ]
    common = {"dataset": "toy_grounding", "split": "train"}
    encoder = {"name": "hashed", "size": TEXT_DIM}
    return {
        "store": "store",
        "videos": {"source": "videos", "preset": "toyworld"},
        "annotations": [*grounding, *avqa],
        "parse": {"conllu": "grounding/parses.conllu"},
        "dictionaries": [
            {"kind": "linguistic", **common, "settings": {"encoder": encoder, "kmeans": {"k": CLUSTERS}}},
            {"kind": "visual", "feature": "frames", **common, "settings": {"kmeans": {"k": CLUSTERS}}},
        ],
    }


def write_video(scene: Scene, path: Path) -> None:
    """Render and encode one scene; equal scenes give equal bytes with the same build of the encoders."""
    encode(path, pictures(scene), fps=FPS, size=(WIDTH, HEIGHT), sound=sound(scene), sample_rate=SAMPLE_RATE)


def _write_csv(path: Path, questions: Sequence[GroundingQuestion], scenes: dict[str, Scene]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*COLUMNS, "a0", "a1", "a2", "a3", "a4"))
        for question in questions:
            frames = scenes[question.video_id].seconds * FPS
            first = (question.video_id, frames, WIDTH, HEIGHT, question.question)
            writer.writerow((*first, question.answer, question.qid, question.type, *question.options))


def _spans(questions: Iterable[GroundingQuestion], scenes: dict[str, Scene]) -> dict[str, Any]:
    """Return NExT-GQA's ``gsub``: for each video its duration, frame rate, and the spans of each question."""
    videos: dict[str, Any] = {}
    for question in questions:
        empty = {"duration": scenes[question.video_id].seconds, "location": {}, "fps": FPS}
        location = videos.setdefault(question.video_id, empty)["location"]
        location[str(question.qid)] = [list(question.span)]
    return videos


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")

"""Every kind of file that a user or a stranger hands in: a good example of it, and the commands that read it."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save as safetensors

from examples.clips import write_clip
from tests._helpers.annotation_files import GSUB, MUSIC_ROW, NEXT_HEADER, NEXT_ROWS, STAR_ROW
from tests._helpers.run_folders import answered, finished_run
from tests.parsers.annotations import test_moments, test_table, test_videoqa

Words = list[str]


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes
    ----------
    files
        Good files by name; the first ones, ``mutated`` of them, are changed one at a time.
    commands
        Makes command lines of a job, given the folder of the files; the first word names the job.
    end
        The exit code with the good files.
    """

    files: Mapping[str, bytes]
    commands: Callable[[Path], list[Words]]
    mutated: int = 1
    end: int = 0


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _lines(*rows: str) -> bytes:
    return ("\n".join(rows) + "\n").encode()


def _jsonl(*rows: object) -> bytes:
    return _lines(*map(json.dumps, rows))


def _parquet(**columns: list[object]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _hdf5() -> bytes:
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        file.create_dataset("ids", data=["a", "b"], dtype=h5py.string_dtype())
        file.create_dataset("feat", data=np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    return sink.getvalue()


def _npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.arange(12, dtype=np.float32).reshape(3, 4))
    return sink.getvalue()


def _checkpoint() -> bytes:
    sink = io.BytesIO()
    torch.save({"state_dict": {"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}}, sink)
    return sink.getvalue()


def _clip(suffix: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        write_clip(path, seconds=0.5, width=32, height=32)
        return path.read_bytes()


def _run() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        folder = finished_run(Path(name) / "run", {"val": [answered(number) for number in range(4)]})
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


_CONLLU = (
    "# text = who runs",
    "1\twho\twho\tPRON\tWP\t_\t2\tnsubj\t_\t_",
    "2\truns\trun\tVERB\tVBZ\t_\t0\troot\t_\t_",
    "",
    "# text = x",
    "1\tx\tx\tNOUN\tNN\t_\t0\troot\t_\t_",
    "",
)

SETTINGS = """features:
  clip: {extractor: rgb_grid, grid: 2, sampling: {policy: uniform, n: 4}}
media: {deadline_s: 30}
run: {commit_seconds: 5}
"""


def _plan(name: str) -> Callable[[Path], list[Words]]:
    return lambda folder: [["extract", str(folder / name), "--store", str(folder / "s"), "--plan"]]


def _parse(format: str, name: str, split: str = "val") -> Callable[[Path], list[Words]]:
    return lambda folder: [["annotations", str(folder / name), format, split]]


def _videoqa(format: str, name: str, split: str = "val") -> Callable[[Path], list[Words]]:
    def commands(folder: Path) -> list[Words]:
        scored = ["--format", format, "--annotations", str(folder / name), "--split", split]
        return [["evaluate", "videoqa", *scored, "--answers", str(folder / "answers.json")]]

    return commands


def _grounding(folder: Path) -> list[Words]:
    given = ["--annotations", str(folder / "gsub_val.json"), "--questions", str(folder / "val.csv")]
    answers = ["--answers", str(folder / "answers.json")]
    return [
        ["evaluate", "grounding", *given, *answers, "--spans", str(folder / "spans.json")],
        ["evaluate", "grounding", *given, *answers, "--attention", str(folder / "weights.json")]
        + ["--times", str(folder / "times.json")],
    ]


def _import(name: str, *more: str) -> Callable[[Path], list[Words]]:
    words = ["--feature", "x", *more]
    return lambda folder: [["store", "import", str(folder / "s"), str(folder / name), *words]]


NEXT = _lines(",".join(NEXT_HEADER), *NEXT_ROWS)
_UID = ["4882821564_1", "2435100235_7"]

KINDS: dict[str, Kind] = {
    "table of sources, csv": Kind(
        {"videos.csv": _lines("video_id,uri,start_s,end_s", "a,/tmp/none/a.mp4,0,1.5", "b,b.mp4,,")},
        _plan("videos.csv"),
    ),
    "table of sources, jsonl": Kind(
        {"videos.jsonl": _jsonl({"video_id": "a", "uri": "a.mp4", "start_s": 1}, {"video_id": "b", "uri": "b.mp4"})},
        _plan("videos.jsonl"),
    ),
    "table of sources, parquet": Kind(
        {"videos.parquet": _parquet(video_id=["a", "b"], uri=["a.mp4", "b.mp4"], start_s=[0.0, None])},
        _plan("videos.parquet"),
    ),
    "settings of an extraction": Kind(
        {"config.yaml": SETTINGS.encode(), "videos.csv": _lines("video_id,uri", "a,a.mp4")},
        lambda folder: [[*_plan("videos.csv")(folder)[0], "--config", str(folder / "config.yaml")]],
    ),
    "settings of a training": Kind(
        {"config.yaml": b"loop: {epochs: 2, lr: 0.01}\ndata: {train: train, val: val}\nmodel: {dim: 16}\n"},
        lambda folder: [
            ["train", "cra", "--store", str(folder / "none"), "--out", str(folder / "run")]
            + ["--config", str(folder / "config.yaml")]
        ],
        end=2,  # there is no such store
    ),
    "dataset of a refresh": Kind(
        {
            "set.yaml": b"store: s\nvideos: {source: videos.csv, preset: demo}\n"
            b"annotations: [{path: val.csv, format: nextgqa, split: val, graphs: false}]\n",
            "videos.csv": _lines("video_id,uri", "a,a.mp4"),
            "val.csv": NEXT,
        },
        lambda folder: [["refresh", str(folder / "set.yaml"), "--plan"]],
    ),
    "NExT-GQA": Kind({"val.csv": NEXT, "gsub_val.json": _json(GSUB)}, _parse("nextgqa", "val.csv"), 2),
    "STAR": Kind({"STAR_val.json": _json([STAR_ROW, STAR_ROW])}, _parse("star", "STAR_val.json")),
    "MUSIC-AVQA": Kind({"avqa-val.json": _json([MUSIC_ROW])}, _parse("music_avqa", "avqa-val.json")),
    "MSVD-QA": Kind({"val_qa.json": _json(test_videoqa.MSVD_ROWS)}, _parse("msvd_qa", "val_qa.json")),
    "TGIF-QA": Kind(
        {"Test_count_question.csv": _lines(test_videoqa.COUNT_HEADER, *test_videoqa.COUNT_ROWS)},
        _parse("tgif_count", "Test_count_question.csv", "test"),
    ),
    "QVHighlights": Kind(
        {"highlight_val_release.jsonl": _jsonl(test_moments.HIGHLIGHT)},
        _parse("qvhighlights", "highlight_val_release.jsonl"),
    ),
    "ReXTime": Kind({"rextime_val.json": _json([test_moments.REXTIME])}, _parse("rextime", "rextime_val.json")),
    "CG-Bench": Kind({"cgbench.json": _json([test_moments.CG_BENCH])}, _parse("cg_bench", "cgbench.json")),
    "ActivityNet-QA": Kind(
        {"val_q.json": _json([test_videoqa.asked()]), "val_a.json": _json([test_videoqa.answered()])},
        _parse("activitynet_qa", "val_q.json"),
        2,
    ),
    "IntentQA": Kind(
        {"val.csv": _lines(test_videoqa.INTENT_HEADER, test_videoqa.INTENT_ROW)}, _parse("intentqa", "val.csv")
    ),
    "Charades-STA": Kind(
        {
            "charades_sta_test.txt": _lines("3MSZA 24.3 30.4##person turn a light on."),
            "Charades_v1_test.csv": _lines("id,subject,length", "3MSZA,ABC,30.96"),
        },
        _parse("charades_sta", "charades_sta_test.txt", "test"),
        2,
    ),
    "ActivityNet Captions": Kind(
        {"val_1.json": _json({"v_a": {"duration": 9.5, "timestamps": [[0, 2.5]], "sentences": ["someone runs"]}})},
        _parse("activitynet_captions", "val_1.json"),
    ),
    "spans of moments": Kind(
        {
            "spans.json": _json({"8737": [1.0, 5.5]}),
            "highlight_val_release.jsonl": _jsonl(test_moments.HIGHLIGHT),
        },
        lambda folder: [
            ["evaluate", "moments", "--format", "qvhighlights", "--split", "val", "--spans", str(folder / "spans.json")]
            + ["--annotations", str(folder / "highlight_val_release.jsonl")]
        ],
    ),
    "parses in CoNLL-U": Kind(
        {
            "parses.conllu": _lines(*_CONLLU),
            "q.jsonl": _jsonl({"video_id": "a", "question_id": "1", "question": "who runs", "answer": "x"}),
        },
        lambda folder: [
            ["parse", str(folder / "q.jsonl"), "--store", str(folder / "s"), "--format", "table", "--split", "val"]
            + ["--set", f"conllu={folder / 'parses.conllu'}", "--executor", "local"]
        ],
    ),
    "a finished run": Kind(
        _run(),
        lambda folder: [["report", str(folder), "--worst", "0", "--out", str(folder / "page")]],
        5,
    ),
    "table of questions, parquet": Kind(
        {
            "q.parquet": _parquet(
                video_id=["a", "b"], question=["who", "what"], answer=["x", "y"], question_id=["1", "2"]
            )
        },
        _parse("table", "q.parquet"),
    ),
    "table of questions": Kind({"q.jsonl": _jsonl(*test_table.ROWS)}, _parse("table", "q.jsonl")),
    "predictions of grounding": Kind(
        {
            "answers.json": _json({uid: {"prediction": 1, "answer": 1} for uid in _UID}),
            "spans.json": _json({uid: [1.0, 5.5] for uid in _UID}),
            "weights.json": _json({uid: [0.2, 0.5, 0.3] for uid in _UID}),
            "times.json": _json({"4882821564": [1.0, 2.0, 3.0], "2435100235": [1.0, 2.0, 3.0]}),
            "val.csv": NEXT,
            "gsub_val.json": _json(GSUB),
        },
        _grounding,
        6,
    ),
    "answers to questions": Kind(
        {"answers.json": _json({"1": "cat", "2": "dog"}), "val_qa.json": _json(test_videoqa.MSVD_ROWS)},
        _videoqa("msvd_qa", "val_qa.json"),
    ),
    "answers of MUSIC-AVQA": Kind(
        {"answers.json": _json({"7": "yes"}), "avqa-val.json": _json([MUSIC_ROW])},
        lambda folder: [
            ["evaluate", "avqa", "--annotations", str(folder / "avqa-val.json")]
            + ["--answers", str(folder / "answers.json")]
        ],
        2,
    ),
    "features in HDF5": Kind(
        {"app_feat.h5": _hdf5()}, _import("app_feat.h5", "--dataset-name", "feat", "--allow-failures")
    ),
    "features in npy": Kind({"npy/a.npy": _npy(), "npy/b.npy": _npy()}, _import("npy", "--allow-failures")),
    "times of features": Kind(
        {"times.json": _json({"a": [0.5, 1.0, 1.5], "b": [0.0, 1.0, 2.0]}), "app_feat.h5": _hdf5()},
        lambda folder: [
            [*_import("app_feat.h5", "--dataset-name", "feat")(folder)[0], "--times", str(folder / "times.json")]
        ],
    ),
    "videos of a split": Kind(
        {"keys.csv": _lines("video_id", "a", "b"), "app_feat.h5": _hdf5()},
        lambda folder: [
            [*_import("app_feat.h5", "--dataset-name", "feat")(folder)[0], "--allow-failures"],
            ["store", "export", str(folder / "s"), "--feature", "x", "--to", "nextgqa", "--out", str(folder / "out")]
            + ["--split", f"val={folder / 'keys.csv'}", "--allow-failures"],
        ],
    ),
    "videos": Kind(
        {"clip.mp4": _clip(".mp4"), "clip.mkv": _clip(".mkv"), "clip.avi": _clip(".avi")},
        lambda folder: [["video", str(path)] for path in sorted(folder.glob("clip.*"))],
        3,
    ),
    "weights, safetensors": Kind(
        {"w.safetensors": safetensors({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})},
        lambda folder: [["weights-file", str(folder / "w.safetensors")]],
    ),
    "weights, a checkpoint": Kind({"w.pt": _checkpoint()}, lambda folder: [["weights-file", str(folder / "w.pt")]]),
}
"""By the name that a failing test shows."""

"""``docs/datasets.md``: every file that its settings name is read in the published form, and its sizes are right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from parsers.annotations import FORMATS
from parsers.annotations.evidence import OFFICIAL
from pipeline.extract import load_config
from pipeline.refresh import Dataset, load_dataset
from tests._helpers.annotation_files import GSUB, MUSIC_ROW, NEXT_HEADER, NEXT_ROWS, STAR_ROW, json_array, read
from tests.conftest import ROOT
from tests.parsers.annotations.test_moments import CG_BENCH, HIGHLIGHT, REXTIME
from tests.parsers.annotations.test_music_family import FORTIS
from tests.parsers.annotations.test_videoqa import (
    ACTION_HEADER,
    ACTION_ROW,
    COUNT_HEADER,
    COUNT_ROWS,
    FRAME_HEADER,
    FRAME_ROW,
    INTENT_HEADER,
    INTENT_ROW,
    MSVD_ROWS,
    NEXT_ROW,
    activitynet,
    answered,
    asked,
)

PAGE = ROOT / "docs" / "datasets.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = [body for body in re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S) if "\nannotations:" in body]


def lines(*rows: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text("\n".join(rows) + "\n")

    return write


def array(*rows: Mapping[str, Any]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        json_array(path.parent, rows, path.name)

    return write


def whole(value: Any) -> Callable[[Path], None]:
    return lines(json.dumps(value))


def nextgqa(path: Path) -> None:
    lines(",".join(NEXT_HEADER), *NEXT_ROWS)(path)
    if path.stem != "train":
        path.with_name(f"gsub_{path.stem}.json").write_text(json.dumps(GSUB))


def msvd(path: Path) -> None:
    array(*MSVD_ROWS)(path)
    path.with_name("youtube_mapping.txt").write_text("-4wsuPCjDBc_5_15 vid1201\n0hyZ__3YhZc_598_603 vid1451\n")


def activitynet_qa(path: Path) -> None:
    activitynet(path.parent, [asked()], [answered()], path.stem.removesuffix("_q"))


def charades(path: Path) -> None:
    lines("3MSZA 24.3 30.4##person turn a light on.")(path)
    split = path.stem.removeprefix("charades_sta_")
    path.with_name(f"Charades_v1_{split}.csv").write_text("id,subject,length\n3MSZA,ABC,30.96\n")


def tgif(header: str, row: str) -> Callable[[Path], None]:
    """Many GIFs, so that each part of a training file has some."""
    name, rest = row.split("\t", 1)
    identity = re.search(r"(?:ACTION|COUNT|FRAMEQA)\d+", rest)
    assert identity is not None
    return lines(header, *(f"{name}{n}\t{rest.replace(identity[0], identity[0] + str(n))}" for n in range(40)))


WRITE: Mapping[str, Callable[[Path], None]] = {
    "nextgqa": nextgqa,
    "star": array(STAR_ROW),
    "music_avqa": array(MUSIC_ROW),
    "msvd_qa": msvd,
    "msrvtt_qa": array(MSVD_ROWS[0] | {"video_id": 7010, "category_id": 14}),
    "activitynet_qa": activitynet_qa,
    "tgif_action": tgif(ACTION_HEADER, ACTION_ROW),
    "tgif_frameqa": tgif(FRAME_HEADER, FRAME_ROW),
    "tgif_count": tgif(COUNT_HEADER, COUNT_ROWS[0]),
    "nextqa": lines("video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4", NEXT_ROW),
    "intentqa": lines(INTENT_HEADER, INTENT_ROW),
    "qvhighlights": whole(HIGHLIGHT),
    "charades_sta": charades,
    "activitynet_captions": whole({"v_a": {"duration": 30.0, "timestamps": [[1, 9.5]], "sentences": ["A dog runs."]}}),
    "tacos": whole(
        {
            "s13-d21.avi": {
                "timestamps": [[30, 90]],
                "sentences": ["He takes a pan."],
                "fps": 29.4,
                "num_frames": 999,
            }
        }
    ),
    "rextime": array(
        {name: REXTIME[name] for name in ("qid", "duration", "vid", "ans")}
        | {"question": "Why?", "span": [1, 2], "options": ["a", "b", "c", "d"], "category": "causality"}
    ),
    "cg_bench": array(CG_BENCH),
}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[2:].split(".yaml")[0])
def test_every_file_of_the_page_is_read(block: str, tmp_path: Path) -> None:
    """In the layout of the page, without an error; what a file needs beside it lies there."""
    (tmp_path / "dataset.yaml").write_text(block)
    dataset: Dataset = load_dataset(tmp_path / "dataset.yaml")
    assert dataset.annotations
    for entry in dataset.annotations:
        (name,) = entry.files
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write = array(*FORTIS) if entry.dataset in ("fortisavqa", "music_avqa_r") else WRITE[entry.format]
        write(path)
        table, anomalies = read(entry.format, path, entry.split, entry.dataset)
        assert table.num_rows and not anomalies.errors, (name, list(anomalies))
        assert not [note for note in anomalies if note.code in ("no_video_map", "no_spans_file", "no_options")]
        assert all(row for row in table["video_id"].to_pylist())
    if dataset.videos is not None:
        config = tmp_path / "swin16.yaml"
        config.write_text(TEXT.split("```yaml\n# swin16.yaml")[1].partition("\n")[2].partition("```")[0])
        chosen = config if dataset.videos.config is not None else None
        load_config(dataset.videos.preset, chosen, list(dataset.videos.set))


def test_every_format_is_on_the_page_with_its_official_sizes() -> None:
    rows = {
        row[0]: row[1:4]
        for line in TEXT.splitlines()
        if line.startswith("| `") and len(row := [cell.strip(" `") for cell in line.split("|")[1:-1]]) == 7
    }
    assert set(rows) == set(FORMATS) - {"table"}
    for format, cells in rows.items():
        stated = {
            split: int(cell.replace(",", ""))
            for split, cell in zip(("train", "val", "test"), cells, strict=True)
            if re.fullmatch(r"[\d,]+", cell)
        }
        assert stated == OFFICIAL.get(format, {}), format


def test_the_bytes_of_the_page_follow_from_shapes() -> None:
    for videos, size in re.findall(r"the ([\d,]+) videos of NExT-QA's three splits take (\d+) MB", TEXT):
        assert round(int(videos.replace(",", "")) * 32 * 768 * 2 / 1e6) == int(size)
    row = 16 * 7 * 7 * 1024 * 2
    assert f"{row:,} bytes per video" in TEXT
    for videos, size in ((1970, "3.2"), (10_000, "16.1"), (5800, "9.3"), (71_741, "115")):
        assert f"| {size} GB |" in TEXT and float(size) == round(videos * row / 1e9, 0 if videos > 5e4 else 1)
    for videos, size in ((4901, 241), (9848, 484), (10_148, 499), (6672, 328), (19_811, 974)):
        assert f"{size} MB" in TEXT and round(videos * 49_152 / 1e6) == size


def test_settings_files_that_only_name_annotations_are_complete() -> None:
    assert len(BLOCKS) >= 10
    assert {entry["format"] for block in BLOCKS for entry in yaml.safe_load(block)["annotations"]} >= set(WRITE)

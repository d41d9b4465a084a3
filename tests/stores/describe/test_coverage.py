"""Coverage: what is wanted and never tried is missing, too."""

from __future__ import annotations

from pathlib import Path

from pipeline.extract import ExtractRequest, PlanOptions, extract
from stores import Store
from stores.commit import Changes, commit
from stores.describe import coverage, coverage_lines, render_card
from stores.describe.coverage import percent
from tests._helpers.building import store_with
from tests._helpers.films import film
from tests._helpers.question_worlds import put_questions, question
from tests._helpers.runs import rgb_config


def covered(root: Path, version: int | None = None) -> dict[str, tuple[int, int]]:
    with Store.open(root, version, lease=False) as store:
        return {name: (plan["stored"], plan["wanted"]) for name, plan in coverage(store)["plan"].items()}


def test_a_plan_that_was_not_finished_is_not_complete(tmp_path: Path) -> None:
    videos, root = tmp_path / "videos", tmp_path / "store"
    videos.mkdir()
    for number, name in enumerate("abcde"):
        film(videos / f"{name}.mp4", seconds=1 + number)  # equal files would be computed once
    (videos / "f.mp4").write_bytes(b"no film")

    def run(**options: object) -> None:
        config = rgb_config(tmp_path)
        extract(ExtractRequest(source=str(videos), store=str(root), config=config, options=PlanOptions(**options)))

    run(limit=2)
    assert covered(root) == {"rgb": (2, 6)}
    with Store.open(root, lease=False) as store:
        assert "2 of 6 rows of the last plan (33.33 %)" in render_card(store)
    run(only=frozenset("c"))  # part of the source is no plan of all of it
    assert covered(root) == {"rgb": (3, 6)}
    run()
    assert covered(root) == {"rgb": (5, 6)}  # the sixth is wanted, and failed
    run()
    assert covered(root) == {"rgb": (5, 6)}
    film(videos / "a.mp4", seconds=6)
    run()
    assert covered(root) == {"rgb": (5, 6)}
    (videos / "f.mp4").unlink()
    film(videos / "g.mp4", seconds=7)
    run()
    assert covered(root) == {"rgb": (6, 6)}
    commit(root, Changes(current={"rgb": "0" * 64}))
    assert covered(root) == {}  # no plan has wanted rows of that spec


def test_every_split_counts_the_questions_whose_video_has_a_row(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a", "b")
    put_questions(root, "nextgqa", "train", [question("a", 0), question("a", 1), question("x", 2)])
    put_questions(root, "nextgqa", "val", [question("x", 0), question("y", 0)])
    put_questions(root, "star", "train", [question("b", 0)])
    with Store.open(root, lease=False) as store:
        splits = coverage(store)["splits"]
        assert coverage_lines(coverage(store)) == [
            "nextgqa/train: 3 questions of 2 videos, with a row of demo 2 (66.67 %)",
            "nextgqa/val: 2 questions of 2 videos, with a row of demo 0 (0.00 %)",
            "star/train: 1 questions of 1 videos, with a row of demo 1 (100 %)",
        ]
    assert [split["videos_with"] for split in splits] == [{"demo": 1}, {"demo": 0}, {"demo": 1}]


def test_what_is_not_complete_is_never_100_percent() -> None:
    assert [percent(part, 1_000_000) for part in (1_000_000, 999_999, 0)] == ["100 %", "99.99 %", "0.00 %"]

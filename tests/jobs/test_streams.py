"""What a command found goes to stdout, and how far it is to stderr, so that a pipe gets results and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests._helpers.building import store_with
from tests._helpers.dictionaries import fill, questions
from tests._helpers.jobs import job

READING = (
    "inspect STORE",
    "history STORE",
    "verify STORE",
    "gc STORE --dry-run",
    "compact STORE --plan",
    "repair STORE",
)
ANNOTATIONS = (
    "video_id,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\nv,9,9,9,who ran,a,0,CW,a,b,c,d,e\n"
)
CONLLU = "# text = who ran\n1\twho\twho\tPRON\tWP\t_\t2\tnsubj\t_\t_\n2\tran\trun\tVERB\tVBD\t_\t0\troot\t_\t_\n\n"
PLANS = (
    "extract VIDEOS --store NEW --preset demo",
    "parse CSV --format nextgqa --split val --store NEW --set conllu=CONLLU",
    "cluster --store QUESTIONS --kind linguistic --k 6 --set encoder.name=hashed",
    "refresh DATASET",
)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("streams")
    (root / "videos").mkdir()
    (root / "videos" / "a.mp4").write_bytes(b"no video: a plan decodes nothing")
    (root / "val.csv").write_text(ANNOTATIONS)
    (root / "parses.conllu").write_text(CONLLU)
    annotation = {"path": "val.csv", "format": "nextgqa", "split": "val"}
    dataset = {"store": "made", "annotations": [annotation], "parse": {"conllu": "parses.conllu"}}
    (root / "dataset.yaml").write_text(json.dumps(dataset))
    return {
        "STORE": str(store_with(root / "store", "a")),
        "QUESTIONS": str(fill(root / "questions", questions())),
        "VIDEOS": str(root / "videos"),
        "CSV": str(root / "val.csv"),
        "CONLLU": str(root / "parses.conllu"),
        "DATASET": str(root / "dataset.yaml"),
        "NEW": str(root / "new"),
    }


def words(line: str, places: dict[str, str]) -> list[str]:
    found = line.split()
    for name, place in places.items():
        found = [word.replace(name, place) if word.endswith(name) else word for word in found]
    return found


@pytest.mark.parametrize("line", READING)
def test_a_verb_of_the_store_answers_on_stdout(line: str, places: dict[str, str]) -> None:
    shown = job("store", *words(line, places))
    assert shown.stdout.strip() and not shown.stderr
    as_json = job("store", *words(line, places), "--json")
    assert isinstance(json.loads(as_json.stdout), dict | list) and not as_json.stderr


@pytest.mark.parametrize("line", PLANS)
def test_a_plan_is_a_result(line: str, places: dict[str, str]) -> None:
    name, *arguments = words(line, places)
    shown = job(name, *arguments, "--plan")
    assert shown.stdout.strip()
    told = [text for text in shown.stderr.splitlines() if not text.startswith("warning: ")]
    assert not told
    as_json = job(name, *arguments, "--plan", "--json")
    assert "exit_code" in json.loads(as_json.stdout)
    plan = [text.strip() for text in shown.stdout.splitlines() if text.strip()]
    assert plan[0] in as_json.stderr and plan[-1] in as_json.stderr  # the same is said beside the object
    assert not Path(places["NEW"]).exists()


def test_a_stage_that_computes_tells_so_on_stderr(places: dict[str, str]) -> None:
    name, *arguments = words(PLANS[2], places)
    done = job(name, *arguments)
    assert done.stdout == "" and "stored the linguistic dictionary" in done.stderr
    assert "replaces" not in done.stderr
    again = job(name, *arguments[:-2], "--set", "encoder.name=hashed", "--k", "5")
    assert re.search(
        r"stored the linguistic dictionary .*: 5 clusters, version \d+; it replaces one of 6 clusters, which",
        again.stderr,
    )

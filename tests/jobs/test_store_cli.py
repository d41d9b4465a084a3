"""`jobs/store.py` as a user meets it: exit codes, one line for each mistake, JSON, names of what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from jobs.store import app
from stores.commit import Changes, Failure, commit, create_store
from stores.format.layout import digest
from tests._helpers.building import SPEC, commit_rows, files_under, flip, row, store_with, write_shard
from tests._helpers.question_worlds import put_questions, question
from tests.conftest import ROOT

CLIP = {"extractor": "clip", "steps": 4, "step_shape": [6], "dtype": "float16"}


def store(*arguments: object) -> Result:
    """Run the command in this process; anything but an exit is an error of the command."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def answer(*arguments: object, code: int = 0) -> dict[str, Any]:
    result = store(*arguments, "--json")
    assert result.exit_code == code, result.output
    assert result.stdout.count("\n") == 1
    value: dict[str, Any] = json.loads(result.stdout)
    return value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return store_with(tmp_path / "store", "a", "b", "🦔")


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    root = create_store(tmp_path / "clips")
    commit_rows(root, [row(key, steps=4, step_shape=(6,)) for key in ("a", "b")], feature="clip", spec=CLIP)
    return root


def shard_of(root: Path) -> Path:
    (path,) = root.glob("features/*/*.h5")
    return path


def damage(root: Path, key: str) -> str:
    """Flip one bit of a key's values; return the shard's path in the store."""
    path = shard_of(root)
    flip(path, 8 * path.read_bytes().index(row(key).values.tobytes()))
    return path.relative_to(root).as_posix()


def test_inspect_tells_of_the_store_and_of_one_key(root: Path) -> None:
    commit(root, Changes(failures=[Failure("bad", "demo", digest(SPEC), "corrupt", True, "no [frames]", "x", "", 1)]))
    whole = answer("inspect", root)
    assert whole["features"]["demo"]["rows"] == 3 and whole["version"] == 2
    assert [failure["video_id"] for failure in whole["failures"]] == ["bad"]
    text = store("inspect", root).stdout
    assert "'bad': corrupt: no [frames]" in text and "3×4" in text
    one = answer("inspect", root, "🦔")
    assert one["rows"]["demo"]["time_s"] == row("🦔").time_s.tolist()
    assert answer("inspect", root, "bad")["failures"][0]["message"] == "no [frames]"
    assert answer("inspect", root, "--version", 1)["failures"] == []


def test_inspect_tells_a_person_about_one_key(root: Path) -> None:
    spec_digest = digest(SPEC)
    commit(root, Changes(failures=[Failure("a", "other", spec_digest, "timeout", False, "no [frames]", "x", "", 2)]))
    commit(root, Changes(failures=[Failure("bad", "demo", spec_digest, "corrupt", True, "\x1b[31mred", "x", "", 1)]))
    put_questions(root, "n", "val", [question("a", 0), question("a", 1), question("b", 2)])
    shown = store("inspect", root, "a").stdout
    told = [line.strip() for line in shown.splitlines()]
    assert "length:    1.00 s, from 0.50 s of its file" in told and "questions: 2" in told
    assert "seconds of demo: 0.00, 0.33" in told  # the third step is padding
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in told if line.startswith("│")]
    assert cells == [["demo", "3×4 float16", "2 of 3", "0"], ["other", "failed as timeout", "", ""]]
    assert "other: timeout after 2 attempts: no [frames]" in told
    failed = store("inspect", root, "bad").stdout
    assert "source:    x" in failed
    assert "failed as corrupt" in failed and "\x1b" not in failed and "demo: corrupt after 1 attempt" in failed


def test_a_sound_store_verifies(root: Path) -> None:
    assert answer("verify", root, "--deep") | {"bytes": 0} == {
        "version": 1, "ok": True, "shards": 1, "rows": 3, "bytes": 0, "damaged_files": {}, "problems": [],
        "media_damage": {"rows": 0, "steps": 0, "truncated": 0, "odd_rates": 0},
    }  # fmt: skip
    assert "3 rows in 1 shards" in store("verify", root).stdout


def test_a_flipped_bit_is_named_by_file_and_key_and_repair_drops_that_row(root: Path) -> None:
    shard = damage(root, "b")
    checked = answer("verify", root, code=3)
    assert [(problem["file"], problem["key"]) for problem in checked["problems"]] == [(shard, "b")]
    shown = store("verify", root)
    assert shown.exit_code == 3 and shard in shown.stdout and "'b'" in shown.stdout and "'a'" not in shown.stdout
    mended = answer("repair", root)
    assert mended["dropped_rows"] == {"demo": ["b"]} and mended["salvaged_rows"] == 2
    assert answer("verify", root, "--deep")["rows"] == 2
    assert store("inspect", root, "b").exit_code == 2


def test_repair_adopts_what_a_crash_left_and_says_what_it_dropped(root: Path) -> None:
    write_shard(root, [row("c"), row("d")])
    assert "adopted 2 rows in 1 shards" in store("repair", root).stdout
    assert answer("verify", root)["rows"] == 5
    assert "adopted 0 rows in 0 shards" in store("repair", root).stdout


def test_repair_in_words_names_dropped_keys(root: Path) -> None:
    damage(root, "a")
    text = store("repair", root).stdout
    assert "dropped 1 rows of demo: 'a'" in text and "run jobs/extract.py in the checkout to compute" in text


def test_gc_removes_nothing_on_a_dry_run_and_leftovers_after(root: Path) -> None:
    leftover = root / "staging" / "x.spool"
    leftover.write_bytes(b"x" * 1000)
    os.utime(leftover, (time.time() - 1e6,) * 2)
    before = files_under(root)
    planned = answer("gc", root, "--dry-run")
    assert planned["files"] == ["staging/x.spool"] and planned["bytes"] == 1000
    assert files_under(root) == before
    assert "removed 0 versions, 1 files" in store("gc", root).stdout
    assert before - files_under(root) == {"staging/x.spool"}
    assert answer("verify", root, "--deep")["ok"]


def test_export_import_compare_round_trip(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "val.csv").write_text("video_id,question\nb,x\n")
    (tmp_path / "train.txt").write_text("a\n")
    splits = ("--split", f"val={tmp_path / 'val.csv'}", "--split", f"train={tmp_path / 'train.txt'}")
    made = answer("export", clips, "--to", "nextgqa", "--feature", "clip", "--out", tmp_path / "out", *splits)
    assert made["files"] == {"val.h5": 1, "train.h5": 1} and made["missing"] == []
    times = [part for split in ("val", "train") for part in ("--times", tmp_path / "out" / f"frame2time_{split}.json")]
    arguments = ("import", tmp_path / "back", tmp_path / "out", "--feature", "clip")
    short = store(*arguments, *times)  # the files name 32 frames, these rows have four steps
    assert short.exit_code == 2 and "4 steps, but 32 times" in short.stderr
    assert answer(*arguments)["added"] == 2
    again = store(*arguments)
    assert again.exit_code == 0 and "0 of them new" in again.stdout and "times unknown: 2 rows" in again.stdout
    for other in (tmp_path / "back", tmp_path / "out", tmp_path / "out" / "val.h5"):
        comparison = answer("compare", clips, other, "--feature", "clip")
        assert comparison["ok"] and comparison["identical"] == comparison["common"] > 0
    assert "external:" in (tmp_path / "back" / "README.md").read_text()
    assert answer("verify", tmp_path / "back", "--deep")["ok"]


def test_missing_rows_are_listed_and_exit_3_unless_allowed(clips: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text('["a", "gone:cat:[red]"]')
    for target, out in (("nextgqa", "h5"), ("music_avqa", "npy")):
        base = ("export", clips, "--to", target, "--feature", "clip", "--split", f"val={tmp_path / 'ids.json'}")
        shown = store(*base, "--out", tmp_path / out)
        assert shown.exit_code == 3 and "missing: val: 'gone:cat:[red]': no row" in shown.stdout
        allowed = answer(*base, "--out", tmp_path / f"{out}2", "--allow-failures")
        assert allowed["missing"] == [{"key": "gone:cat:[red]", "split": "val", "reason": "no row"}]


def test_an_import_with_nan_exits_3_unless_allowed(tmp_path: Path) -> None:
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "a.npy", np.ones((2, 3)))
    np.save(tmp_path / "npy" / "b.npy", np.full((2, 3), np.nan))
    base = ("import", tmp_path / "store", tmp_path / "npy", "--feature", "f")
    shown = store(*base)
    assert shown.exit_code == 3 and "missing: 'b'" in shown.stdout and "b.npy" in shown.stdout
    assert list(answer(*base, "--allow-failures")["failed"]) == ["b"]


def test_compare_names_the_row_that_differs(clips: Path, tmp_path: Path) -> None:
    store("export", clips, "--to", "music_avqa", "--feature", "clip", "--out", tmp_path / "npy")
    array = np.load(tmp_path / "npy" / "b.npy")
    array[0, 0] += 1
    np.save(tmp_path / "npy" / "b.npy", array)
    base = ("compare", clips, tmp_path / "npy", "--feature", "clip")
    comparison = answer(*base, code=3)
    assert (comparison["differing"], comparison["worst"][0]["key"], comparison["worst"][0]["max_abs"]) == (1, "b", 1.0)
    shown = store(*base)
    assert shown.exit_code == 3 and "differs: 'b': max abs 1" in shown.stdout and "'a'" not in shown.stdout
    assert answer(*base, "--atol", "1.5")["ok"]


def test_random_weights_are_one_line_of_warning(tmp_path: Path) -> None:
    root = create_store(tmp_path / "random")
    rows = [row("a", steps=4, step_shape=(6,))]
    commit_rows(root, rows, feature="clip", spec=CLIP | {"random_weights": True})
    done = store("export", root, "--to", "nextgqa", "--feature", "clip", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stderr == "warning: feature 'clip' was made with random weights\n"


Mistake = Callable[[Path], tuple[list[object], str]]
MISTAKES: dict[str, Mistake] = {
    "no store": lambda root: (["inspect", root / "staging"], "no store here"),
    "no version": lambda root: (["inspect", root, "--version", 9], "no such version"),
    "no key": lambda root: (["inspect", root, "zz"], "'zz'"),
    "inspect cluster": lambda root: (["inspect", root, "--cluster", 0], "--cluster: goes with --dictionary"),
    "inspect nearest": lambda root: (["inspect", root, "--nearest", 5], "--nearest: goes with --dictionary"),
    "inspect two": lambda root: (
        ["inspect", root, "a", "--dictionary", "visual"],
        "KEY: does not go with --dictionary; name one of the two",
    ),
    "verify nothing": lambda root: (["verify", root.parent / "gone"], "no store here"),
    "repair nothing": lambda root: (["repair", root.parent / "gone"], "no store here"),
    "gc nothing": lambda root: (["gc", root.parent / "gone"], "no store here"),
    "export feature": lambda root: (
        ["export", root, "--to", "nextgqa", "--feature", "dem", "--out", root.parent / "o"],
        "no feature 'dem' in version 1 (available: demo)",
    ),
    "export target": lambda root: (
        ["export", root, "--to", "arrow", "--feature", "demo", "--out", root.parent / "o"],
        "lance, music_avqa, nextgqa, parquet, webdataset, zarr",
    ),
    "export target alone": lambda root: (
        ["export", root.parent / "gone", "--to", "nope", "--out", root.parent / "o"],
        "--to 'nope': unknown (available: cra_dictionaries, lance, ",
    ),
    "export dictionaries": lambda root: (
        ["export", root, "--to", "cra_dictionaries", "--feature", "demo", "--out", root.parent / "o"],
        "--to cra_dictionaries: takes neither --feature, --split",
    ),
    "export split": lambda root: (
        ["export", root, "--to", "nextgqa", "--feature", "demo", "--out", root.parent / "o", "--split", "val"],
        "--split 'val': must be NAME=FILE",
    ),
    "export split file": lambda root: (
        ["export", root, "--to", "nextgqa", "--feature", "demo", "--out", root.parent / "o", "--split", "val=x.csv"],
        "x.csv: no such file",
    ),
    "export over": lambda root: (
        ["export", root, "--to", "nextgqa", "--feature", "demo", "--out", root.parent],
        "not an empty folder",
    ),
    "import nothing": lambda root: (["import", root, root.parent / "x.h5", "--feature", "f"], "x.h5: no such file"),
    "import name": lambda root: (["import", root, root / "versions", "--feature", "../f"], "name '../f'"),
    "import manifest": lambda root: (
        ["import", root, root / "store.json", "--feature", "f"],
        "store.json: cannot be read as HDF5",
    ),
    "compare nothing": lambda root: (["compare", root, root.parent / "x", "--feature", "demo"], "x: no such file"),
    "compare feature": lambda root: (
        ["compare", root, root, "--feature", "demo", "--other-feature", "z"],
        "no feature 'z'",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(root: Path, name: str) -> None:
    arguments, message = MISTAKES[name](root)
    before = files_under(root.parent)
    done = store(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr and done.stdout == ""
    assert files_under(root.parent) == before


def test_a_damaged_manifest_is_one_line(root: Path) -> None:
    flip(root / "versions" / "0000000001.json", 200)
    done = store("inspect", root)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "0000000001.json" in done.stderr
    assert answer("verify", root, code=3)["damaged_files"] == {"versions/0000000001.json": 1}


@pytest.mark.parametrize(("code", "command"), [(0, "verify"), (2, "import"), (3, "compare")])
def test_exit_codes_of_a_real_process_from_another_folder(tmp_path: Path, root: Path, code: int, command: str) -> None:
    other = store_with(tmp_path / "other", "z")
    more = {"verify": [], "import": [tmp_path / "nowhere", "--feature", "f"], "compare": [other, "--feature", "demo"]}
    arguments = [sys.executable, ROOT / "jobs" / "store.py", command, root, *more[command]]
    done = subprocess.run(list(map(str, arguments)), cwd=tmp_path, text=True, capture_output=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == (code == 2)


def test_a_key_that_begins_with_a_hyphen(tmp_path: Path) -> None:
    """As YouTube's ids may."""
    directory = store_with(tmp_path / "store", "-abc")
    refused = store("inspect", directory, "-abc")
    assert refused.exit_code == 2
    assert "No such option: -a; put -- before a key that begins with a hyphen" in refused.stderr
    shown = store("inspect", directory, "--", "-abc")
    assert shown.exit_code == 0 and shown.stdout.startswith("'-abc' in ")

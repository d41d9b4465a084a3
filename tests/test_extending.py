"""``docs/extending.md``: its files, registered and run as the page says, do what the page says."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import jobs.cluster
import jobs.extract
import jobs.parse
import jobs.store
import jobs.train
import parsers.annotations
import stores.exchange.exporting
import trainers.methods
from extractors.text import build_text_encoder
from parsers.annotations import Anomalies, read_annotations
from pipeline.cluster.embedding import vectors
from stores import Store
from stores.commit import create_store
from stores.exchange import export
from tests._helpers import cra_worlds
from tests._helpers.building import commit_rows, store_with
from tests._helpers.dictionaries import fill
from tests._helpers.question_worlds import put_questions
from tests.conftest import ROOT
from trainers.panels import draw, open_run
from trainers.predictions import read_predictions

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
JOBS = {"cluster": jobs.cluster, "extract": jobs.extract, "parse": jobs.parse, "store": jobs.store, "train": jobs.train}
PACKAGES = ("parsers.annotations", "stores.exchange", "trainers")


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def files() -> dict[str, str]:
    """Return the text of each file of the page by its path, which is its first line."""
    named = {}
    for text in [*blocks("python"), *blocks("yaml")]:
        first = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        assert first is not None, f"a file without a name: {text[:60]!r}"
        named[first.group(1)] = text
    return named


@pytest.fixture(autouse=True)
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write the files of the page into the working directory, as if they lay in the checkout."""
    before = set(sys.modules)
    for name, text in files().items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in PACKAGES:
        package = importlib.import_module(name)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name.replace(".", "/"))])
    yield
    for name in [name for name in sys.modules if name not in before and "my_" in name]:
        package_name, _, module = name.rpartition(".")
        vars(sys.modules.get(package_name, ModuleType(""))).pop(module, None)
        del sys.modules[name]


def register(monkeypatch: pytest.MonkeyPatch, module: ModuleType, registry: str) -> None:
    """Add the lines of the page to a module: its last line is an entry of a dict, the others stand above it."""
    (difference,) = [text for text in blocks("diff") if re.search(rf"^ {registry}: ", text, re.M)]
    *above, entry = [line[1:] for line in difference.splitlines() if line.startswith("+")]
    namespace = dict(vars(module))
    exec("\n".join(above), namespace)
    for name, value in eval(f"{{{entry}}}", namespace).items():
        monkeypatch.setitem(getattr(module, registry), name, value)


def run(job: str, *more: str) -> str:
    """Run the command of the page for a job, with further options, and return what it prints."""
    (command,) = [text for text in blocks("sh") if text.startswith(f"python jobs/{job}.py ")]
    done = CliRunner().invoke(JOBS[job].app, [*shlex.split(command.replace("\\\n", ""))[2:], *more])
    assert done.exit_code == 0, done.output
    return done.stdout


def check_with(test_file: str) -> None:
    """Run the tests of a file of the page."""
    namespace: dict[str, Any] = {}
    exec(files()[test_file], namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_a_backbone(videos: Path) -> None:
    check_with("tests/test_my_histogram.py")
    for extra in ("clip2.mp4", "clip3.mp4"):
        (videos / extra).unlink()
    mean = "features.mean={extractor: rgb_grid, grid: 1, dtype: float32, sampling: {policy: uniform, n: 8}}"
    run("extract", "--set", mean, "--json")
    with Store.open("out/store") as store:
        assert store.keys("colours") == ["clip0", "clip1"]
        assert store.spec("colours")["extractor"] == "my_package.histogram:Histogram"
        shares, means = store.read("colours", ["clip0", "clip1"]), store.read("mean", ["clip0", "clip1"])
    assert (shares.shape, shares.dtype.name) == ((2, 8, 3, 8), "float16")
    assert np.allclose(shares.sum(-1, dtype=np.float64), 1, atol=2e-3)
    centres = np.arange(8) * 32 + 15.5
    assert np.abs(shares.astype(np.float64) @ centres - 255 * means).max() < 17  # half a bin, and roundings
    assert not np.array_equal(shares[0], shares[1])


def test_a_text_encoder(tmp_path: Path) -> None:
    check_with("tests/test_my_letters.py")
    fill(tmp_path / "out" / "store")
    run("cluster")
    encoder = build_text_encoder("my_package.letters:Letters", {})
    with Store.open("out/store") as store:
        texts, values = vectors(store, encoder)
        assert store.table("linguistic_dictionary").num_rows == 6
    expected = np.zeros(26, np.float32)
    expected[[0, 2, 19]] = 1 / np.sqrt(3)
    assert np.array_equal(values[texts.to_pylist().index("cat")], expected)
    listen, silent, nothing = encoder.load("cpu").encode(["Listen", "silent", "42"])
    assert np.array_equal(listen, silent) and not nothing.any()


def test_an_annotation_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, parsers.annotations, "FORMATS")
    (tmp_path / "val.tsv").write_text("v1\twhat barks \ta dog\r\n\nv2\twho sings\t\n", encoding="utf-8")
    run("parse")
    with Store.open("out/store") as store:
        rows = store.table("questions", "my_tsv/val").to_pylist()
    assert [(row["question_id"], row["video_id"], row["question"], row["answer"], row["flags"]) for row in rows] == [
        ("row:0", "v1", "what barks", "a dog", ["trailing_blank"]),
        ("row:1", "v2", "who sings", None, []),
    ]
    (tmp_path / "train.tsv").write_bytes(b"v1\twhat barks\nv1\t\xff\tx\n\tq\ta\nv1\twhat\0\ta\nv3\tq\ta\n")
    anomalies = Anomalies()
    assert read_annotations("my_tsv", tmp_path, "train", anomalies)["video_id"].to_pylist() == ["v3"]
    assert [(error.line, error.code) for error in anomalies.errors] == [
        (1, "wrong_columns"),
        (2, "not_utf8"),
        (3, "empty_text"),
        (4, "nul_byte"),
    ]


def test_an_export_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, stores.exchange.exporting, "TARGETS")
    root = store_with(tmp_path / "out" / "store", "a", "b", "é#1")
    (tmp_path / "train.txt").write_text("é#1\na\n", encoding="utf-8")
    run("store")
    with np.load("out/npz/train.npz") as archive, Store.open(root) as store:
        assert archive["keys"].tolist() == ["é#1", "a"]
        for key, start, stop in zip(archive["keys"], archive["offset"], archive["offset"][1:], strict=False):
            assert archive["values"][start:stop].tobytes() == store.row("demo", key).tobytes()
            assert np.array_equal(archive["time_s"][start:stop], store.times("demo", key))
            assert np.array_equal(archive["valid"][start:stop], store.valid("demo", key))
        again = export(store, "demo", "my_npz", tmp_path / "again", {"train": ["é#1", "nobody", "a"]})
    assert (again.files, [row.key for row in again.missing], again.padded) == ({"train.npz": 2}, ["nobody"], 2)
    assert (tmp_path / "again" / "train.npz").read_bytes() == Path("out/npz/train.npz").read_bytes()


def test_a_training_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, trainers.methods, "METHODS")
    monkeypatch.setattr(jobs.train, "PRESETS", tmp_path / "trainers" / "presets")
    root = create_store(tmp_path / "out" / "store")
    commit_rows(root, map(cra_worlds.video, range(64)), feature="vggish", spec=cra_worlds.SPEC)
    for split, numbers in (("train", range(40)), ("val", range(40, 52)), ("test", range(52, 64))):
        put_questions(root, "music_avqa", split, cra_worlds.questions(numbers, options=[]))
    settings = ("data.batch=4", "loop.lr=0.3", "loop.threads=1", "loop.tensorboard=false")
    quick = [*(word for setting in settings for word in ("--set", setting)), "--json"]
    summary = json.loads(run("train", *quick))
    assert (summary["method"], summary["steps"], summary["best_epoch"]) == ("my_probe", 10, 1)
    with Store.open(root) as store:
        for split in ("val", "test"):
            rows = store.table("questions", f"music_avqa/{split}").to_pylist()
            answers = json.loads(Path(f"out/my_probe/answers_{split}.json").read_text())
            right = [answers[row["question_id"]] == row["answer"] for row in rows]
            assert summary["metrics"][split] == {"accuracy": 100 * sum(right) / len(right)}
    assert summary["metrics"]["test"]["accuracy"] > 50  # a guess is right in a third of the cases
    assert json.loads(run("train", *quick))["metrics"] == summary["metrics"]
    rows = read_predictions(tmp_path / "out" / "my_probe", "test").rows
    assert 100 * sum(bool(row.right) for row in rows) / len(rows) == summary["metrics"]["test"]["accuracy"]
    image, html = draw(open_run(tmp_path / "out" / "my_probe"), "v63_0")
    assert image.startswith(b"\x89PNG") and "what colour does it show" in html
    shutil.rmtree(tmp_path / "out" / "my_probe")
    assert json.loads(run("train", *quick))["metrics"] == summary["metrics"]

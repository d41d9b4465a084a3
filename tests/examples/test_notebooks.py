"""The notebooks run as they are, say what is so, and keep outputs that fit anybody's machine."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from nbclient.exceptions import DeadKernelError

from examples.notebooks.execute import FOLDER, NOTEBOOKS, execute, texts
from stores import Store
from tests.conftest import ROOT

LARGEST = 300_000
PAGES = (ROOT / "README.md", ROOT / "docs" / "training.md", ROOT / "docs" / "evaluation.md")


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def said(notebook: Any) -> str:
    return "\n".join(texts(notebook))


def errors(notebook: Any) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output["ename"] for output in outputs if output["output_type"] == "error"]


def test_every_notebook_is_listed_and_has_a_way_to_it() -> None:
    assert {f"{name}.ipynb" for name in NOTEBOOKS} == {path.name for path in FOLDER.glob("*.ipynb")}
    linked = {link for page in PAGES for link in re.findall(r"examples/notebooks/(\w+)\.ipynb", page.read_text())}
    assert linked == set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_stored_is_small_whole_and_of_no_machine(name: str) -> None:
    notebook, path = read(name), FOLDER / f"{name}.ipynb"
    nbformat.validate(notebook)
    assert path.stat().st_size <= LARGEST
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))  # from top to bottom, once
    assert not errors(notebook)
    shown = said(notebook)
    places = [str(ROOT), str(Path.home()), "/tmp/", "/home/", "/root/", "site-packages"]
    assert not [place for place in places if place in shown]
    assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", shown)
    longest = max(len(cell.source.splitlines()) for cell in code)
    assert longest <= 12, "a cell is too long to be read at a glance"
    prose = [cell.cell_type for cell in notebook.cells]
    assert prose[0] == prose[-1] == "markdown" and prose.count("markdown") >= len(code) / 2


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Mapping[str, Any]]:
    """The notebooks, run one after the other beside this checkout; the first makes what the others read."""
    try:
        KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        pytest.skip("Jupyter has no kernel python3 here: pip install ipykernel")
    checkout = tmp_path_factory.mktemp("checkout")
    for path in ROOT.iterdir():
        if (path / "__init__.py").exists():
            (checkout / path.name).symlink_to(path)
    (checkout / "reelstore").symlink_to(ROOT / "stores")  # as pip installs it
    here = checkout / "made" / "notebooks"
    here.mkdir(parents=True)
    found = {name: read(name) for name in NOTEBOOKS}
    try:
        for notebook in found.values():
            execute(notebook, here)
    except DeadKernelError as error:
        pytest.skip(f"a kernel of Jupyter cannot start here: {error}")
    return checkout / "out" / "notebooks", found


@pytest.mark.slow
def test_videos_become_a_trained_model(executed: tuple[Path, Mapping[str, Any]]) -> None:
    out, found = executed
    shown = said(found["videos_to_cra"])
    assert not errors(found["videos_to_cra"])
    with Store.open(out / "store") as store:
        videos, rows = len(store.keys("frames")), sum(info.rows for info in store.features.values())
        questions = {part.split("/")[1]: entry.rows for part, entry in store.parts("questions").items()}
    assert f"{videos} videos, " in shown and f"stored {rows} of {rows} wanted rows ({rows} computed now)" in shown
    assert f"nothing to do: {rows} of {rows} wanted rows are stored" in shown
    for split, number in questions.items():
        assert f"toy_grounding/{split}: {number} questions" in shown
    for kind in ("linguistic", "visual"):
        assert f"stored the {kind} dictionary" in shown
    scores = json.loads((out / "cra" / "results.json").read_text())["metrics"]["test"]
    (trained, evaluated) = re.findall(r"^all +((?:[\d.]+ +){10})144$", shown, re.M)  # by training and by the evaluator
    assert trained == evaluated
    assert trained.split()[:2] == [f"{scores[name]:.1f}" for name in ("acc_vqa", "acc_gqa")]
    assert scores["acc_vqa"] > 30, "chance is 20 %"
    picture = found["videos_to_cra"].cells[-2]["outputs"][0]["data"]["image/png"]
    assert len(picture) > 10_000


@pytest.mark.slow
def test_a_store_is_read(executed: tuple[Path, Mapping[str, Any]]) -> None:
    out, found = executed
    shown = said(found["read_a_store"])
    assert not errors(found["read_a_store"])
    with Store.open(out / "store") as store:
        row = store.row("frames", store.keys("frames")[0])
        assert f"version {store.version}\n" in shown
        assert f"{store.keys('frames')[0]} {row.shape} float16 writeable: False" in shown
        first = store.table("questions", "toy_grounding/test").slice(0, 1).to_pylist()[0]
    assert first["question"] in shown and "True False\n0 rows failed" in shown
    assert "144 questions of 24 videos, with a row of frames 144 (100 %)" in shown
    assert "features (64, 32, 182) torch.float32" in shown
    (loss,) = re.findall(r"loss (\d\.\d\d); guessing has 1\.61", shown)
    assert 1.4 < float(loss) < 1.9


@pytest.mark.slow
def test_errors_are_found(executed: tuple[Path, Mapping[str, Any]]) -> None:
    out, found = executed
    shown = said(found["find_errors"])
    assert not errors(found["find_errors"])
    rows = pq.read_table(out / "cra" / "predictions_test.parquet")
    right = pc.mean(rows["right"].cast("float64")).as_py()
    assert f"{rows.num_rows} questions, {right:.1%} right, mean IoU {pc.mean(rows['iou']).as_py():.2f}" in shown
    worst = rows.filter(pc.invert(rows["right"])).sort_by([("confidence", "descending")])["question_id"][0].as_py()
    (listed,) = re.findall(r"question_id +question .*\n\d+ +(\S+)", shown)
    assert listed == worst
    loose = rows.filter(pc.and_(rows["right"], pc.less(rows["iop"], 0.5))).num_rows
    assert f"{loose} of {round(right * rows.num_rows)} right answers" in shown
    images = [output for cell in found["find_errors"].cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in output["data"] for output in images) == 2  # the histogram and the panel

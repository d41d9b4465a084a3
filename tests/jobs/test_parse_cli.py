"""`jobs/parse.py` as a user meets it: exit codes, one line for each mistake, JSON, real models, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.parse import app
from stores import Store
from stores.upkeep.verification import verify
from tests._helpers import jobs
from tests._helpers.annotation_files import MUSIC_ROW, NEXT_ROWS, json_array, next_csv, next_row
from tests.conftest import ROOT

NO_GRAPHS = ("--set", "graph.enabled=false")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "jobs/parse.py", *map(str, arguments)]


def job(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, text=True, capture_output=True, timeout=300, env=os.environ | environment
    )


def test_exit_codes_and_json(tmp_path: Path) -> None:
    path = json_array(tmp_path, [MUSIC_ROW, MUSIC_ROW | {"question_id": 8, "anser": "eleven"}], "avqa-val.json")
    base = (path, "--format", "music_avqa", "--split", "val", "--store", tmp_path / "store", "--json", *NO_GRAPHS)
    plan = job(*base, "--plan")
    assert (plan.returncode, json.loads(plan.stdout)["rows"]) == (0, 1)
    assert not (tmp_path / "store").exists()
    first = job(*base)
    assert first.returncode == 3
    summary = json.loads(first.stdout)
    assert (summary["exit_code"], summary["rows"], len(summary["errors"])) == (3, 1, 1)
    assert f"refused: {path}: line 3: '8': field 'anser': 'eleven' is not one of the 42 answers" in first.stderr
    allowed = jobs.job("parse", *base, "--allow-failures")
    assert "nothing to do: 1 questions are stored" in allowed.stderr
    assert verify(tmp_path / "store", deep=True).ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--split", "val"], "error: nowhere: no such file or folder"),
        (["{folder}", "--split", "test"], "holds no test.csv; name the file"),
        (["{folder}", "--split", "../val"], "error: split '../val'"),
        (["{folder}", "--split", "val", "--set", "stanza.devise=cpu"], "did you mean 'device'"),
        (["{folder}", "--split", "val", "--config", "none.yaml"], "none.yaml: no such file"),
        (["{folder}", "--split", "val", "--stanza-dir", "{folder}"], "resources.json"),
        (["{folder}", "--split", "val", "--store", "{folder}/val.csv", *NO_GRAPHS], "is not a directory"),
        (["{folder}", "--split", "val", "--store", "{folder}", *NO_GRAPHS], "not a store and not empty"),
        (["{folder}", "--split", "val", "--set", 'conllu="a\\0b"'], "not readable (embedded null byte)"),
        (["{folder}", "--split", "val", "--store", "a\0b"], "holds a NUL byte"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    next_csv(tmp_path)
    words = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    done = CliRunner().invoke(app, ["--format", "nextgqa", "--store", str(tmp_path / "store"), *words])
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_planning_imports_neither_torch_nor_stanza(shared: Path) -> None:
    """A second run names the parser by its models' bytes, without loading them."""
    code = (
        "import sys; from pathlib import Path; from pipeline.parse.run import StanzaParser; import jobs.parse;"
        f"StanzaParser(Path({str(shared / 'models/stanza')!r})).digest;"
        "print(sorted({'torch', 'stanza', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_real_models_and_a_second_run(shared: Path, tmp_path: Path) -> None:
    base = (next_csv(tmp_path), "--format", "nextgqa", "--split", "val", "--store", tmp_path / "store", "--json")
    models = ("--stanza-dir", shared / "models/stanza")
    first = job(*base, *models)
    assert first.returncode == 0, first.stderr
    summary = json.loads(first.stdout)
    assert (summary["unique_texts"], summary["parsed"]) == (4, 4)
    assert summary["with"]["predicate"] == 2
    graph = Store.open(tmp_path / "store").table("graphs").to_pylist()[1]
    assert graph["nodes"][:3] == [NEXT_ROWS[1].split(",")[4], "how", "man"]
    assert graph["nodes"][5:] == ["show him the watch", "show", "watch"]
    second = json.loads(jobs.job("parse", *base, *models).stdout)
    assert (second["parsed"], second["version"]) == (0, summary["version"])


@pytest.fixture(scope="module")
def boys(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """Arguments of a job for 60 questions, without a store."""
    rows = [next_row(0, question=f"why did boy number {i} run away", qid=str(i)) for i in range(60)]
    path = next_csv(tmp_path_factory.mktemp("boys"), rows, gsub=None, split="train")
    return (path, "--format", "nextgqa", "--split", "train", "--stanza-dir", shared / "models/stanza", "--json")


@pytest.fixture(scope="module")
def undisturbed(boys: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a run that nobody ended."""
    store = tmp_path_factory.mktemp("undisturbed") / "store"
    jobs.job("parse", *boys, "--store", store)
    return store


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_goes_on_where_it_was(
    boys: tuple[object, ...], undisturbed: Path, tmp_path: Path, signum: int
) -> None:
    """Ended after its first commit, a run leaves parses that the next one does not make again."""
    run = subprocess.Popen(
        command(*boys, "--store", tmp_path / "store", "--set", "stanza.batch=1"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (tmp_path / "store/versions/0000000001.json").exists():
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()
        time.sleep(0.01)
    run.send_signal(signum)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == (143 if signum == signal.SIGTERM else -signal.SIGKILL), errors
    if signum == signal.SIGTERM:
        assert "stopped by SIGTERM" in errors
    assert verify(tmp_path / "store", deep=True).ok
    again = json.loads(jobs.job("parse", *boys, "--store", tmp_path / "store").stdout)
    assert again["parsed"] < 61 == again["unique_texts"]
    stores = [Store.open(path) for path in (tmp_path / "store", undisturbed)]
    for table in ("questions", "parses", "graphs"):
        assert stores[0].table(table).equals(stores[1].table(table))

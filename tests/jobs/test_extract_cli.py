"""The command line as a user meets it: exit codes, one line for each mistake, JSON, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stores.upkeep.verification import verify
from tests._helpers import jobs
from tests._helpers.runs import RGB, digests, extract, rgb_config
from tests.conftest import ROOT


def command(*arguments: object) -> list[str]:
    return [sys.executable, "jobs/extract.py", *map(str, arguments)]


def job(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=ROOT, text=True, capture_output=True, timeout=120, env=os.environ | environment
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "rgb.yaml"
    file.write_text(RGB)
    return file


def test_json_summary_and_exit_codes(videos: Path, tmp_path: Path, config: Path) -> None:
    base = (videos, "--store", tmp_path / "store", "--config", config, "--json")
    plan = jobs.job("extract", *base, "--plan")
    assert json.loads(plan.stdout)["to_compute"] == 4
    first = job(*base)
    assert first.returncode == 0
    summary = json.loads(first.stdout)
    assert (summary["stored"], summary["computed"], summary["failed"]) == (4, 4, 0)
    second = jobs.job("extract", *base)
    assert "nothing to do: 4 of 4 wanted rows are stored" in second.stderr
    assert json.loads(second.stdout)["computed"] == 0
    (videos / "bad.mp4").write_text("no")
    third = job(*base)
    assert third.returncode == 3
    assert "'bad': corrupt (permanent)" in third.stderr
    assert "Traceback" not in third.stderr
    jobs.job("extract", *base, "--allow-failures")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--preset", "demo"], "nowhere: no such directory"),
        (["{videos}", "--preset", "dmo"], "did you mean 'demo'"),
        (["{videos}", "--preset", "demo", "--config", "x.yaml"], "exclude each other"),
        (["{videos}", "--config", "x.yaml"], "x.yaml: no such file"),
        (["{videos}", "--set", "features.clip.cropp=squash"], "cropp"),
        (["{videos}", "--set", "nonsense"], "a.b=c"),
        (["{videos}", "--only", "nobody"], "nobody"),
        (["{videos}", "--limit", "0"], "--limit"),
        (["{videos}", "--executor", "spark"], "spark"),
        (["{videos}", "--gpus", "64"], "64 asked for"),
        (["{videos}", "--set", "features.clip.weights=missing.pt"], "missing.pt"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    videos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    words = [part.format(videos=videos) for part in arguments]
    done = jobs.job("extract", *words, "--store", tmp_path / "store", check=2)
    assert message in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")


def test_a_store_that_is_something_else_is_left_alone(videos: Path, tmp_path: Path, config: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "thesis.tex").write_text("precious")
    done = jobs.job("extract", videos, "--store", tmp_path / "store", "--config", config, check=2)
    assert "not a store" in done.stderr
    assert os.listdir(tmp_path / "store") == ["thesis.tex"]


def test_hash_seed_does_not_show(videos: Path, tmp_path: Path, config: Path) -> None:
    written = []
    for seed in ("0", "1"):
        store = tmp_path / seed
        assert job(videos, "--store", store, "--config", config, PYTHONHASHSEED=seed).returncode == 0
        written.append({path.name: path.read_bytes() for path in (store / "specs").iterdir()})
        written[-1] |= {key: value.encode() for key, value in digests(store).items()}
    assert written[0] == written[1]


def _slow(tmp_path: Path) -> tuple[Path, str]:
    text = RGB.replace("rgb_grid, grid: 2", "'tests._helpers.slow:Slow', grid: 2")
    file = tmp_path / "slow.yaml"
    file.write_text(text + "run: {shard_rows: 1}\n")
    return file, file.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_commits_what_is_finished(
    videos: Path, tmp_path: Path, clip_bytes: tuple[bytes, ...], signum: int, code: int
) -> None:
    for index in range(16):
        (videos / f"more{index}.mp4").write_bytes(clip_bytes[index % 4] + bytes([index]))
    file, text = _slow(tmp_path)
    store = tmp_path / "store"
    running = subprocess.Popen(
        command(videos, "--store", store, "--config", file, "--allow-code"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    receipts = store / "features"
    # A shard whose receipt has just appeared may not have been handed over yet; those before it have.
    while running.poll() is None and len(list(receipts.rglob("*.json"))) < 3:
        time.sleep(0.005)
    running.send_signal(signum)
    _, errors = running.communicate(timeout=10)
    assert running.returncode == code, errors
    assert "run the same command again to continue" in errors
    stored = len(digests(store))
    assert 1 <= stored < 20
    assert verify(store, deep=True).ok
    extract(videos, store, rgb_config(tmp_path, text=text))
    extract(videos, tmp_path / "undisturbed", rgb_config(tmp_path))
    assert digests(store) == digests(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("receipts_before", [0, 1, 3])
def test_kill_9_loses_open_shards_only(
    videos: Path, tmp_path: Path, clip_bytes: tuple[bytes, ...], receipts_before: int
) -> None:
    for index in range(12):
        (videos / f"more{index}.mp4").write_bytes(clip_bytes[index % 4] + bytes([index]))
    file, text = _slow(tmp_path)
    store = tmp_path / "store"
    running = subprocess.Popen(
        command(videos, "--store", store, "--config", file, "--allow-code"), cwd=ROOT, stderr=subprocess.DEVNULL
    )
    while running.poll() is None and (
        not (store / "store.json").exists() or len(list((store / "features").rglob("*.json"))) < receipts_before
    ):
        time.sleep(0.005)
    running.kill()
    running.wait()
    finished = len(list((store / "features").rglob("*.json")))
    again = extract(videos, store, rgb_config(tmp_path, text=text))
    assert again.summary["computed"] <= 16 - finished, "finished shards are adopted, not computed again"
    extract(videos, tmp_path / "undisturbed", rgb_config(tmp_path))
    assert digests(store) == digests(tmp_path / "undisturbed")
    assert verify(store, deep=True).ok


@pytest.mark.parametrize("job", ["extract", "parse"])
def test_a_wrong_ray_address_is_one_line_before_anything_is_planned(job: str, videos: Path, tmp_path: Path) -> None:
    """Nobody listens on port 9 (discard)."""
    arguments = {
        "extract": ["jobs/extract.py", str(videos)],
        "parse": ["jobs/parse.py", str(tmp_path / "questions.jsonl"), "--format", "table", "--split", "train"],
    }[job]
    (tmp_path / "questions.jsonl").write_text('{"question_id": "1", "video_id": "v", "question": "why did he run"}\n')
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:9"}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, *arguments, "--store", str(tmp_path / "store"), "--executor", "ray"],
        cwd=ROOT, env=environment, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "127.0.0.1:9" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 20
    if job == "extract":
        assert not (tmp_path / "store").exists()

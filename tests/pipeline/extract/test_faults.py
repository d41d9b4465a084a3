"""A machine that faults costs no row: it is left out, or the run ends, and the rows are as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from examples.clips import write_clip
from extractors import MachineFaultError, is_machine_fault, names_machine
from pipeline.extract import Config, load_config
from pipeline.extract.doubts import MOST_ALIKE, Doubts
from pipeline.extract.plan import Unit
from pipeline.extract.units import UnitFailure
from pipeline.shared import UsageError, sizing
from stores import Store
from stores.commit import Changes, Failure, commit
from tests._helpers.cards import CUDA_ERROR
from tests._helpers.runs import Done, digests, extract, reasons, rgb_config

CARD = """
features:
  rgb: {{extractor: 'tests._helpers.cards:Card', grid: 2, {options},
         sampling: {{policy: uniform, n: 4}}, micro_batch: 4}}
media: {{deadline_s: 20}}
run: {{decode_workers: 2, commit_seconds: 0.2}}
"""


def card_config(folder: Path, *overrides: str, **options: Any) -> Config:
    file = folder / "card.yaml"
    file.write_text(CARD.format(options=", ".join(f"{name}: {value!r}" for name, value in options.items())))
    return load_config(file=file, overrides=overrides, allow_code=True)


@pytest.fixture
def many(tmp_path: Path, clip_bytes: tuple[bytes, ...]) -> Path:
    """40 videos, all different."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(40):
        (folder / f"v{index:02d}.mp4").write_bytes(clip_bytes[index % 4] + bytes([index]))
    return folder


def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "visible_gpus", lambda: 2)


def same_as_undisturbed(many: Path, store: Path, folder: Path) -> None:
    undisturbed = folder / "undisturbed"
    extract(many, undisturbed, rgb_config(folder))
    assert digests(store) == digests(undisturbed)
    with Store.open(store) as opened:
        assert opened.failures().num_rows == 0


@pytest.mark.parametrize("how", ["cuda", "quiet", "kill", "load"])
def test_one_of_two_cards_faults_and_the_other_computes_every_row(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    two_cards(monkeypatch)
    store = tmp_path / "store"
    config = card_config(tmp_path, faulty="cuda:1", after=3, how=how, slow_s=0.01)
    done = extract(many, store, config)
    assert (done.exit_code, done.summary["stored"], done.summary["failed"]) == (0, 40, 0)
    same_as_undisturbed(many, store, tmp_path)


def test_an_extractor_that_cannot_prepare_anything_ends_the_run_in_one_line(many: Path, tmp_path: Path) -> None:
    """A mistake in a plug-in is no fault of eight videos in a row."""
    store = tmp_path / "store"
    with pytest.raises(UsageError, match=r"on \d+ videos in a row: prepare\(\) of 'rgb': KeyError: 'gone'"):
        extract(many, store, card_config(tmp_path, how="prepare"))
    with Store.open(store) as opened:
        assert opened.failures().num_rows == 0


@pytest.mark.parametrize("cards", [0, 1, 2])
def test_when_no_card_is_left_the_run_ends_and_marks_nothing(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: int
) -> None:
    """One line names device and error; what was computed is committed; a healthy machine computes the rest."""
    monkeypatch.setattr(sizing, "visible_gpus", lambda: cards)
    store = tmp_path / "store"
    with pytest.raises(UsageError, match=r"illegal memory access.*No row was marked") as caught:
        extract(many, store, card_config(tmp_path, after=9))
    assert ("cuda:0" if cards else "cpu") in str(caught.value)
    assert "\n" not in str(caught.value)
    with Store.open(store) as opened:
        assert opened.failures().num_rows == 0
    healthy = extract(many, store, card_config(tmp_path, after=9, faulty="none", how="cuda"))
    assert healthy.exit_code == 0
    assert healthy.summary["failed"] == 0


def test_rows_before_the_fault_are_committed(many: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(UsageError, match="rows of this run are committed"):
        extract(many, store, card_config(tmp_path, "run.commit_seconds=3600", after=21))
    assert 0 < len(digests(store)) < 40


def test_a_tower_that_fails_on_noise_too_blames_the_machine(many: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"feature 'rgb' on cpu: TypeError: attempt \d+ went wrong"):
        extract(many, tmp_path / "store", card_config(tmp_path, how="quiet"))


def test_the_same_failure_on_many_videos_in_a_row_marks_none(many: Path, tmp_path: Path) -> None:
    """The tower computes noise, and nothing else: numbers in the message do not make it another one."""
    store = tmp_path / "store"
    with pytest.raises(UsageError, match=r"in the same way on \d+ videos in a row: value .* cannot be"):
        extract(many, store, card_config(tmp_path, how="pictures"))
    with Store.open(store) as opened:
        assert opened.failures().num_rows == 0


def test_a_few_failures_are_those_of_their_rows(many: Path, tmp_path: Path) -> None:
    """Seven videos are fewer than it takes to doubt the extractor."""
    for path in sorted(many.iterdir())[MOST_ALIKE - 1 :]:
        path.unlink()
    done = extract(many, tmp_path / "store", card_config(tmp_path, how="pictures"))
    assert done.exit_code == 3
    assert done.summary["failures_by_class"] == {"model_error": MOST_ALIKE - 1}


def test_a_unit_that_kills_its_process_fails_alone(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is started again, and the videos that were with it get their rows."""
    monkeypatch.setattr(sizing, "visible_gpus", lambda: 1)
    write_clip(many / "v05.mp4", seed=99)
    extract(many, tmp_path / "undisturbed", rgb_config(tmp_path))
    with Store.open(tmp_path / "undisturbed") as opened:
        poison = float(opened.row("rgb", "v05")[0].astype(float).sum())
    config = tmp_path / "poisoned.yaml"
    config.write_text(CARD.format(options=f"poison: {poison!r}").replace("cards:Card", "cards:Poisoned"))
    done = extract(many, tmp_path / "store", load_config(file=config, allow_code=True))
    assert done.summary["failures_by_class"] == {"crash": 1}
    assert [failed["video_id"] for failed in done.summary["failures"]] == ["v05"]
    assert "ended by signal 9" in done.summary["failures"][0]["message"]
    assert len(digests(tmp_path / "store")) == 39


def failure(number: int, message: str, feature: str = "rgb") -> UnitFailure:
    unit = Unit(f"/v{number}.mp4", (f"v{number}",), (feature,), None, 1, "s")
    return UnitFailure(unit, (feature,), "model_error", message, of_model=True)


class TestDoubts:
    def test_a_row_of_the_feature_clears_its_failures(self) -> None:
        doubts = Doubts()
        for number in range(MOST_ALIKE - 1):
            doubts.hold(failure(number, "bad"))
        assert list(doubts.judge({"other": 3})) == []
        assert len(list(doubts.judge({"rgb": 1}))) == MOST_ALIKE - 1
        doubts.hold(failure(99, "bad"))
        assert list(doubts.judge({})) == []
        assert [held.unit.keys for held in doubts.settle()] == [("v99",)]

    def test_other_words_are_another_failure(self) -> None:
        doubts = Doubts()
        for number in range(2 * MOST_ALIKE - 2):
            doubts.hold(failure(number, "bad" if number % 2 else "worse"))
        assert list(doubts.judge({})) == []

    def test_features_are_judged_apart(self) -> None:
        doubts = Doubts()
        for number in range(MOST_ALIKE):
            doubts.hold(failure(number, "bad", f"f{number % 2}"))
        assert list(doubts.judge({})) == []
        for number in range(MOST_ALIKE):
            doubts.hold(failure(number, "bad", "f1"))
        with pytest.raises(MachineFaultError, match="'f1'"):
            list(doubts.judge({"f0": 1}))


class AcceleratorError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    "error",
    [
        AcceleratorError("sticky"),
        RuntimeError(CUDA_ERROR),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: no kernel image is available for execution on the device"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        RuntimeError("HIP error: invalid device function"),
        RuntimeError("Found no NVIDIA driver on your system."),
        AssertionError("Torch not compiled with CUDA enabled"),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        RuntimeError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ],
)
def test_errors_that_blame_the_machine(error: Exception) -> None:
    assert is_machine_fault(error)
    assert isinstance(error, AcceleratorError) or names_machine(f"{type(error).__name__}: {error}")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        MemoryError(),
        ValueError("values that are not finite"),
    ],
)
def test_errors_that_do_not(error: Exception) -> None:
    assert not is_machine_fault(error)


def test_rows_that_an_earlier_version_marked_are_tried_again(many: Path, tmp_path: Path) -> None:
    """Three attempts of a faulted card are none of the row's."""
    store = tmp_path / "store"
    config = rgb_config(tmp_path)
    first = extract(many, store, config, only=frozenset({"v00", "v01"}))
    with Store.open(store) as opened:
        spec = opened.features["rgb"].spec_digest
        content = {record["key"]: record for record in _sources(opened, store)}
    commit(store, Changes(removed=[("rgb", "v00"), ("rgb", "v01")]))
    marked = [
        Failure(key, "rgb", spec, "model_error", False, message, str(many / f"{key}.mp4"), content[key]["id"], 3)
        for key, message in (("v00", CUDA_ERROR.partition("\n")[0]), ("v01", "a row of its own"))
    ]
    commit(store, Changes(failures=marked))
    assert first.exit_code == 0
    again: Done = extract(many, store, config, only=frozenset({"v00", "v01"}))
    assert reasons(again) == {"retry": 1, "failed_permanent": 1}


def _sources(opened: Store, store: Path) -> list[dict[str, str]]:
    from stores.format import SegmentLog, load, schemas

    return [
        {"key": Path(record["key"].decode()).stem, "id": record["content_id"]}
        for record in SegmentLog(store, load(store).sources, schemas.SOURCES)
    ]

"""What a run tells other programs, read back by these programs; and how it ends if one of them fails."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import io
import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from tests._helpers.cra_worlds import settings as cra_settings
from tests._helpers.cra_worlds import small_world
from tests._helpers.toy_task import Clouds
from trainers import TrainRequest
from trainers.config import LoopConfig
from trainers.distributed import Ranks
from trainers.errors import TrainingError
from trainers.folder import JOURNAL
from trainers.loggers import LoggerName, Loggers, flattened, require_packages
from trainers.loop import train
from trainers.progress import Progress
from trainers.resume import choose_version
from trainers.run import check, run

ALONE = Ranks(0, 1, torch.device("cpu"))


def trained(folder: Path, *names: LoggerName, epochs: int = 1) -> list[dict[str, Any]]:
    """Train for some epochs, and return what the run logged of its own steps."""
    config = LoopConfig(epochs=epochs, lr=0.01, schedule="constant", log_steps=1, threads=1)
    with Loggers(folder, names) as loggers:
        train(Clouds(), config, folder, ALONE, Progress(), loggers=loggers)
        loggers.image(5, "panels/val/1", PNG, "which one?")
        loggers.finish()
    return [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]


def picture() -> bytes:
    """Return a picture of two pixels."""
    data = io.BytesIO()
    Image.new("RGB", (2, 1), (255, 0, 0)).save(data, "PNG")
    return data.getvalue()


PNG = picture()


def test_settings_are_flattened_to_parameters() -> None:
    given = {"loop": {"lr": 0.1, "betas": [0.9, 0.999], "patience": None}, "method": "cra", "world": 1, "ok": True}
    assert dict(flattened(given)) == {
        "loop.lr": 0.1,
        "loop.betas": "[0.9, 0.999]",
        "loop.patience": "null",
        "method": "cra",
        "world": 1,
        "ok": True,
    }


def test_tensorboard_has_scalars_pictures_parameters_speed_and_memory(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    lines = trained(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    losses = [line["total"] for line in lines if line["kind"] == "train"]
    assert [event.value for event in events.Scalars("train/total")] == pytest.approx(losses)
    assert len(events.Scalars("machine/steps_per_s")) == len(losses) == 5
    assert all(event.value > 0 for event in events.Scalars("machine/memory_gb"))
    (image,) = events.Images("panels/val/1")
    assert (image.width, image.height, image.encoded_image_string) == (2, 1, PNG)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert HParamsPluginData.FromString(content).session_start_info.hparams["loop.lr"].number_value == 0.01
    assert not any("machine" in line["kind"] for line in lines)  # equal runs have equal journals


def leveldb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a file in LevelDB's log format, as Weights & Biases writes it after 7 bytes of its own."""
    block, place, begun = 32 * 1024, 7, b""
    data = bytes(7) + data  # blocks are counted from the start of the file
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        begun += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield begun
            begun = b""


@pytest.mark.slow
def test_wandb_offline_has_scalars_pictures_and_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    for epochs in (1, 2):
        lines = trained(tmp_path / "run", "wandb", epochs=epochs)
    wandb.teardown()  # its process writes the last records after a run has finished
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    found: list[dict[str, Any]] = []
    configs: dict[str, Any] = {}
    for file in files:
        for record in map(Record.FromString, leveldb_records(file.read_bytes()[7:])):
            items = record.history.item if record.HasField("history") else ()
            found.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
            configs |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    known = json.loads((tmp_path / "run" / "loggers.json").read_text())["wandb"]
    assert {file.stem for file in files} == {f"run-{known}"}  # the second process went on with the same run
    losses = [(row["step"], row["train/total"]) for row in found if "train/total" in row]
    assert losses == [(line["step"], line["total"]) for line in lines if line["kind"] == "train"]
    assert any("machine/steps_per_s" in row for row in found)
    assert any(row.get("panels/val/1._type") == "image-file" for row in found)
    assert configs["loop.lr"] == 0.01 and configs["world"] == 1


@pytest.mark.slow
def test_mlflow_has_scalars_pictures_and_parameters_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    for epochs in (1, 2):
        lines = trained(tmp_path / "run", "mlflow", epochs=epochs)
    client: Any = MlflowClient(tracking_uri=(tmp_path / "run" / "mlruns").as_uri())
    known = json.loads((tmp_path / "run" / "loggers.json").read_text())["mlflow"]
    logged = client.get_run(known)
    losses = [(metric.step, metric.value) for metric in client.get_metric_history(known, "train/total")]
    assert sorted(losses) == [(line["step"], line["total"]) for line in lines if line["kind"] == "train"]
    assert logged.data.params["loop.lr"] == "0.01" and "machine/memory_gb" in logged.data.metrics
    assert logged.info.status == "FINISHED" and logged.info.run_name == "run"
    assert [file.path for file in client.list_artifacts(known, "panels/val")] == ["panels/val/1.png"]


class Fake(types.ModuleType):
    """A package of Weights & Biases that fails where it is told to, with an error of a network."""

    def __init__(self, fails_at: str) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.util.spec_from_loader("wandb", None, origin="made by a test")
        self.fails_at, self.seen = fails_at, list[Any]()

    def _do(self, what: str) -> None:
        self.seen.append(what)
        if what == self.fails_at:
            raise ConnectionError(f"no route to host at {what}")

    def init(self, **given: Any) -> Fake:
        self._do("init")
        return self

    def Settings(self, **given: Any) -> None: ...  # as the package calls it

    def define_metric(self, *given: Any, **more: Any) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        self._do("log")

    def Image(self, *given: Any, **more: Any) -> str:
        return "image"

    def finish(self, exit_code: int) -> None:
        self._do(f"finish {exit_code}")


def test_a_service_that_fails_in_mid_run_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake := Fake("log"))
    with pytest.warns(UserWarning, match="wandb: no route to host at log; the run goes on without it"):
        lines = trained(tmp_path, "wandb")
    assert len([line for line in lines if line["kind"] == "train"]) == 5
    assert fake.seen == ["init", "log"]


def test_a_service_that_does_not_start_ends_the_run_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Fake("init"))
    with pytest.raises(TrainingError, match=r"wandb did not start \(no route to host at init\); log in .*offline"):
        trained(tmp_path, "wandb")
    assert (tmp_path / JOURNAL).read_text() == ""


def test_a_run_that_ends_early_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake := Fake(""))
    with pytest.raises(KeyboardInterrupt), Loggers(tmp_path, ["wandb"]) as loggers:
        loggers.start(0, {})
        raise KeyboardInterrupt
    assert fake.seen == ["init", "finish 1"]
    trained(tmp_path / "whole", "wandb")
    assert fake.seen[-1] == "finish 0"


def test_settings_name_loggers_and_the_older_switch_still_works() -> None:
    assert LoopConfig().chosen_loggers == ("tensorboard",)
    assert LoopConfig(tensorboard=False).chosen_loggers == ()
    assert LoopConfig(loggers=("wandb", "tensorboard"), tensorboard=False).chosen_loggers == ("wandb",)
    with pytest.raises(ValidationError):
        LoopConfig.model_validate({"loggers": ["comet"]})


def request(root: Path, out: Path, **loop: Any) -> TrainRequest:
    config = cra_settings(
        data={"batch": 2},
        model={"front": False, "back": False},
        loop={"epochs": 1, "threads": 1, "device": "cpu", "schedule": "constant", **loop},
    )
    version = choose_version(root, out).version
    return TrainRequest(
        method="cra", store=str(root), version=version, out=str(out), settings=config.model_dump(mode="json")
    )


def test_a_package_that_is_missing_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, found = small_world(tmp_path / "store"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "mlflow" else found(name))
    asked = request(root, tmp_path / "run", loggers=["mlflow"])
    line = "loop.loggers: mlflow needs the package mlflow-skinny: pip install '.[mlflow]', or leave it out"
    assert check(asked).obstacles == (line,)
    with pytest.raises(TrainingError) as refused:
        run(asked)
    assert str(refused.value) == line and not (tmp_path / "run" / JOURNAL).exists()
    folder = importlib.machinery.ModuleSpec("mlflow", None, is_package=True)  # no package, and Python imports it
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: folder if name == "mlflow" else found(name))
    with pytest.raises(TrainingError, match="mlflow needs the package mlflow-skinny"):
        require_packages(["mlflow"])


@pytest.mark.filterwarnings("ignore:video")  # the store knows no file of its videos
def test_panels_and_final_scores_reach_the_loggers_and_a_run_may_go_on_with_others(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    root, out = small_world(tmp_path / "store"), tmp_path / "run"
    first = run(request(root, out, loggers=[]))
    assert not (out / "tensorboard").exists()
    with pytest.warns(UserWarning, match="panel of v4_0: video 'v4': the store does not know its source"):
        again = run(request(root, out, loggers=["tensorboard"], panels=2))
    assert again.metrics == first.metrics and again.steps == first.steps
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    (accuracy,) = events.Scalars("best/val/acc_vqa")
    assert (accuracy.step, accuracy.value) == (first.steps, pytest.approx(first.metrics["val"]["acc_vqa"]))
    assert "panels/val/1" in events.Tags()["images"]

"""Where a run also logs, beside its own files: TensorBoard, Weights & Biases, MLflow.

Each is imported only by a run that asks for it (``loop.loggers``). They get scalars, hyper-parameters and pictures;
what a run resumes from, and what its page shows, are the run's own files alone.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import socket
import tempfile
import time
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from settings.files import read_text
from settings.messages import one_line
from trainers.errors import TrainingError
from trainers.folder import replace_file, writing

LoggerName = Literal["tensorboard", "wandb", "mlflow"]
Value = bool | int | float | str
"""A hyper-parameter."""

_PACKAGES: Mapping[LoggerName, str] = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow-skinny"}
_IDS = "loggers.json"
"""The ids under which the services know a run, so that it goes on under them."""
_PROJECT = "reelstore"
_LONGEST = 500  # characters of a parameter that every MLflow server takes
_MOST_PARAMETERS = 100  # in one request to MLflow


class Logger(ABC):
    """One place to log to."""

    @abstractmethod
    def start(self, step: int, parameters: Mapping[str, Value]) -> None:
        """Begin, or go on after an optimiser step, with all hyper-parameters."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of an optimiser step."""

    @abstractmethod
    def image(self, step: int, name: str, png: bytes, caption: str) -> None:
        """Log a picture."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """End; ``finished`` says whether the run came to its end."""


class Loggers:
    """The loggers of a run, which all get the same; none gets anything before ``start``.

    If a service fails in mid-run, a warning says so and the run goes on without it. If the disk fails below the folder
    of the run, that ends the run as any other file of it would.

    Parameters
    ----------
    folder
        Folder of the run.
    names
        Whom to tell.

    Raises
    ------
    TrainingError
        If a package is missing.
    """

    def __init__(self, folder: Path, names: Sequence[LoggerName] = ()) -> None:
        require_packages(names)
        self._folder = folder
        self._names = list(dict.fromkeys(names))
        self._open: dict[str, Logger] = {}
        self._finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        opened, self._open = self._open, {}
        for logger in opened.values():
            logger.close(self._finished)

    def start(self, step: int, settings: Mapping[str, Any]) -> None:
        """Open all loggers with the settings of the run, flattened to names such as ``loop.lr``.

        Raises
        ------
        TrainingError
            If a service cannot be reached or refuses.
        OSError
            If the disk fails; the error names the file.
        """
        parameters = dict(flattened(settings))
        kinds: Mapping[LoggerName, Callable[[Path], Logger]] = {
            "tensorboard": _TensorBoard,
            "wandb": _Wandb,
            "mlflow": _Mlflow,
        }
        for name in self._names:
            self._folder.mkdir(parents=True, exist_ok=True)
            logger = kinds[name](self._folder)
            try:
                logger.start(step, parameters)
            except Exception as error:
                if self._is_of_disk(error) or isinstance(error, TrainingError):
                    raise
                # Their packages raise errors of many kinds, which have no class in common.
                raise TrainingError(f"loop.loggers: {name} did not start ({one_line(error)}){_REMEDY[name]}") from error
            self._open[name] = logger

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log values of an optimiser step."""
        self._tell(lambda logger: logger.scalars(step, values))

    def image(self, step: int, name: str, png: bytes, caption: str) -> None:
        """Log a PNG under a name such as ``panels/val/1``."""
        self._tell(lambda logger: logger.image(step, name, png, caption))

    def finish(self) -> None:
        """Say that the run came to its end; otherwise it counts as stopped."""
        self._finished = True

    def _is_of_disk(self, error: Exception) -> bool:
        """Return whether a file below the folder of the run failed; errors of a network are OSErrors, too."""
        file = error.filename if isinstance(error, OSError) else None
        return isinstance(file, str) and self._folder in Path(file).parents

    def _tell(self, what: Callable[[Logger], None]) -> None:
        for name, logger in list(self._open.items()):
            try:
                what(logger)
            except Exception as error:
                if self._is_of_disk(error):
                    raise
                del self._open[name]
                warnings.warn(f"{name}: {one_line(error)}; the run goes on without it", stacklevel=4)


_REMEDY: Mapping[str, str] = {
    "tensorboard": "",
    "wandb": "; log in with `wandb login`, or set WANDB_MODE=offline and sync later",
    "mlflow": "; see that MLFLOW_TRACKING_URI names a server that can be reached, or unset it",
}


def require_packages(names: Sequence[LoggerName]) -> None:
    """Raise TrainingError if the package of a logger is not installed; import none."""
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:  # a folder of this name, such as services leave, is no package
            extra = "train" if name == "tensorboard" else name
            raise TrainingError(
                f"loop.loggers: {name} needs the package {_PACKAGES[name]}: pip install '.[{extra}]', or leave it out"
            )


def flattened(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield settings by name with dots between the parts; lists and null as JSON."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, Value) else json.dumps(value)


class _TensorBoard(Logger):
    """A TensorBoard event file, written at once.

    TensorBoard's own writer has a thread, which prints a traceback when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        # Slow to import, and not needed by every run.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter
        from torch.utils.tensorboard import summary

        self._event: Callable[..., Any] = Event
        self._session: Any = SessionLog
        self._summary: Any = summary
        self._writer: Callable[..., Any] = RecordWriter
        self._folder = folder / "tensorboard"

    def start(self, step: int, parameters: Mapping[str, Value]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._path = self._folder / name
        self._file = self._path.open("ab")
        self._records = self._writer(self._file)
        self._add(file_version="brain.Event:2")
        # TensorBoard then leaves out what an earlier process logged after the checkpoint.
        self._add(step=step + 1, session_log=self._session(status=self._session.START))
        for summary in self._summary.hparams(dict(parameters), {}):
            self._add(step=step + 1, summary=summary)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._add(step=step, summary=self._summary.scalar(name, value))

    def image(self, step: int, name: str, png: bytes, caption: str) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")  # of the PNG's first chunk
        picture = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._add(step=step, summary=Summary(value=[Summary.Value(tag=name, image=picture)]))

    def _add(self, **fields: Any) -> None:
        with writing(self._path):
            self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
            self._file.flush()

    def close(self, finished: bool) -> None:
        with writing(self._path):
            self._file.close()


class _Wandb(Logger):
    """Weights & Biases, as its environment says (``WANDB_MODE``, ``WANDB_PROJECT``); files are in the run's folder."""

    def __init__(self, folder: Path) -> None:
        import wandb

        self._wandb: Any = wandb
        self._folder = folder

    def start(self, step: int, parameters: Mapping[str, Value]) -> None:
        self._run: Any = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", self._folder.name),
            id=_id_of(self._folder, "wandb", lambda: uuid.uuid4().hex[:16]),
            resume="allow",
            dir=str(self._folder),
            config=dict(parameters),
            # What a run prints is its own; a run of which the steps repeat after a crash is drawn by ``step``.
            settings=self._wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, png: bytes, caption: str) -> None:
        from PIL import Image

        self._run.log({"step": step, name: self._wandb.Image(Image.open(io.BytesIO(png)), caption=caption)})

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class _Mlflow(Logger):
    """MLflow: the server that ``MLFLOW_TRACKING_URI`` names, else files below ``mlruns`` in the run's folder."""

    def __init__(self, folder: Path) -> None:
        own = (folder / "mlruns").absolute().as_uri()
        # MLflow asks for this word before it writes files; a run's folder has no database and no server.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        self._entities: Any = entities
        self._client: Any = MlflowClient(tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", own))
        self._folder = folder

    def start(self, step: int, parameters: Mapping[str, Value]) -> None:
        self._run = _id_of(self._folder, "mlflow", self._created)
        self._client.update_run(self._run, status="RUNNING")
        own = [self._entities.Param(_plain(name), str(value)[:_LONGEST]) for name, value in parameters.items()]
        known = self._client.get_run(self._run).data.params  # they cannot be written twice
        new = [parameter for parameter in own if parameter.key not in known]
        for start in range(0, len(new), _MOST_PARAMETERS):
            self._client.log_batch(self._run, params=new[start : start + _MOST_PARAMETERS])

    def _created(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        known = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        return str(self._client.create_run(experiment, run_name=self._folder.name).info.run_id)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._entities.Metric(_plain(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def image(self, step: int, name: str, png: bytes, caption: str) -> None:
        folder, _, stem = _plain(name).rpartition("/")
        with tempfile.TemporaryDirectory() as made:
            path = Path(made) / f"{stem}.png"
            path.write_bytes(png)
            self._client.log_artifact(self._run, str(path), folder or None)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._run, status="FINISHED" if finished else "KILLED")


def _plain(name: str) -> str:
    """Return a name with an underscore for what MLflow takes in no name."""
    return re.sub(r"[^\w\-. /]", "_", name)


def _id_of(folder: Path, service: str, new: Callable[[], str]) -> str:
    """Return the id under which a service knows the run in a folder; make one for a run that it does not know."""
    path = folder / _IDS
    try:
        ids: dict[str, str] = json.loads(read_text(path)) if path.exists() else {}
        known = ids.get(service)
    except (ValueError, AttributeError, RecursionError) as error:
        raise TrainingError(f"{path}: not readable ({one_line(error)}); remove it to log as a new run") from error
    if known is None:
        known = new()
        replace_file(path, (json.dumps({**ids, service: known}) + "\n").encode())
    return known

"""Runs every stage of one dataset, incrementally: videos, questions, embeddings, dictionaries.

Each stage plans for itself and computes only what changed, so a refresh of an unchanged dataset is four short plans.
The settings of the stages are in ``pipeline/extract/config.py``, ``pipeline/parse/config.py`` and
``pipeline/cluster/run.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

import settings
from parsers.annotations import FORMATS
from pipeline.cluster import ClusterConfig, ClusterRequest, EncoderConfig, cluster, embed, option_texts
from pipeline.extract import ExtractRequest, extract, load_config
from pipeline.parse import ParseConfig, ParseRequest, parse
from pipeline.shared import ExecutorName, StageRequest, StageResult, Terminal, UsageError
from settings import Section
from settings.messages import available, nearest
from stores import Store
from stores.describe import DictionaryKind
from stores.errors import StoreError


class VideoStage(Section):
    """The arguments of ``jobs/extract.py``."""

    source: str
    """A directory, glob or table of videos."""
    preset: str | None = None
    """Name of a preset."""
    config: Path | None = None
    """A configuration file instead of a preset."""
    set: tuple[str, ...] = ()
    """Overrides, each ``a.b=c``."""


class AnnotationStage(Section):
    """The arguments of ``jobs/parse.py`` for one file."""

    path: str
    """An annotation file, or a folder that holds it under its official name."""
    format: str
    """Format of the file."""
    split: Annotated[str, Field(min_length=1)]
    """Split of its questions."""
    dataset: str | None = None
    """The dataset's name in the store; the format's if not given."""
    graphs: bool = True
    """Whether to make graphs of its questions."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, name: str) -> str:
        if name not in FORMATS:
            raise ValueError(f"annotations: format {name!r}: unknown; {available(FORMATS)}{nearest(name, FORMATS)}")
        return name


class DictionaryStage(Section):
    """The arguments of ``jobs/cluster.py`` for one dictionary."""

    kind: DictionaryKind
    """``linguistic`` or ``visual``."""
    feature: str | None = None
    """The feature of a visual dictionary; the only one that can be clustered if not given."""
    dataset: str | None = None
    """The dataset; the only one with questions of the split if not given."""
    split: str = "train"
    """The split whose questions choose the members."""
    settings: ClusterConfig = ClusterConfig()
    """How the dictionary is made."""


class Dataset(Section):
    """One dataset: where its videos and questions are, and what is made of them. Paths are relative to the file."""

    store: str
    """The store directory."""
    videos: VideoStage | None = None
    """The videos and their features."""
    annotations: tuple[AnnotationStage, ...] = ()
    """The annotation files."""
    parse: ParseConfig = ParseConfig()
    """How all of them are parsed."""
    option_embeddings: tuple[EncoderConfig, ...] = ()
    """Text encoders that embed questions and options."""
    dictionaries: tuple[DictionaryStage, ...] = ()
    """The dictionaries to make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshResult(StageResult):
    """How a refresh ended: the result of each stage, by its name, in the order in which they ran."""

    stages: Mapping[str, StageResult] = field(default_factory=dict)

    @property
    def incomplete(self) -> bool:
        return any(stage.incomplete for stage in self.stages.values())

    def summary(self) -> dict[str, Any]:
        return {name: stage.summary() for name, stage in self.stages.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult(StageResult):
    """How embedding the questions' options ended: the number of texts, and the spec of their encoder."""

    texts: int
    encoder: Mapping[str, Any]

    @property
    def incomplete(self) -> bool:
        return False

    def summary(self) -> dict[str, Any]:
        return {"texts": self.texts, "encoder": dict(self.encoder)}


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingResult(StageResult):
    """A stage that cannot be planned before the stages that it needs have run."""

    reason: str

    @property
    def incomplete(self) -> bool:
        return False

    def summary(self) -> dict[str, Any]:
        return {"waits": self.reason}


def load_dataset(path: Path, overrides: Sequence[str] = ()) -> Dataset:
    """Read a dataset file; its relative paths become absolute.

    Raises
    ------
    settings.SettingsError
        With one line that names the file and the key.
    """
    raw = settings.read_yaml(path, str(path))
    for assignment in overrides:
        settings.override(raw, assignment)
    dataset = settings.validate(Dataset, raw, str(path))
    folder = path.absolute().parent
    videos = dataset.videos and dataset.videos.model_copy(
        update={
            "source": _from(folder, dataset.videos.source),
            "config": dataset.videos.config and folder / dataset.videos.config,
        }
    )
    annotations = tuple(
        annotation.model_copy(update={"path": _from(folder, annotation.path)}) for annotation in dataset.annotations
    )
    stanza, conllu = dataset.parse.stanza, dataset.parse.conllu
    parse = dataset.parse.model_copy(
        update={
            "stanza": stanza.model_copy(update={"dir": stanza.dir and folder / stanza.dir}),
            "conllu": conllu and folder / conllu,
        }
    )
    update = {"store": _from(folder, dataset.store), "videos": videos, "annotations": annotations, "parse": parse}
    return dataset.model_copy(update=update)


def _from(folder: Path, location: str) -> str:
    return location if "://" in location else str(folder / location)


def refresh(
    dataset: Dataset,
    executor: ExecutorName = "auto",
    plan_only: bool = False,
    terminal: Terminal | None = None,
) -> RefreshResult:
    """Run every stage in order. A stage that leaves rows missing does not stop the next one; a signal stops them all.

    Raises
    ------
    UsageError, StoreError, OSError
        If the user must change something first.
    """
    stages: dict[str, StageResult] = {}
    common = StageRequest(store=dataset.store, executor=executor, plan_only=plan_only)
    for name, result in _run_stages(dataset, common, terminal or Terminal()):
        stages[name] = result
        if result.stopped_by is not None:
            return RefreshResult(stages=stages, stopped_by=result.stopped_by)
    return RefreshResult(stages=stages)


def _run_stages(dataset: Dataset, common: StageRequest, terminal: Terminal) -> Iterator[tuple[str, StageResult]]:
    """Yield name and result of each stage; ``common`` is what all of their requests share."""
    if dataset.videos is not None:
        terminal.line(f"videos: {dataset.videos.source}")
        yield "videos", _extract(dataset.videos, common, terminal)
    for annotation in dataset.annotations:
        terminal.line(f"questions: {annotation.path} ({annotation.format}, {annotation.split})")
        name = f"questions {annotation.dataset or annotation.format}/{annotation.split}"
        yield name, _parse(annotation, dataset.parse, common, terminal)
    for encoder in dataset.option_embeddings:
        terminal.line(f"option embeddings: {encoder.name}")
        yield f"option embeddings {encoder.name}", _run_or_wait(partial(_embed, encoder, common), common, terminal)
    for stage in dataset.dictionaries:
        terminal.line(f"dictionary: {stage.kind}")
        yield f"dictionary {stage.kind}", _run_or_wait(partial(_cluster, stage, common, terminal), common, terminal)


def _extract(stage: VideoStage, common: StageRequest, terminal: Terminal) -> StageResult:
    config = load_config(stage.preset, stage.config, stage.set)
    return extract(
        ExtractRequest(
            store=common.store,
            executor=common.executor,
            plan_only=common.plan_only,
            source=stage.source,
            config=config,
        ),
        terminal,
    )


def _parse(stage: AnnotationStage, config: ParseConfig, common: StageRequest, terminal: Terminal) -> StageResult:
    without_graphs = config.model_copy(update={"graph": config.graph.model_copy(update={"enabled": False})})
    return parse(
        ParseRequest(
            store=common.store,
            executor=common.executor,
            plan_only=common.plan_only,
            annotations=stage.path,
            format=stage.format,
            split=stage.split,
            config=config if stage.graphs else without_graphs,
            dataset=stage.dataset,
        ),
        terminal,
    )


def _run_or_wait(stage: Callable[[], StageResult], common: StageRequest, terminal: Terminal) -> StageResult:
    """Run a stage; for a plan only, its input may not be there yet."""
    try:
        return stage()
    except (UsageError, StoreError) as error:
        if not common.plan_only:
            raise
        terminal.line(f"not planned yet; it needs the stages before it to have run: {error}")
        return WaitingResult(reason=str(error))


def _embed(config: EncoderConfig, common: StageRequest) -> StageResult:
    encoder = config.build()
    with Store.open(common.store, lease=False) as store:
        texts = option_texts(store.table("questions"))
    if not common.plan_only:
        embed(Path(common.store), encoder, texts)
    return EmbedResult(texts=len(texts), encoder=encoder.spec())


def _cluster(stage: DictionaryStage, common: StageRequest, terminal: Terminal) -> StageResult:
    return cluster(
        ClusterRequest(
            store=common.store,
            executor=common.executor,
            plan_only=common.plan_only,
            kind=stage.kind,
            config=stage.settings,
            feature=stage.feature,
            dataset=stage.dataset,
            split=stage.split,
        ),
        terminal,
    )

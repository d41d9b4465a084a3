"""Every stage of one dataset, incrementally: videos, questions, embeddings, dictionaries.

Each stage plans for itself and computes only what changed, so a refresh of an unchanged dataset is four short plans.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

import settings
from pipeline.clustering import ClusterConfig, ClusterRequest, cluster
from pipeline.config import load_config
from pipeline.embedding import EncoderConfig, embed, option_texts
from pipeline.errors import UsageError
from pipeline.parsing import ParseRequest, run_parse
from pipeline.parsing_config import ParseConfig
from pipeline.report import Reporter
from pipeline.run import ExecutorName, Request, run
from stores import Store
from stores.errors import StoreError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VideoStage(_Section):
    """What ``jobs/extract.py`` is told; ``set`` holds its ``a.b=c`` overrides."""

    source: str
    preset: str | None = None
    config: Path | None = None
    set: tuple[str, ...] = ()


class AnnotationStage(_Section):
    """What ``jobs/parse.py`` is told of one file."""

    path: str
    format: Literal["nextgqa", "star", "music_avqa", "table"]
    split: Annotated[str, Field(min_length=1)]
    dataset: str | None = None
    graphs: bool = True


class DictionaryStage(_Section):
    """What ``jobs/cluster.py`` is told of one dictionary."""

    kind: Literal["linguistic", "visual"]
    feature: str | None = None
    dataset: str | None = None
    split: str = "train"
    settings: ClusterConfig = ClusterConfig()


class Dataset(_Section):
    """One dataset: where its videos and questions are, and what is made of them. Paths are relative to the file."""

    store: str
    videos: VideoStage | None = None
    annotations: tuple[AnnotationStage, ...] = ()
    parse: ParseConfig = ParseConfig()
    option_embeddings: tuple[EncoderConfig, ...] = ()
    dictionaries: tuple[DictionaryStage, ...] = ()


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """``exit_code`` as of a single job; ``summary`` maps stages to theirs."""

    exit_code: int
    summary: dict[str, Any]


def load_dataset(path: Path, overrides: Sequence[str] = ()) -> Dataset:
    """Read a dataset file; its relative paths become absolute.

    Raises
    ------
    settings.SettingsError
        With one line that names the file and the key.
    """
    raw = settings.read_yaml(path, str(path))
    for each in overrides:
        settings.override(raw, each)
    dataset = settings.validate(Dataset, raw, str(path))
    folder = path.absolute().parent
    videos = dataset.videos and dataset.videos.model_copy(
        update={
            "source": _from(folder, dataset.videos.source),
            "config": dataset.videos.config and folder / dataset.videos.config,
        }
    )
    annotations = tuple(each.model_copy(update={"path": _from(folder, each.path)}) for each in dataset.annotations)
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
    allow_failures: bool = False,
    reporter: Reporter | None = None,
) -> RefreshResult:
    """Run every stage in order. A stage that leaves rows missing does not stop the next; a signal stops all.

    Raises
    ------
    UsageError, StoreError
        For anything that a user must change first.
    """
    reporter = reporter or Reporter()
    code, summary = 0, dict[str, Any]()
    for name, (stage_code, stage_summary) in _stages(dataset, executor, plan_only, allow_failures, reporter):
        summary[name] = stage_summary
        if stage_code > 128:
            return RefreshResult(stage_code, summary)
        code = max(code, stage_code)
    return RefreshResult(code, summary)


_Outcome = tuple[int, Mapping[str, Any]]


def _stages(
    dataset: Dataset, executor: ExecutorName, plan_only: bool, allow_failures: bool, reporter: Reporter
) -> Iterator[tuple[str, _Outcome]]:
    videos = dataset.videos
    if videos is not None:
        reporter.line(f"videos: {videos.source}")
        config = load_config(videos.preset, videos.config, videos.set)
        request = Request(videos.source, dataset.store, config, executor, plan_only, allow_failures)
        done = run(request, reporter)
        yield "videos", (done.exit_code, done.summary)
    for annotation in dataset.annotations:
        reporter.line(f"questions: {annotation.path} ({annotation.format}, {annotation.split})")
        parsed = run_parse(
            ParseRequest(
                annotations=annotation.path,
                format=annotation.format,
                split=annotation.split,
                store=dataset.store,
                config=dataset.parse if annotation.graphs else _without_graphs(dataset.parse),
                dataset=annotation.dataset,
                executor=executor,
                plan_only=plan_only,
                allow_failures=allow_failures,
            ),
            reporter,
        )
        name = f"questions {annotation.dataset or annotation.format}/{annotation.split}"
        yield name, (parsed.exit_code, parsed.summary)
    for encoder in dataset.option_embeddings:
        reporter.line(f"option embeddings: {encoder.name}")
        yield f"option embeddings {encoder.name}", _waiting(plan_only, reporter, _embed, dataset, encoder, plan_only)
    for stage in dataset.dictionaries:
        reporter.line(f"dictionary: {stage.kind}")
        outcome = _waiting(plan_only, reporter, _cluster, dataset, stage, plan_only, allow_failures, reporter)
        yield f"dictionary {stage.kind}", outcome


def _without_graphs(config: ParseConfig) -> ParseConfig:
    return config.model_copy(update={"graph": config.graph.model_copy(update={"enabled": False})})


def _waiting(plan_only: bool, reporter: Reporter, stage: Any, *arguments: Any) -> _Outcome:
    """Run a stage; a plan may find that what it works on is not there yet."""
    try:
        outcome: _Outcome = stage(*arguments)
    except (UsageError, StoreError) as error:
        if not plan_only:
            raise
        reporter.line(f"waits for the stages before it: {error}")
        return 0, {"waits": str(error)}
    return outcome


def _embed(dataset: Dataset, config: EncoderConfig, plan_only: bool) -> _Outcome:
    encoder = config.build()
    with Store.open(dataset.store, lease=False) as store:
        texts = option_texts(store.table("questions"))
    if not plan_only:
        embed(Path(dataset.store), encoder, texts)
    return 0, {"texts": len(texts), "encoder": encoder.spec()}


def _cluster(
    dataset: Dataset, stage: DictionaryStage, plan_only: bool, allow_failures: bool, reporter: Reporter
) -> _Outcome:
    request = ClusterRequest(
        store=dataset.store,
        kind=stage.kind,
        config=stage.settings,
        feature=stage.feature,
        dataset=stage.dataset,
        split=stage.split,
        plan_only=plan_only,
        allow_failures=allow_failures,
    )
    done = cluster(request, reporter)
    return done.exit_code, done.summary

"""The stages of a dataset: what each needs, how it is checked before anything starts, and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from extractors import ExtractorError, UnreachableError
from pipeline.cluster import (
    WITHOUT_NETWORK,
    ClusterRequest,
    EncoderConfig,
    cluster,
    embed,
    missing_texts,
    option_texts,
    part_name,
)
from pipeline.extract import Config, ExtractRequest, PlanOptions, extract, load_config, ready_features
from pipeline.parse import ParseConfig, ParseRequest, parse
from pipeline.refresh.dataset import AnnotationStage, Dataset, DictionaryStage, VideoStage
from pipeline.shared import StageRequest, StageResult, StopRequestedError, StopSignals, Terminal, UsageError
from settings.messages import available, plural
from stores import Store
from stores.commit import Changes, commit
from stores.describe import stored_dictionaries, write_card
from stores.errors import StoreNotFoundError
from stores.upkeep import compact as merge_shards

_OF_SPLITS = ("questions", "graphs", "annotation_report")
"""Tables whose parts are named ``<dataset>/<split>``."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a refresh.

    Attributes
    ----------
    name
        Its name in results, unique in a dataset.
    title
        What a person reads when it begins.
    needs
        Names of the stages that must not fail before it.
    check
        Yields what is missing, without starting anything; may also raise it.
    run
        Runs or plans it.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    check: Callable[[StageRequest], Iterator[str]]
    run: Callable[[StageRequest, Terminal], StageResult]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult(StageResult):
    """How embedding the questions' options ended: the number of texts, the new ones, and the spec of their encoder."""

    texts: int
    computed: int
    encoder: Mapping[str, Any]

    @property
    def incomplete(self) -> bool:
        return False

    @property
    def has_work(self) -> bool:
        return self.computed > 0

    def summary(self) -> dict[str, Any]:
        stopped = {} if self.stopped_by is None else {"stopped_by": self.stopped_by}
        return {"texts": self.texts, "computed": self.computed, "encoder": dict(self.encoder), **stopped}


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftResult(StageResult):
    """What is in the store though it left the dataset file, as ``<table> <part>`` to its number of rows."""

    left: Mapping[str, int] = field(default_factory=dict)
    pruned: bool = False

    @property
    def incomplete(self) -> bool:
        return False

    @property
    def has_work(self) -> bool:
        return self.pruned and bool(self.left)

    def summary(self) -> dict[str, Any]:
        return {"left": dict(self.left), "pruned": self.pruned}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactResult(StageResult):
    """How many small shards were merged, or would be, into how many, and the number of rows copied."""

    shards_before: int = 0
    shards_after: int = 0
    rows: int = 0

    @property
    def incomplete(self) -> bool:
        return False

    @property
    def has_work(self) -> bool:
        return self.shards_before > 0

    def summary(self) -> dict[str, Any]:
        return {"shards_before": self.shards_before, "shards_after": self.shards_after, "rows": self.rows}


def make_stages(
    dataset: Dataset,
    options: PlanOptions,
    replace: bool = False,
    strict: bool = False,
    compact: bool = True,
    allow_code: bool = False,
) -> list[Stage]:
    """Return the stages of a dataset in the order in which they run; the options are those of ``refresh``."""
    stages = []
    if dataset.videos is not None:
        videos = dataset.videos
        run = partial(_extract, videos, options, allow_code)
        stages.append(Stage("videos", f"videos: {videos.source}", (), partial(_check_videos, videos, allow_code), run))
    for annotation in dataset.annotations:
        files = ", ".join(annotation.files)
        title = f"questions: {files} ({annotation.format}, {annotation.split})"
        make = partial(_parse_request, annotation, dataset.parse, replace, strict)
        name = f"questions {annotation.part}"
        stages.append(Stage(name, title, (), partial(_check_questions, make), partial(_parse, make)))
    questions = tuple(stage.name for stage in stages if stage.name != "videos")
    if dataset.annotations:
        parts = {annotation.part for annotation in dataset.annotations}
        title = "what left the dataset file"
        stages.append(Stage("left", title, (), _check_nothing, partial(_leave, parts, options.prune)))
    for name, encoder in _named_encoders(dataset):
        title = f"option embeddings: {encoder.name}"
        stages.append(Stage(name, title, questions, partial(_check_encoder, encoder), partial(_embed, encoder)))
    for name, dictionary in _named_dictionaries(dataset):
        title = f"dictionary: {name.removeprefix('dictionary ')}"
        needs = tuple(stage for stage in questions if _may_need(dictionary, stage))
        needs = ("videos", *needs) if dictionary.kind == "visual" and dataset.videos is not None else needs
        check = partial(_check_dictionary, dictionary, dataset, allow_code)
        stages.append(Stage(name, title, needs, check, partial(_cluster, dictionary)))
    above = dataset.compact.above if compact and dataset.videos is not None else None
    if above is not None:
        stages.append(Stage("shards", "small shards", (), _check_nothing, partial(_compact, above)))
    return stages


def _named_encoders(dataset: Dataset) -> list[tuple[str, EncoderConfig]]:
    names = [encoder.name for encoder in dataset.option_embeddings]
    return [
        (f"option embeddings {encoder.name}" + (f" {number}" if names.count(encoder.name) > 1 else ""), encoder)
        for number, encoder in enumerate(dataset.option_embeddings)
    ]


def _named_dictionaries(dataset: Dataset) -> list[tuple[str, DictionaryStage]]:
    """Return the dictionaries, named by their kind, and by what they are made of if there are several of a kind."""
    kinds = [dictionary.kind for dictionary in dataset.dictionaries]
    named = []
    for dictionary in dataset.dictionaries:
        made_of = [text for text in (dictionary.dataset, dictionary.split, dictionary.feature) if text is not None]
        several = kinds.count(dictionary.kind) > 1
        named.append((f"dictionary {dictionary.kind}" + (f" {'/'.join(made_of)}" if several else ""), dictionary))
    return named


def _may_need(dictionary: DictionaryStage, stage: str) -> bool:
    dataset, _, split = stage.removeprefix("questions ").partition("/")
    return split == dictionary.split and dictionary.dataset in (None, dataset)


def _check_nothing(common: StageRequest) -> Iterator[str]:
    yield from ()


def _check_videos(stage: VideoStage, allow_code: bool, common: StageRequest) -> Iterator[str]:
    config = _config_of(stage, allow_code)
    is_pattern = any(letter in stage.source for letter in "*?[")
    if "://" not in stage.source and not is_pattern and not Path(stage.source).exists():
        yield f"{stage.source}: no such file or folder"
    features = ready_features(config)
    with _latest(common) as store:
        for name, feature in features.items():
            known = store is not None and store.manifest.spec_entry(name, feature.spec_digest).rows
            if not known:  # rows of this spec prove that its weights can be had
                try:
                    feature.extractor.load("cpu")
                except ExtractorError as error:
                    yield f"features.{name}: {error}"


def _check_questions(make: Callable[[StageRequest], ParseRequest], common: StageRequest) -> Iterator[str]:
    parse(make(replace(common, plan_only=True)), Terminal(quiet=True))
    yield from ()


def _check_encoder(config: EncoderConfig, common: StageRequest) -> Iterator[str]:
    encoder = config.build()
    encoder.spec()
    with _latest(common) as store:
        tables = [] if store is None else store.tables
        if store is None or "embeddings" not in tables or part_name(encoder) not in store.parts("embeddings"):
            try:
                encoder.load("cpu")
            except UnreachableError as error:
                yield f"{error.reason}; {WITHOUT_NETWORK}"


def _check_dictionary(
    stage: DictionaryStage, dataset: Dataset, allow_code: bool, common: StageRequest
) -> Iterator[str]:
    with _latest(common) as store:
        parts = {annotation.part for annotation in dataset.annotations}
        features = set() if store is None else set(store.features)
        if store is not None and "questions" in store.tables:
            parts |= set(store.parts("questions"))
    if stage.dataset is not None and f"{stage.dataset}/{stage.split}" not in parts:
        yield f"no questions of {stage.dataset}/{stage.split} ({available(sorted(parts))})"
    elif not any(part.endswith(f"/{stage.split}") for part in parts):
        yield f"no questions of split {stage.split!r} ({available(sorted(parts))})"
    if stage.kind == "visual":
        try:
            features |= set() if dataset.videos is None else set(_features_of(dataset.videos, allow_code))
        except UsageError:  # said of the videos
            return
        if stage.feature is not None and stage.feature not in features:
            yield f"no feature {stage.feature!r} ({available(sorted(features))})"
    else:
        yield from _check_encoder(stage.settings.encoder, common)


def _features_of(stage: VideoStage, allow_code: bool) -> Mapping[str, object]:
    return _config_of(stage, allow_code).features


def _config_of(stage: VideoStage, allow_code: bool) -> Config:
    return load_config(stage.preset, stage.config, stage.set, allow_code)


@contextmanager
def _latest(common: StageRequest) -> Iterator[Store | None]:
    """Open the store as it is now; give None if there is none yet."""
    try:
        store = Store.open(common.store, lease=False)
    except StoreNotFoundError:
        yield None
        return
    with store:
        yield store


def _extract(
    stage: VideoStage, options: PlanOptions, allow_code: bool, common: StageRequest, terminal: Terminal
) -> StageResult:
    return extract(
        ExtractRequest(
            store=common.store,
            executor=common.executor,
            plan_only=common.plan_only,
            source=stage.source,
            config=_config_of(stage, allow_code),
            options=options,
        ),
        terminal,
    )


def _parse_request(
    stage: AnnotationStage, config: ParseConfig, replace_rows: bool, strict: bool, common: StageRequest
) -> ParseRequest:
    without_graphs = config.model_copy(update={"graph": config.graph.model_copy(update={"enabled": False})})
    return ParseRequest(
        store=common.store,
        executor=common.executor,
        plan_only=common.plan_only,
        annotations=stage.files,
        format=stage.format,
        split=stage.split,
        config=config if stage.graphs else without_graphs,
        dataset=stage.dataset,
        replace=replace_rows,
        strict=strict,
    )


def _parse(make: Callable[[StageRequest], ParseRequest], common: StageRequest, terminal: Terminal) -> StageResult:
    return parse(make(common), terminal)


def _leave(declared: set[str], prune: bool, common: StageRequest, terminal: Terminal) -> StageResult:
    """Name, or drop, the splits of the store that are not in the dataset file, and the dictionaries made of them."""
    with _latest(common) as store:
        if store is None:
            return LeftResult()
        gone = [
            (table, part, entry.rows)
            for table in _OF_SPLITS
            if table in store.tables
            for part, entry in store.parts(table).items()
            if part not in declared
        ]
        for dictionary in stored_dictionaries(store):
            if f"{dictionary.spec['dataset']}/{dictionary.spec['split']}" not in declared:
                tables = (dictionary.table, dictionary.members)
                gone += [
                    (table, dictionary.part, store.parts(table)[dictionary.part].rows)
                    for table in tables
                    if table in store.tables and dictionary.part in store.parts(table)
                ]
    left = {f"{table} {part}".rstrip(): rows for table, part, rows in gone}
    for name, rows in left.items():
        verb = "to drop" if prune else "not in the dataset file (--prune drops it)"
        terminal.line(f"{verb}: {name}, {plural(rows, 'row')}")
    if not left:
        terminal.line("nothing left it")
    if prune and gone and not common.plan_only:
        changes = Changes()
        for table, part, _ in gone:
            changes.tables.setdefault(table, {})[part] = None
        commit(Path(common.store), changes)
        write_card(Path(common.store))
    return LeftResult(left=left, pruned=prune)


def _embed(config: EncoderConfig, common: StageRequest, terminal: Terminal) -> StageResult:
    encoder = config.build()
    with Store.open(common.store, lease=False) as store:
        texts = option_texts(store.table("questions"))
        count = len(missing_texts(store, encoder, texts))
    terminal.line(f"{count} of {plural(len(texts), 'text')} to embed" if count else "nothing to do")
    stopped_by = None
    if not common.plan_only:
        with StopSignals():
            try:
                embed(Path(common.store), encoder, texts, terminal=terminal)
            except StopRequestedError as stop:
                terminal.line(f"stopped by {stop}; run the same command again to continue")
                stopped_by = str(stop)
                with Store.open(common.store, lease=False) as store:
                    count -= len(missing_texts(store, encoder, texts))
    return EmbedResult(texts=len(texts), computed=count, encoder=encoder.spec(), stopped_by=stopped_by)


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


def _compact(above: int, common: StageRequest, terminal: Terminal) -> StageResult:
    """Merge the small shards of a size class that has more than ``above`` of them."""
    with _latest(common) as store:
        if store is None:
            return CompactResult()
    outcome = merge_shards(Path(common.store), above=above, plan_only=common.plan_only)
    shards = plural(outcome.shards_before, "small shard")
    if not outcome.shards_before:
        terminal.line(f"nothing to merge: at most {above} small shards of each size class")
    elif common.plan_only:
        terminal.line(f"{shards} to merge into {outcome.shards_after}, {plural(outcome.rows, 'row')} to copy")
    else:
        terminal.line(f"{shards} merged into {outcome.shards_after}, {plural(outcome.rows, 'row')} copied")
        write_card(Path(common.store))
    return CompactResult(shards_before=outcome.shards_before, shards_after=outcome.shards_after, rows=outcome.rows)

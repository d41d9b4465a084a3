"""Builds a confounder dictionary: members of the training split → vectors → k-means → tables, in one commit."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import settings
from extractors import ExtractorError, check_code
from parsers import Dictionary, DictionaryError, KMeansParameters, Vectors, fit_dictionary
from parsers.components import EDGES, NODES
from parsers.confounders import record, too_few_members
from pipeline.cluster.embedding import EncoderConfig, embed, vectors
from pipeline.cluster.gathering import NodeVectors, StepVectors
from pipeline.shared import (
    ConfigError,
    MachineConfig,
    Members,
    SourceError,
    StageRequest,
    StageResult,
    StopRequestedError,
    StopSignals,
    Terminal,
    UsageError,
    choose_dataset,
    differences,
    graph_nodes,
    linguistic_members,
    mark_stale,
    preflight,
    stored_digests,
    visual_members,
)
from settings import Section
from settings.messages import available, first_few, plural
from stores import Store
from stores.commit import Changes, commit, write_table
from stores.describe import (
    MEMBERS,
    RECORD,
    DictionaryKind,
    StoredDictionary,
    dictionary_name,
    stored_dictionaries,
    write_card,
)
from stores.format import load

_SHOWN = 20  # about a screen of missing members or changes


class ClusterConfig(Section):
    """How dictionaries are made."""

    encoder: EncoderConfig = EncoderConfig()
    """Text encoder of the nodes (linguistic)."""
    kmeans: KMeansParameters = KMeansParameters()
    """Parameters of k-means."""
    run: MachineConfig = MachineConfig()
    """Where the encoder runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRequest(StageRequest):
    """What a clustering needs to know.

    Attributes
    ----------
    kind
        ``linguistic`` (graphs of questions) or ``visual`` (steps of a feature).
    config
        The configuration.
    feature
        The feature of a visual dictionary; the only one that can be clustered if not given.
    dataset
        The dataset; the only one with questions of the split if not given.
    split
        The split whose questions choose the members.
    """

    kind: DictionaryKind
    config: ClusterConfig
    feature: str | None = None
    dataset: str | None = None
    split: str = "train"


@dataclass(frozen=True, slots=True)
class DictionarySummary:
    """A dictionary, its members, and why it was or would be built.

    Attributes
    ----------
    table, part
        Name of its table, and of its part there.
    dataset, split
        Where its members come from.
    k
        Number of clusters.
    members
        Number of members.
    missing
        Members of the split without a graph or a row, and why.
    changes, why
        Number of changes since it was built, and the first of them.
    computed
        Whether it was built now.
    random_weights
        Whether its vectors come from random weights, so that it is a placeholder.
    version
        The version of the store afterwards.
    """

    table: str
    part: str
    dataset: str
    split: str
    k: int
    members: int
    missing: list[dict[str, str]]
    changes: int
    why: list[str]
    computed: bool
    random_weights: bool
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterResult(StageResult):
    """How a clustering ended; ``dictionary`` is None if a signal came first."""

    dictionary: DictionarySummary | None = None

    @property
    def incomplete(self) -> bool:
        return self.dictionary is not None and bool(self.dictionary.missing)

    @property
    def has_work(self) -> bool:
        return self.dictionary is not None and self.dictionary.changes > 0

    def summary(self) -> dict[str, Any]:
        stopped = {} if self.stopped_by is None else {"stopped_by": self.stopped_by}
        return {**(asdict(self.dictionary) if self.dictionary else {}), **stopped}


def load_cluster_config(file: Path | None, overrides: Sequence[str], allow_code: bool = False) -> ClusterConfig:
    """Read a file, or the defaults, with ``a.b=c`` overrides on top, and validate.

    ``allow_code`` says whether the encoder may be ``package.module:Class``, which is imported here.

    Raises
    ------
    ConfigError
        With one line that names the file and the key.
    """
    try:
        raw = settings.read_yaml(file, str(file)) if file is not None else {}
        for text in overrides:
            settings.override(raw, text)
        origin = str(file) if file is not None else "settings"
        check_code(raw, origin, allow_code)
        return settings.validate(ClusterConfig, raw, origin)
    except settings.SettingsError as error:
        raise ConfigError(str(error)) from error


def cluster(request: ClusterRequest, terminal: Terminal | None = None) -> ClusterResult:
    """Make the store hold the dictionary, unless the stored one has these members and this spec.

    Writes the part ``<dataset>/<split>`` or, if it is visual, ``<dataset>/<split>/<feature>`` of the tables
    ``<kind>_dictionary`` (cluster, center, mean, count, empty) and ``<kind>_dictionary_members`` (key, step, time_s,
    cluster, distance, digest). Only what questions of the split refer to enters. Members without a
    graph or a row are reported, and the dictionary is built from the others.

    Raises
    ------
    UsageError, StoreError, OSError
        If the user must change something first.
    """
    preflight.check_locations(request.store, request.store, "--store")
    root = Path(request.store).absolute()
    with terminal or Terminal() as shown, StopSignals():
        try:
            return _cluster(request, root, shown)
        except StopRequestedError as stop:
            shown.line(f"stopped by {stop}; run the same command again to continue")
            return ClusterResult(stopped_by=str(stop))
        except DictionaryError as error:
            raise UsageError(f"{request.kind} dictionary: {error}") from error


def _cluster(request: ClusterRequest, root: Path, terminal: Terminal) -> ClusterResult:
    with Store.open(root) as store:
        maker = _MAKERS[request.kind](request, store)
        maker.read()
        changes = maker.changes()
        maker.describe(terminal, changes)
        if changes and not request.plan_only:
            maker.check_size()
            maker.make(root, terminal)
    if not request.plan_only:
        mark_stale(root)
        if not changes:
            terminal.line(f"nothing to do: the {maker.title} is up to date")
    return ClusterResult(dictionary=maker.summary(load(root).version, changes))


class _Maker(ABC):
    """One dictionary: its spec, its current members, and how they become vectors."""

    members: Members
    own_spec: dict[str, Any]  # the part of the spec that only this kind of dictionary has

    def __init__(self, request: ClusterRequest, store: Store) -> None:
        self.request = request
        self.store = store
        self.dataset = choose_dataset(store, request.split, request.dataset)

    @abstractmethod
    def read(self) -> None:
        """Fill ``members`` and ``own_spec``; raise ``UsageError`` if there is no member."""

    @abstractmethod
    def gather(self, root: Path, terminal: Terminal) -> tuple[Vectors, pa.Table]:
        """Return the vectors, float32 [N, P], in the order of key and step, and what the list of members says of each.

        The table has the columns ``key``, ``step``, ``time_s`` and ``digest``.
        """

    @abstractmethod
    def source(self) -> str:
        """Return what made the vectors, for a message about its weights."""

    @property
    def spec(self) -> dict[str, Any]:
        """The complete spec of the dictionary."""
        return {
            "kind": self.request.kind,
            "algorithm": "MiniBatchKMeans",
            **self.request.config.kmeans.model_dump(),
            "dataset": self.dataset,
            "split": self.request.split,
            **self.own_spec,
        }

    def changes(self) -> list[str]:
        """Return why the dictionary must be built; empty if the stored one has this spec and these members."""
        stored = self._stored
        if stored is None:
            return ["not built yet"]
        if stored.spec != self.spec:
            return ["its spec changed"]
        digests = stored_digests(self.store, stored)
        return ["the list of its members is lost"] if digests is None else differences(digests, self.members.table)

    @property
    def _stored(self) -> StoredDictionary | None:
        """The dictionary of this name that the store has."""
        present = stored_dictionaries(self.store, self.request.kind)
        return next((one for one in present if one.name == self.name), None)

    @property
    def name(self) -> str:
        """What the dictionary is made of; the name of its part."""
        return dictionary_name(self.dataset, self.request.split, self.own_spec.get("feature"))

    @property
    def title(self) -> str:
        """The dictionary, for a person."""
        return f"{self.request.kind} dictionary {self.name}"

    def describe(self, terminal: Terminal, changes: Sequence[str]) -> None:
        """Say what is to be done and why, and what the user should know about the members."""
        if self.own_spec["random_weights"]:
            terminal.warn(f"{self.source()} has random weights: the dictionary is a placeholder")
        if shared := self.members.shared:
            videos = f"{plural(len(shared), 'video')} of {self.request.split}"
            terminal.warn(f"other splits refer to {videos} as well: {first_few(shared, show=repr)}")
        for absent in self.members.missing.slice(0, _SHOWN).to_pylist():
            terminal.line(f"missing: {absent['key']!r}: {absent['reason']}")
        if (more := self.members.missing.num_rows - _SHOWN) > 0:
            terminal.line(f"… and {more} more missing")
        if changes:
            members = f"{len(self.members)} {self.request.split} members of {self.dataset}"
            k = self.request.config.kmeans.k
            terminal.line(f"{self.title}: {members}, k={k}; reason: {first_few(changes)}")

    def check_size(self) -> None:
        """Refuse more clusters than there are vectors, before any text is embedded.

        Raises
        ------
        DictionaryError
            If there are fewer vectors.
        """
        k, count = self.request.config.kmeans.k, self.members.vectors
        if count < k:
            raise DictionaryError(too_few_members(k, count))

    def make(self, root: Path, terminal: Terminal) -> None:
        """Fit the clusters and publish them with their members in one commit."""
        vectors, listing = self.gather(root, terminal)
        terminal.line(f"fitting {vectors.shape[0]} × {vectors.shape[1]} on one thread")
        fitted = fit_dictionary(vectors, listing.select(["key", "step"]), self.request.config.kmeans, terminal.stage)
        if empty := int(fitted.empty.sum()):
            terminal.warn(f"{empty} of {len(fitted.empty)} clusters have no member; they keep their centres")
        place = listing.column_names.index("digest")
        listing = listing.add_column(place, "cluster", pa.array(fitted.assignment))
        listing = listing.add_column(place + 1, "distance", pa.array(fitted.distance))
        stored = self._stored
        former = {} if stored is None or stored.part == self.name else {stored.part: None}
        name = f"{self.request.kind}_dictionary"
        changes = Changes()
        for table, rows_of_table in ((name, _dictionary_table(fitted)), (name + MEMBERS, listing)):
            part = write_table(root, table, self.spec, rows_of_table, self.name)
            changes.tables[table] = {**former, self.name: part}
        replaced = self._replaced()
        manifest = commit(root, changes)
        write_card(root)
        clusters = plural(len(fitted.counts), "cluster")
        terminal.line(f"stored the {self.title}: {clusters}, version {manifest.version}{replaced}")

    def _replaced(self) -> str:
        """Return which dictionary goes, for a person; nothing if the store has none of this name."""
        if self._stored is None:
            return ""
        part = self.store.manifest.tables[f"{self.request.kind}_dictionary"].parts[self._stored.part]
        clusters = plural(part.rows, "cluster")
        return f"; it replaces one of {clusters}, which version {self.store.version} keeps until gc"

    def summary(self, version: int, changes: Sequence[str]) -> DictionarySummary:
        """Return the dictionary in numbers."""
        return DictionarySummary(
            table=f"{self.request.kind}_dictionary",
            part=self.name,
            dataset=self.dataset,
            split=self.request.split,
            k=self.request.config.kmeans.k,
            members=len(self.members),
            missing=self.members.missing.to_pylist(),
            changes=len(changes),
            why=list(changes[:_SHOWN]),
            computed=bool(changes) and not self.request.plan_only,
            random_weights=self.own_spec["random_weights"],
            version=version,
        )

    def _require_members(self, what: str) -> None:
        if not len(self.members):
            where = f"{self.dataset}/{self.request.split}"
            count = self.members.missing.num_rows
            raise SourceError(f"{self.store.path}: none of the {count} members of {where} has {what}")


class _Graphs(_Maker):
    """Linguistic: the node strings of each question's graph, embedded."""

    def read(self) -> None:
        self.encoder = self.request.config.encoder.build()
        self.members = linguistic_members(self.store, self.dataset, self.request.split)
        self._require_members("a graph; run jobs/parse.py first")
        try:
            encoder_spec, dim = self.encoder.spec(), self.encoder.dim
        except ExtractorError as error:
            raise ConfigError(f"encoder: {error}") from error
        self.own_spec = {
            "shape": [len(NODES), dim],
            "nodes": list(NODES),
            "edges": [list(edge) for edge in EDGES],
            "encoder": encoder_spec,
            "random_weights": self.encoder.random_weights,
        }

    def source(self) -> str:
        return f"the text encoder {self.encoder.name!r}"

    def gather(self, root: Path, terminal: Terminal) -> tuple[Vectors, pa.Table]:
        """Return float32 [N, nodes * dim], row-major, as the published code flattens a graph's [8, 768]."""
        graphs = self.members.table
        nodes = graph_nodes(self.store, self.dataset, self.request.split, graphs.column("key"))
        nodes = nodes.combine_chunks().flatten()
        texts = nodes.unique()
        count = embed(root, self.encoder, texts.to_pylist(), self.request.config.run, terminal)
        terminal.line(f"embedded {count} of {len(texts)} distinct strings of {len(graphs)} graphs")
        with Store.open(root) as store:
            known, values = vectors(store, self.encoder)
        place = pc.index_in(nodes, known).to_numpy().astype(np.int64)
        listing = pa.table(
            {
                "key": graphs.column("key"),
                "step": pa.array(np.zeros(len(graphs), np.int32)),
                "time_s": pa.nulls(len(graphs), pa.float64()),
                "digest": graphs.column("digest"),
            }
        )
        return NodeVectors(values, place.reshape(len(graphs), -1)), listing


class _Frames(_Maker):
    """Visual: every valid step of a feature of the split's videos."""

    def read(self) -> None:
        self.feature = _choose_feature(self.store, self.request.feature)
        self.members = visual_members(self.store, self.feature, self.dataset, self.request.split)
        self._require_members(f"a row of {self.feature!r}; run jobs/extract.py first")
        feature_spec = self.store.spec(self.feature)
        self.own_spec = {
            "shape": list(feature_spec["step_shape"]),
            "feature": self.feature,
            "feature_spec": self.store.features[self.feature].spec_digest,
            "random_weights": bool(feature_spec.get("random_weights")),
        }

    def source(self) -> str:
        return f"feature {self.feature!r}"

    def describe(self, terminal: Terminal, changes: Sequence[str]) -> None:
        super().describe(terminal, changes)
        if mixed := self.store.caveats(self.feature).get("mixed_numerics"):
            terminal.warn(mixed)

    def gather(self, root: Path, terminal: Terminal) -> tuple[Vectors, pa.Table]:
        """Return float32 [N, D], read from the mapped shards as it is asked for."""
        steps = StepVectors(self.store, self.feature, self.members.table)
        owners = self.members.table.select(["key", "digest"]).take(pa.array(steps.owner))
        listing = pa.table(
            {
                "key": owners.column("key"),
                "step": pa.array(steps.step),
                "time_s": pa.array(steps.time_s),
                "digest": owners.column("digest"),
            }
        )
        return steps, listing


_MAKERS: Mapping[DictionaryKind, type[_Maker]] = {"linguistic": _Graphs, "visual": _Frames}


def _dictionary_table(fitted: Dictionary) -> pa.Table:
    """Return the table of clusters; its metadata says what its bytes depend on besides members and spec."""
    size = fitted.centers.shape[1]
    table = pa.table(
        {
            "cluster": pa.array(np.arange(len(fitted.counts), dtype=np.int32)),
            "center": pa.FixedSizeListArray.from_arrays(pa.array(fitted.centers.reshape(-1)), size),
            "mean": pa.FixedSizeListArray.from_arrays(pa.array(fitted.means.reshape(-1)), size),
            "count": pa.array(fitted.counts),
            "empty": pa.array(fitted.empty),
        }
    )
    return table.replace_schema_metadata({RECORD: json.dumps(record(), sort_keys=True)})


def _choose_feature(store: Store, name: str | None) -> str:
    """Return the feature to cluster: the one that is named, or the only one whose steps are vectors."""
    flat = [name for name in store.features if len(store.spec(name).get("step_shape", ())) == 1]
    if name is None and len(flat) == 1:
        return flat[0]
    if name is None:
        listed = ", ".join(flat) or "none"
        raise SourceError(f"{store.path}: features with one vector per step: {listed}; name one with --feature")
    if name not in store.features:
        raise SourceError(f"{store.path}: no feature {name!r} ({available(store.features)})")
    if name not in flat:
        shape = store.spec(name).get("step_shape")
        raise SourceError(
            f"{store.path}: feature {name!r} has steps of shape {shape}; only one vector per step can be clustered"
        )
    return name

"""The dataset file: where the videos and questions of a dataset are, and what is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

import settings
from extractors import check_code
from parsers.annotations import FORMATS
from pipeline.cluster import ClusterConfig, EncoderConfig
from pipeline.parse import ParseConfig
from settings import Section
from settings.messages import available, nearest
from stores.describe import DictionaryKind


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

    path: str | tuple[str, ...]
    """An annotation file, or a folder that holds it under its official name; or all files of the split."""
    format: str
    """Format of the file."""
    split: Annotated[str, Field(min_length=1)]
    """Split of its questions."""
    dataset: str | None = None
    """The dataset's name in the store; the format's if not given."""
    graphs: bool = True
    """Whether to make graphs of its questions."""

    @property
    def files(self) -> tuple[str, ...]:
        """The files or folders."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @property
    def part(self) -> str:
        """The part of the store's tables that its questions fill, ``<dataset>/<split>``."""
        return f"{self.dataset or self.format}/{self.split}"

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

    @model_validator(mode="after")
    def _only_a_visual_one_has_a_feature(self) -> DictionaryStage:
        if self.kind != "visual" and self.feature is not None:
            raise ValueError(f"dictionaries: feature {self.feature!r}: only a visual dictionary has one")
        return self

    def may_be(self, other: DictionaryStage) -> bool:
        """Return whether both may make one dictionary: nothing that both name differs."""
        if (self.kind, self.split) != (other.kind, other.split):
            return False
        pairs = [(self.dataset, other.dataset)]
        if self.kind == "visual":
            pairs.append((self.feature, other.feature))
        return all(mine == theirs or None in (mine, theirs) for mine, theirs in pairs)


class CompactStage(Section):
    """When small shards are merged after the other stages."""

    above: Annotated[int, Field(ge=1)] | None = 64
    """Number of small shards of one size class that may stay; null never merges."""


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
    compact: CompactStage = CompactStage()
    """When small shards are merged."""

    @model_validator(mode="after")
    def _write_places_of_their_own(self) -> Dataset:
        for number, annotation in enumerate(self.annotations):
            for earlier, other in enumerate(self.annotations[:number]):
                if annotation.part == other.part:
                    raise ValueError(
                        f"annotations.{earlier} and annotations.{number} both fill {annotation.part}; list all files "
                        "of a split in one entry, path: [a.csv, b.csv], or give them datasets of their own"
                    )
        for number, dictionary in enumerate(self.dictionaries):
            for earlier, made in enumerate(self.dictionaries[:number]):
                if dictionary.may_be(made):
                    raise ValueError(
                        f"dictionaries.{earlier} and dictionaries.{number} may both make one {dictionary.kind} "
                        "dictionary; name dataset, split and, if it is visual, feature, so that they differ"
                    )
        for number, encoder in enumerate(self.option_embeddings):
            if encoder in self.option_embeddings[:number]:
                earlier = self.option_embeddings.index(encoder)
                raise ValueError(
                    f"option_embeddings.{earlier} and option_embeddings.{number} are the same encoder; leave one out"
                )
        return self


def load_dataset(path: Path, overrides: Sequence[str] = (), allow_code: bool = False) -> Dataset:
    """Read a dataset file; its relative paths become absolute.

    ``allow_code`` says whether an encoder may be ``package.module:Class``, which is imported here.

    Raises
    ------
    settings.SettingsError
        With one line that names the file and the key.
    """
    raw = settings.read_yaml(path, str(path))
    for assignment in overrides:
        settings.override(raw, assignment)
    check_code(raw, str(path), allow_code)
    dataset = settings.validate(Dataset, raw, str(path))
    folder = path.absolute().parent
    videos = dataset.videos and dataset.videos.model_copy(
        update={
            "source": _from(folder, dataset.videos.source),
            "config": dataset.videos.config and folder / dataset.videos.config,
        }
    )
    annotations = tuple(
        annotation.model_copy(update={"path": tuple(_from(folder, path) for path in annotation.files)})
        for annotation in dataset.annotations
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

"""Embeds each string once: computes what is missing in the table ``embeddings`` and leaves the rest as it is."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from extractors import ExtractorError, UnreachableError, WeightsError
from extractors.text import TextEncoder, TextModel, build_text_encoder
from pipeline.shared import MachineConfig, PreflightError, Terminal, UsageError, choose
from settings.messages import one_line
from stores import Store
from stores.commit import Changes, PartUpdate, commit, create_store, write_table
from stores.errors import StoreDamageError
from stores.format import Manifest, TablePart

logger = logging.getLogger("reelstore.cluster.embedding")

TABLE = "embeddings"
_NUMERICS = b"reelstore.numerics"
WITHOUT_NETWORK = (
    "set encoder.weights to a file (for the default encoder, that which jobs/weights.py fetch cra-nextgqa writes where "
    "there is a network), or encoder.name to hashed, which needs no weights"
)
"""What to do if the encoder's weights cannot be downloaded."""
TEXTS_AT_ONCE = 512  # the encoder batches them itself; between two calls a stop is noticed and a commit is due
COMMIT_EVERY_S = 120.0  # as much as a run that is killed loses


class EncoderConfig(BaseModel):
    """A text encoder by name; keys that are not listed here are options of the encoder."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str = "clip"
    """Name of the encoder."""

    @model_validator(mode="after")
    def _is_buildable(self) -> EncoderConfig:
        try:
            self.build()
        except WeightsError:  # a file that may be there when it is needed; said with all else that is missing
            pass
        except ExtractorError as error:
            raise ValueError(f"encoder: {error}") from error
        return self

    def build(self) -> TextEncoder:
        """Make the encoder (cheap: no weights are loaded).

        Raises
        ------
        ExtractorError
            If the encoder or one of its options is unknown or wrong.
        """
        return build_text_encoder(self.name, self.model_extra or {})


def part_name(encoder: TextEncoder) -> str:
    """Return the part of ``embeddings`` that holds an encoder's vectors."""
    return encoder.digest[:16]


def missing_texts(store: Store, encoder: TextEncoder, texts: Iterable[str]) -> list[str]:
    """Return the distinct strings without a vector of this encoder, sorted."""
    stored = _stored(store, encoder)
    known = set(stored.column("text").to_pylist()) if stored is not None else set()
    return sorted({text for text in texts if text not in known})


def option_texts(questions: pa.Table) -> list[str]:
    """Return what frozen text features are made of: questions, options, and each question joined with its options.

    Parameters
    ----------
    questions
        Rows of the table ``questions``.
    """
    pairs = zip(questions.column("question").to_pylist(), questions.column("options").to_pylist(), strict=True)
    joined = [(question, option, f"{question} {option}") for question, options in pairs for option in options or ()]
    return sorted({text for texts in joined for text in texts})


def embed(
    root: Path,
    encoder: TextEncoder,
    texts: Iterable[str],
    run: MachineConfig | None = None,
    terminal: Terminal | None = None,
) -> int:
    """Store the vectors of strings that have none yet; return how many were computed.

    The part ``encoder.digest[:16]`` of the table ``embeddings`` holds each string once, sorted. Stored rows are kept,
    even those that another run adds meanwhile. If nothing is missing, no network library is imported and nothing is
    committed. Strings are embedded by length, since a network takes texts of one length at a time. What is finished is
    committed as a further file of the part every two minutes and when the run is stopped, so that the next run
    continues from there; at the end, one file is made of all. Its bytes do not depend on how often a run was stopped or
    killed.

    Raises
    ------
    PreflightError
        If the weights cannot be loaded, or the device is missing.
    UsageError
        If the encoder fails on the way.
    """
    create_store(root)
    with Store.open(root, lease=False) as store:
        todo = missing_texts(store, encoder, texts)
        part = _GrowingPart(root, encoder, _part(store.manifest, encoder))
    if todo:
        _compute(part, sorted(todo, key=len), run or MachineConfig(), terminal or Terminal(quiet=True))
    part.merge()
    return len(todo)


def _compute(part: _GrowingPart, todo: list[str], run: MachineConfig, terminal: Terminal) -> None:
    """Embed strings, and commit what is finished every now and then and when anything ends the run."""
    sizing = choose(run)
    device = sizing.devices[0]
    with _one_line(device):
        model = part.encoder.load(device, run.model_threads or sizing.cpus)  # no decoders compete for the CPUs
    last = time.monotonic()
    try:
        for start in range(0, len(todo), TEXTS_AT_ONCE):
            chunk = todo[start : start + TEXTS_AT_ONCE]
            with _one_line(device):
                part.add(_table(chunk, model.encode(chunk)), model)
            terminal.stage("embed", start + len(chunk), len(todo))
            if time.monotonic() - last >= COMMIT_EVERY_S:
                part.append()
                last = time.monotonic()
    finally:  # a stop must not lose what is finished
        part.append()
    terminal.close()


def vectors(store: Store, encoder: TextEncoder) -> tuple[pa.Array, NDArray[np.float32]]:
    """Read the vectors of an encoder.

    Returns
    -------
    texts
        U distinct strings.
    values
        float32 [U, dim], in the order of the strings.

    Raises
    ------
    StoreDamageError
        If the encoder's part is missing.
    """
    stored = _stored(store, encoder)
    if stored is None:
        raise StoreDamageError(f"{store.path}: table {TABLE!r} has no part {part_name(encoder)!r}")
    values = stored.column("vector").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return stored.column("text").combine_chunks(), values.reshape(stored.num_rows, encoder.dim)


def _part(manifest: Manifest, encoder: TextEncoder) -> TablePart | None:
    table = manifest.tables.get(TABLE)
    return None if table is None else table.parts.get(part_name(encoder))


def _stored(store: Store, encoder: TextEncoder) -> pa.Table | None:
    return None if _part(store.manifest, encoder) is None else store.table(TABLE, part_name(encoder))


@contextmanager
def _one_line(device: str) -> Iterator[None]:
    """Turn whatever an encoder raises into one line: a card that faults, memory that runs out, weights that lack."""
    try:
        yield
    except UnreachableError as error:
        raise PreflightError(f"encoder: {error.reason}; {WITHOUT_NETWORK}") from error
    except ExtractorError as error:
        raise PreflightError(f"encoder: {error}") from error
    except Exception as error:  # whatever torch raises
        logger.debug("the encoder failed", exc_info=True)
        raise UsageError(
            f"encoder on {device}: {type(error).__name__}: {one_line(error)}; what is embedded is stored, so run the "
            "same command on another device, as with run.device=cpu"
        ) from error


def _table(texts: list[str], values: NDArray[np.float32]) -> pa.Table:
    vector = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.table({"text": pa.array(texts, pa.string()), "vector": vector})


class _GrowingPart:
    """An encoder's part of the table: grows by files while a run goes on, and is one sorted file after it.

    Parameters
    ----------
    root
        The store.
    encoder
        The encoder.
    stored
        The part whose strings are not computed again; None if there is none.
    """

    def __init__(self, root: Path, encoder: TextEncoder, stored: TablePart | None) -> None:
        self.encoder = encoder
        self._root = root
        self._known = set() if stored is None else set(stored.files)  # files with none of the strings taken here
        self._fresh: list[pa.Table] = []
        self._numerics: dict[str, Any] = {}

    def add(self, table: pa.Table, model: TextModel) -> None:
        """Take rows that are not committed yet."""
        self._fresh.append(table)
        self._numerics = model.numerics()

    def append(self) -> None:
        """Commit the rows taken so far as one more file, except strings that another run has added since."""
        if not self._fresh:
            return

        def update(latest: Manifest) -> TablePart:
            before = _part(latest, self.encoder)
            if before is None:
                part = self._write(self._fresh, [self._numerics])
                self._known.update(part.files)
                return part
            fresh = self._fresh
            if not self._known.issuperset(before.files):
                fresh = _without(fresh, self._read(latest))
            if not any(table.num_rows for table in fresh):
                return before
            part = self._write(fresh, [self._numerics])
            self._known.update(part.files)
            return part.model_copy(update={"files": (*before.files, *part.files)})

        self._commit(update)
        self._fresh = []

    def merge(self) -> None:
        """Make one file of all, those of other runs included; commit nothing if there is only one."""

        def update(latest: Manifest) -> TablePart | None:
            before = _part(latest, self.encoder)
            if before is None or len(before.files) < 2:
                return before
            numerics = [known for file in before.files for known in _numerics(self._root / file.path)]
            return self._write([self._read(latest)], numerics)

        self._commit(update)

    def _read(self, manifest: Manifest) -> pa.Table:
        return Store(self._root, manifest).table(TABLE, part_name(self.encoder))

    def _write(self, tables: Sequence[pa.Table], numerics: Sequence[Mapping[str, Any]]) -> TablePart:
        """Write rows as one file, sorted by text; its metadata lists the numerics under which they were computed."""
        encoder = self.encoder
        spec = {"kind": TABLE, "encoder": encoder.spec(), "dim": encoder.dim, "random_weights": encoder.random_weights}
        # A stored table names the inner field of its lists otherwise than a fresh one.
        schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), encoder.dim))])
        rows = pa.concat_tables([table.cast(schema) for table in tables]).sort_by("text").combine_chunks()
        distinct = {json.dumps(numerics, sort_keys=True): numerics for numerics in numerics}
        metadata = {_NUMERICS: json.dumps([distinct[text] for text in sorted(distinct)], sort_keys=True)}
        return write_table(self._root, TABLE, spec, rows.replace_schema_metadata(metadata), part_name(encoder))

    def _commit(self, update: PartUpdate) -> None:
        commit(self._root, Changes(updates={TABLE: {part_name(self.encoder): update}}))


def _without(tables: Sequence[pa.Table], stored: pa.Table) -> list[pa.Table]:
    """Return the rows whose strings are not stored."""
    known = stored.column("text").combine_chunks()
    return [table.filter(pc.invert(pc.is_in(table.column("text"), known))) for table in tables]


def _numerics(file: Path) -> list[dict[str, Any]]:
    metadata = pq.read_schema(file).metadata or {}
    numerics: list[dict[str, Any]] = json.loads(metadata.get(_NUMERICS, b"[]"))
    return numerics

"""Embeds each string once: computes what is missing in the table ``embeddings`` and leaves the rest as it is."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from extractors import ExtractorError, WeightsError
from extractors.text import TextEncoder, TextModel, build_text_encoder
from pipeline.shared import MachineConfig, PreflightError, Terminal, UsageError, choose
from settings.messages import one_line
from stores import Store
from stores.commit import Changes, commit, create_store, write_table
from stores.errors import StoreDamageError
from stores.format import Manifest, TablePart

logger = logging.getLogger("reelstore.cluster.embedding")

TABLE = "embeddings"
_NUMERICS = b"reelstore.numerics"
TEXTS_AT_ONCE = 512  # the encoder batches them itself; between two calls a stop is noticed and a commit is due
COMMIT_EVERY_S = 120.0  # a commit rewrites the whole part


class EncoderConfig(BaseModel):
    """A text encoder by name; keys that are not listed here are options of the encoder."""

    model_config = ConfigDict(frozen=True, extra="allow")

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
    committed. Finished strings are committed every two minutes and when the run is stopped, so that the next run
    continues from there.

    Raises
    ------
    PreflightError
        If the weights cannot be loaded, or the device is missing.
    """
    create_store(root)
    with Store.open(root, lease=False) as store:
        todo = missing_texts(store, encoder, texts)
    if not todo:
        return 0
    terminal = terminal or Terminal(quiet=True)
    machine = run or MachineConfig()
    sizing = choose(machine)
    device = sizing.devices[0]
    with _one_line(device):
        model = encoder.load(device, machine.model_threads or sizing.cpus)  # no decoders compete for the CPUs
    fresh: list[pa.Table] = []
    last = time.monotonic()
    try:
        for start in range(0, len(todo), TEXTS_AT_ONCE):
            chunk = todo[start : start + TEXTS_AT_ONCE]
            with _one_line(device):
                fresh.append(_table(chunk, model.encode(chunk)))
            terminal.stage("embed", start + len(chunk), len(todo))
            if time.monotonic() - last >= COMMIT_EVERY_S:
                _commit(root, encoder, fresh, model)
                fresh = []
                last = time.monotonic()
    finally:  # a stop must not lose what is finished
        if fresh:
            _commit(root, encoder, fresh, model)
    terminal.close()
    return len(todo)


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


def _stored(store: Store, encoder: TextEncoder) -> pa.Table | None:
    name = part_name(encoder)
    if TABLE not in store.tables or name not in store.parts(TABLE):
        return None
    return store.table(TABLE, name)


@contextmanager
def _one_line(device: str) -> Iterator[None]:
    """Turn whatever an encoder raises into one line: a card that faults, memory that runs out, weights that lack."""
    try:
        yield
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


def _commit(root: Path, encoder: TextEncoder, fresh: list[pa.Table], model: TextModel) -> None:
    """Add rows to the encoder's part, and keep what another run has added since."""
    spec = {"kind": TABLE, "encoder": encoder.spec(), "dim": encoder.dim, "random_weights": encoder.random_weights}

    def update(latest: Manifest) -> TablePart:
        table = _merge(_stored(Store(root, latest), encoder), fresh, encoder.dim, model.numerics())
        return write_table(root, TABLE, spec, table, part_name(encoder))

    commit(root, Changes(updates={TABLE: {part_name(encoder): update}}))


def _merge(stored: pa.Table | None, fresh: list[pa.Table], dim: int, numerics: Mapping[str, Any]) -> pa.Table:
    """Return each string once, sorted; the metadata lists the numerics under which rows were computed."""
    known = pa.array([], pa.string()) if stored is None else stored.column("text").combine_chunks()
    added = [table.filter(pc.invert(pc.is_in(table.column("text"), known))) for table in fresh]
    tables = added if stored is None else [stored, *added]
    every_numerics = [*_numerics(tables[0].schema.metadata), numerics]
    distinct = {json.dumps(numerics, sort_keys=True): numerics for numerics in every_numerics}
    metadata = {_NUMERICS: json.dumps([distinct[text] for text in sorted(distinct)], sort_keys=True)}
    # A stored table names the inner field of its lists otherwise than a fresh one.
    schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), dim))])
    rows = pa.concat_tables([table.cast(schema) for table in tables]).sort_by("text").combine_chunks()
    return rows.replace_schema_metadata(metadata)


def _numerics(metadata: Mapping[bytes, bytes] | None) -> list[dict[str, Any]]:
    numerics: list[dict[str, Any]] = json.loads((metadata or {}).get(_NUMERICS, b"[]"))
    return numerics

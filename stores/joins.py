"""How tables about questions are joined: a question is known by its dataset, its split and its id, never by less."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SPLIT_COLUMNS = ("dataset", "split")
"""The columns that say to which split of which dataset a question belongs."""


def rows_of_split(table: pa.Table, dataset: str, split: str) -> pa.Table:
    """Return the rows of one split of one dataset; within it, ``question_id`` is unique."""
    of_dataset = pc.equal(table.column("dataset"), dataset)
    wanted = pc.and_(of_dataset, pc.equal(table.column("split"), split))
    return table if pc.all(wanted.fill_null(False)).as_py() else table.filter(wanted)


def splits_of(table: pa.Table) -> list[tuple[str, str]]:
    """Return each (dataset, split) of a table once, sorted."""
    dataset, split = (table.column(name).combine_chunks().dictionary_encode() for name in SPLIT_COLUMNS)
    known = pc.and_(pc.is_valid(dataset), pc.is_valid(split)).to_numpy(zero_copy_only=False)
    codes = [column.indices.fill_null(0).to_numpy(zero_copy_only=False)[known] for column in (dataset, split)]
    pairs = np.unique(codes[0].astype(np.int64) << 32 | codes[1]).tolist()
    datasets, splits = dataset.dictionary.to_pylist(), split.dictionary.to_pylist()
    return sorted((datasets[pair >> 32], splits[pair & 0xFFFFFFFF]) for pair in pairs)

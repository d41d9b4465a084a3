"""How tables about questions are joined: a question is known by its dataset, its split and its id, never by less."""

from __future__ import annotations

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
    pairs = table.group_by(list(SPLIT_COLUMNS)).aggregate([]).to_pylist()
    known = [(pair["dataset"], pair["split"]) for pair in pairs]
    return sorted(pair for pair in known if None not in pair)

"""Read the Parquet files of tables: some columns, and some rows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import StoreDamageError
from .inside import StorePath


def read_table_file(path: StorePath, rows: int, columns: Sequence[str] | None, where: Mapping[str, str]) -> pa.Table:
    """Read some columns of the rows in which other columns have certain values; what is not wanted is not read.

    Parameters
    ----------
    path
        The file.
    rows
        Its number of rows, as the manifest states it.
    columns
        The columns to read; None for all of them. A column that the file lacks is left out.
    where
        Values by column; a file that lacks one of these columns has no such row.

    Raises
    ------
    StoreDamageError
        If the file cannot be read, or has another number of rows.
    """
    names = None if columns is None else list(columns)
    try:
        with path.by_descriptor() as name, pq.ParquetFile(name) as file:
            if file.metadata.num_rows != rows:
                raise StoreDamageError(f"{path}: {file.metadata.num_rows} rows, the manifest says {rows}")
            if not where:
                return file.read(names)
            tested = file.read(list(where))
            missing = pa.scalar(None, pa.string())  # of a column that the part lacks
            held = {name: tested.column(name) if name in tested.column_names else missing for name in where}
            wanted = functools.reduce(pc.and_, [pc.equal(held[name], value) for name, value in where.items()])
            if not pc.any(wanted).as_py():
                kept = [name for name in file.schema_arrow.names if names is None or name in names]
                return file.schema_arrow.empty_table().select(kept)
            table = file.read(names)
            return table if pc.all(wanted.fill_null(False)).as_py() else table.filter(wanted)
    except (OSError, pa.ArrowException, ValueError, MemoryError) as error:
        raise StoreDamageError(f"{path}: cannot be read ({error})") from error

"""Execute the notebooks in their order and keep what they print; ``make notebooks`` does so.

python examples/notebooks/execute.py
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
NOTEBOOKS = ("videos_to_cra", "read_a_store", "find_errors")
"""In their order: the first makes what the others read."""
_LIMIT_S = 600


def execute(notebook: Any, folder: Path) -> None:
    """Run all cells of a notebook in a fresh kernel, as a newcomer does with the environment activated.

    Parameters
    ----------
    notebook
        The notebook; its outputs are replaced, and hold no times of execution.
    folder
        Where the kernel starts; the checkout is two folders above it.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    # One size of everything, whatever the terminal that this is started from; pictures and tables fit a page.
    environment = {**os.environ, "COLUMNS": "110", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    client = NotebookClient(
        notebook,
        timeout=_LIMIT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute(env=environment)
    notebook.metadata["language_info"] = {"name": "python"}  # without the version of this machine's Python


def texts(notebook: Any) -> Iterator[str]:
    """Yield what each cell printed and returned, as text; a picture says nothing here."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield output.get("text") or output.get("data", {}).get("text/plain", "")


def main() -> None:
    """Execute all notebooks in place, from an empty world."""
    shutil.rmtree(ROOT / "out" / "notebooks", ignore_errors=True)  # else there would be nothing left to do
    for name in NOTEBOOKS:
        path = FOLDER / f"{name}.ipynb"
        notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]  # nbformat has no types here
        execute(notebook, FOLDER)
        nbformat.write(notebook, path)  # type: ignore[no-untyped-call]  # as above
        print(path.relative_to(ROOT), f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()

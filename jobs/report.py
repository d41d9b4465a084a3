"""Write the page of a finished training run: curves, scores with intervals, every question, the worst with panels.

python jobs/report.py out/cra --compare out/temp-clip

The page is a folder of files that any browser opens from the disk; index.html is the first of them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

from jobs._cli import Command, job

app = job(None)


@app.command(cls=Command, help=__doc__)
def main(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run of jobs/train.py.")],
    compare: Annotated[
        Path | None, typer.Option(help="Another run on the same questions, to be shown beside it.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write (default: report in that of the run).")] = None,
    worst: Annotated[int, typer.Option(min=0, help="Draw the panels of so many questions of each split.")] = 50,
) -> None:
    from trainers.report import write_report  # only here: torch takes seconds to import

    print(write_report(run, compare, out, worst, say=lambda line: print(line, file=sys.stderr)))


if __name__ == "__main__":
    app()

"""Draw one question of a finished training run: frames, sound, attention, spans, answer.

python jobs/panel.py out/cra QUESTION_ID --out panel.png

The frames are those of the file that the video's features were computed from; another file is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

from jobs._cli import Command, job
from trainers.errors import TrainingError

app = job(None)


@app.command(cls=Command, help=__doc__)
def main(
    run: Annotated[Path, typer.Argument(help="Folder of a run of jobs/train.py.")],
    question: Annotated[str, typer.Argument(help="Id of the question in the questions table.")],
    out: Annotated[Path, typer.Option(help="The picture or page to write, .png or .html.")] = Path("panel.png"),
    video: Annotated[
        Path | None,
        typer.Option(help="The file of the video, if it has moved."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The question's split, if questions of several splits have its id.")
    ] = None,
) -> None:
    if out.suffix not in (".png", ".html"):
        raise TrainingError(f"--out {out}: must end in .png or .html")
    from trainers.panels import draw, open_run  # only here: torch takes seconds to import

    image, page = draw(open_run(run), question, video, split)
    if out.suffix == ".png":
        out.write_bytes(image)
    else:
        out.write_text(page, encoding="utf-8")
    print(out)


if __name__ == "__main__":
    app()

"""Write a toy world.

python -m examples.toyworld --seed 0 --out out/toyworld
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from examples.toyworld.kinds import DEFAULT, KINDS
from examples.toyworld.make import write
from settings.messages import available, nearest


def known(kind: str) -> str:
    """Return a kind.

    Raises
    ------
    typer.BadParameter
        If there is no such kind.
    """
    if kind not in KINDS:
        raise typer.BadParameter(f"no kind of world is named {kind!r}{nearest(kind, KINDS)} ({available(KINDS)})")
    return kind


def main(
    out: Annotated[Path, typer.Option(help="Folder for videos, questions and truth.json.")],
    seed: Annotated[int, typer.Option(min=0, help="Each seed gives another world.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Encoding processes (default: one per CPU).")] = None,
    videos: Annotated[int | None, typer.Option(min=1, help="Videos in all, roughly (default: 1380).")] = None,
    kind: Annotated[str, typer.Option(callback=known, help=f"What the world is about ({available(KINDS)}).")] = DEFAULT,
) -> None:
    """Write a toy world: videos, questions about them, and the truth."""
    usual = KINDS[kind].world(seed)
    started = time.perf_counter()
    world = usual if videos is None else usual.resized(videos)
    written = write(world, out, workers or len(os.sched_getaffinity(0)), kind)
    print(
        f"{len(written.scenes)} videos, {len(written.grounding)} grounding and {len(written.avqa)} audio-visual "
        f"questions in {out} ({time.perf_counter() - started:.0f} s)"
    )


if __name__ == "__main__":
    typer.run(main)

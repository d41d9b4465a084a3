"""The whole system on a toy world that it films itself: videos, features, graphs, dictionaries, two trained models.

python jobs/demo.py --out out/demo
"""

from __future__ import annotations

import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import typer

import settings
from jobs._cli import Command, job
from pipeline.extract import ExtractRequest, extract, load_config
from pipeline.refresh import RefreshResult, load_dataset, refresh
from pipeline.shared import Terminal
from stores import Store
from stores.pages import write_pages
from stores.upkeep import verify
from trainers import PRESETS, TrainRequest, TrainResult, find_method

app = job(None)
_PANELS = 5
"""Panels of the worst questions on the page of a run."""
say = partial(print, flush=True)  # in step with the progress on stderr


@app.command(cls=Command, help=__doc__)
def main(
    out: Annotated[Path, typer.Option(help="Where everything goes.")] = Path("out/demo"),
    videos: Annotated[int, typer.Option(min=44, help="Videos of the world.")] = 600,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of both trainings (default: the presets').")] = None,
    media: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Videos of yours instead: their features and pages, no training."),
    ] = None,
) -> None:
    started = time.perf_counter()
    if media is not None:
        raise typer.Exit(_own(media, out))
    store, computed = _stores(out, videos)
    runs = {name: _train(name, store, out, epochs) for name in ("cra", "coqo")}
    panels = [_panel(out, name) for name in runs]
    sound = verify(store, deep=True)
    pages = {"the store's page": _page_of(store)} | {f"{name}'s page": _page_of_run(out / name) for name in runs}
    _conclude(out, store, computed, runs, panels, pages, len(sound.problems), time.perf_counter() - started)
    if sound.problems or computed[1:] != [0, 4]:
        print("error: the demo expected 0 problems, and 0 and 4 rows computed again", file=sys.stderr)
        raise typer.Exit(3)


def _own(media: Path, out: Path) -> int:
    """Make a store of somebody's own videos, twice, and its pages; return the exit code."""
    store = out / "own"
    request = ExtractRequest(source=str(media), store=str(store), config=load_config("demo"), executor="local")
    say(f"\n1. Extract features from {media} with a small tower.")
    say("   Its weights are random: this shows how it runs, not what CLIP sees.")
    first = extract(request)
    say("\n2. Again: nothing changed, nothing is computed.")
    second = extract(request, Terminal(quiet=True))
    counts = [result.summary()["computed"] for result in (first, second)]
    problems = verify(store, deep=True).problems
    say(f"\nRows computed: {counts[0]}, then {counts[1]}. verify --deep: {len(problems)} problems.")
    say(f"  open this page: {_page_of(store)}")
    say(f"  with the weights of CRA: python jobs/extract.py {media} --store DIR --preset cra-nextgqa")
    return 3 if first.incomplete or problems else 0


def _page_of(store: Path) -> Path:
    with Store.open(store, lease=False) as opened:
        return write_pages(opened)


def _page_of_run(run: Path) -> Path:
    from trainers.report import write_report  # only here: torch takes seconds to import

    return write_report(run, None, None, _PANELS, say=lambda line: None)


def _stores(out: Path, videos: int) -> tuple[Path, list[int]]:
    """Film the world and make its store; run again; change one video and run again. Rows computed each time."""
    from examples.toyworld.make import build, write, write_video  # only here: PyAV takes half a second to import
    from examples.toyworld.world import World

    world = World(0).resized(videos)
    say(f"\n1. Film a toy world: shapes that act and beep, with questions, true spans and planted biases ({out}).")
    made = write(world, out, workers=2)
    broken = out / "videos" / "broken.mp4"
    broken.write_text("this is not a video\n")
    say(f"   {len(made.scenes)} videos, {len(made.grounding)} grounding and {len(made.avqa)} audio-visual questions,")
    say("   and one file that only claims to be a video.")
    dataset = load_dataset(out / "dataset.yaml")
    say("\n2. Refresh the store: decode once, four features, questions, graphs, dictionaries.")
    first = refresh(dataset, "local")
    say("\n3. Refresh again: nothing changed, nothing is computed.")
    second = refresh(dataset, "local", terminal=Terminal(quiet=True))
    say("\n4. Another take of one video, and refresh: its four rows, and the dictionary that has it as a member.")
    retaken = made.scenes[0].key
    write_video(build(World(1).resized(44)).scenes[0], out / "videos" / f"{retaken}.mp4")
    third = refresh(dataset, "local", terminal=Terminal(quiet=True))
    for number, result in enumerate((second, third), 3):
        say(f"   step {number}: {_computed(result)} rows computed, dictionaries made: {_made(result)}")
    return out / Path(dataset.store).name, [_computed(result) for result in (first, second, third)]


def _computed(result: RefreshResult) -> int:
    count: int = result.summary()["videos"]["computed"]
    return count


def _made(result: RefreshResult) -> str:
    stages = [
        name for name, summary in result.summary().items() if name.startswith("dictionary") and summary["computed"]
    ]
    return ", ".join(stages) or "none"


def _train(name: str, store: Path, out: Path, epochs: int | None) -> TrainResult:
    from trainers.run import run  # only here: torch takes seconds to import

    say(f"\n{5 if name == 'cra' else 6}. Train {name} from the store (trainers/presets/{name}-toyworld.yaml).")
    overrides = [f"loop.epochs={epochs}"] if epochs else []
    raw, origin = settings.read(PRESETS, f"{name}-toyworld", None, overrides)
    chosen = settings.validate(find_method(name).settings, raw, origin)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    with Store.open(store, lease=False) as opened:
        version = opened.version
    request = TrainRequest(
        method=name,
        store=str(store.absolute()),
        version=version,
        out=str(folder.absolute()),
        settings=chosen.model_dump(mode="json"),
    )
    return run(request)


def _panel(out: Path, name: str) -> Path:
    """Draw the first question of the test split."""
    from trainers.panels import draw, open_run

    finished = open_run(out / name)
    with Store.open(finished.store, finished.version, lease=False) as store:
        question = store.table("questions", f"{finished.dataset}/test").slice(0, 1).to_pylist()[0]
    path = out / f"{name}_panel.png"
    video = out / "videos" / f"{question['video_id']}.mp4"
    path.write_bytes(draw(finished, question["question_id"], video)[0])
    return path


def _conclude(
    out: Path,
    store: Path,
    computed: list[int],
    runs: dict[str, TrainResult],
    panels: list[Path],
    pages: dict[str, Path],
    problems: int,
    seconds: float,
) -> None:
    say(f"\nDone in {seconds:.0f} s. Rows computed by the three refreshes: {', '.join(map(str, computed))}.")
    say(f"verify --deep: {problems} problems.")
    for name, result in runs.items():
        say(f"{name}: {result.steps} steps; best after epoch {result.best_epoch}")
        for split, metrics in result.metrics.items():
            shown = [metric for metric in ("acc_vqa", "acc_gqa", "iop_50", "miou", "overall") if metric in metrics]
            say(f"  {split}: " + ", ".join(f"{metric} {metrics[metric]:.1f} %" for metric in shown))
    say("A small world and one seed: what the methods gain is measured by bench/toyworld.py.")
    paths = {"videos": out / "videos", "store": store, "its card": store / "README.md"}
    paths |= {f"{name} run": out / name for name in runs} | {f"panel {path.stem}": path for path in panels}
    for what, path in paths.items():
        say(f"  {what}: {path}")
    say("Open these in a browser:")
    for what, path in pages.items():
        say(f"  {what}: {path}")


if __name__ == "__main__":
    app()

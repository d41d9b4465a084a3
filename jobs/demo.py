"""The whole job on clips that it encodes itself: extract, run again, change one video, refresh, verify.

python jobs/demo.py --out out/demo
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout is the package: nothing is installed

import typer

from examples.clips import write_clip
from pipeline.config import load_config
from pipeline.errors import UsageError
from pipeline.run import Request, Result, run
from stores import Store
from stores.verify import verify

CLIPS = 6
say = partial(print, flush=True)  # in step with the progress on stderr


def _extract(videos: Path, store: Path) -> Result:
    request = Request(
        source=str(videos), store=str(store), config=load_config("demo"), executor="local", allow_failures=True
    )
    return run(request)


def demo(out: Annotated[Path, typer.Option(help="Where clips and store go.")] = Path("out/demo")) -> None:
    videos, store = out / "videos", out / "store"
    videos.mkdir(parents=True, exist_ok=True)
    say(f"\n1. Encode {CLIPS} clips (B-frame H.264 with AAC sound), and one file that only claims to be a video.")
    for index in range(CLIPS):
        write_clip(videos / f"clip{index}.mp4", seed=index, seconds=3 + index)
    (videos / "broken.mp4").write_text("this is not a video\n")
    try:
        say("\n2. Extract CLIP features of 32 frames each.")
        first = _extract(videos, store)
        say("\n3. Run the same command again.")
        second = _extract(videos, store)
        say("\n4. Replace one clip and run again: one row is computed.")
        write_clip(videos / "clip0.mp4", seed=100, seconds=4)
        third = _extract(videos, store)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    result = verify(store, deep=True)
    with Store.open(store) as opened:
        keys = opened.keys("clip")
        values = opened.read("clip", keys)
        times = opened.times("clip", keys[0])
    say(
        f"\n5. Store.read gives {values.shape} {values.dtype} for {len(keys)} videos; the frames of {keys[0]!r} lie at "
        f"{times[0]:.2f}, {times[1]:.2f}, … {times[-1]:.2f} s."
    )
    say(f"   verify --deep: {result.rows} rows, {len(result.problems)} problems.")
    computed = [item.summary["computed"] for item in (first, second, third)]
    say(f"   rows computed by the three runs: {computed[0]}, {computed[1]}, {computed[2]}")
    say(f"   videos: {videos}\n   store:  {store} (its card: {store / 'README.md'})")
    if not result.ok or computed[1:] != [0, 1]:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(demo)

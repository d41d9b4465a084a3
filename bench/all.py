"""Run every bench, one after the other; tables go to the terminal, figures to ``OUT/NAME.json``.

    python bench/all.py [NAMES …] [--out out/bench] [--long] [--gpu]
                        [--nextgqa CSV] [--music-avqa JSON] [--stanza-dir DIR]

``BENCHES`` lists every bench of this folder. Without names, all of them run (about 20 minutes) except four:
``toyworld`` trains for hours and ``million`` makes a store for a quarter of an hour, so both need ``--long``;
``parsing`` needs published questions, given with ``--nextgqa`` or ``--music-avqa``; ``gpu`` needs a CUDA device and
``--gpu``. A bench that is named always runs. ``bare``, ``layouts``, ``residency`` and ``films`` measure nothing
themselves: ``gpu`` is built on the first, ``reading`` on the next two, ``decode-real`` on the last.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

from settings.messages import available, nearest


@dataclass(frozen=True, slots=True)
class Bench:
    """One script of this folder with the arguments it is run with."""

    script: str
    arguments: tuple[str, ...] = ()
    long: bool = False
    """Whether it takes more than a quarter of an hour."""
    reads_questions: bool = False
    """Whether it measures on published annotation files, which must be given."""
    gpu: bool = False
    """Whether it needs a CUDA device."""


BENCHES = {
    "clustering": Bench("clustering.py"),
    "decode": Bench("decode.py", ("--runs", "5")),
    "decode-device": Bench("device_decoding.py"),
    "decode-real": Bench("decode_real.py", ("--generated", "--runs", "3")),
    "one-decode": Bench("one_decode.py", ("--runs", "3")),
    "overhead-local": Bench("overhead.py", ("local", "--runs", "3")),
    "overhead-ray": Bench("overhead.py", ("ray", "--runs", "2")),
    "overhead-memory": Bench("overhead.py", ("memory", "--runs", "1")),
    "million": Bench("million.py", long=True),
    "models": Bench("models.py"),
    "models-swin": Bench(
        "models.py", ("--model", "swin_tiny_patch4_window7_224", "--micro-batch", "8", "--threads", "1")
    ),
    "models-vggish": Bench(
        "models.py", ("--model", "vggish", "--steps", "60", "--micro-batch", "30", "--threads", "1")
    ),
    "gpu": Bench("gpu.py", gpu=True),
    "models-half": Bench(
        "models.py", ("--compute-dtype", "bfloat16", "--against-float32", "--threads", "1", "--rows", "1")
    ),
    "parsing": Bench("parsing.py", reads_questions=True),
    "precision": Bench("precision.py"),
    "planning": Bench("planning.py", ("--runs", "3")),
    "scale": Bench("scale.py", ("--units", "10000", "100000")),
    "store": Bench("store.py"),
    "reading": Bench("reading.py"),
    "toyworld": Bench("toyworld.py", long=True),
}


def select(names: Sequence[str], long: bool, questions: bool, gpu: bool = False) -> list[str]:
    """Return the benches to run: those named, or all that the flags allow."""
    if names:
        return list(names)
    return [
        name
        for name, bench in BENCHES.items()
        if (long or not bench.long) and (questions or not bench.reads_questions) and (gpu or not bench.gpu)
    ]


def main() -> int:
    """Run the chosen benches; return 1 if one fails or misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=available(BENCHES))
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the JSON files")
    parser.add_argument("--long", action="store_true", help="also run what takes a quarter of an hour and more")
    parser.add_argument("--gpu", action="store_true", help="also run what needs a CUDA device")
    parser.add_argument("--nextgqa", type=Path, metavar="CSV", help="questions for parsing: a NExT-GQA split")
    parser.add_argument("--music-avqa", type=Path, metavar="JSON", help="questions for parsing: a MUSIC-AVQA split")
    parser.add_argument("--stanza-dir", type=Path, metavar="DIR", help="Stanza's models for parsing")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in BENCHES:
            parser.error(f"no bench is named {name!r}{nearest(name, BENCHES)} ({available(BENCHES)})")
    options = {
        "--nextgqa": arguments.nextgqa,
        "--music-avqa": arguments.music_avqa,
        "--stanza-dir": arguments.stanza_dir,
    }
    questions = [f"{option}={path.absolute()}" for option, path in options.items() if path is not None]
    given = bool(arguments.nextgqa or arguments.music_avqa)
    chosen = select(arguments.names, arguments.long, given, arguments.gpu)
    arguments.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in chosen:
        bench = BENCHES[name]
        command = [
            sys.executable,
            f"bench/{bench.script}",
            *bench.arguments,
            *(questions if bench.reads_questions else []),
        ]
        json_file = (arguments.out / f"{name}.json").absolute()
        if subprocess.run([*command, "--json", str(json_file)], cwd=ROOT).returncode:
            failed.append(name)
    if not arguments.names and (left_out := [name for name in BENCHES if name not in chosen]):
        print(f"not run: {', '.join(left_out)} (see --help)")
    if failed:
        print(f"failed or missed a target: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

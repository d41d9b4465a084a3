"""Run every bench, one after the other, and write ``bench/RESULTS.md`` from what they found.

    python bench/all.py [NAMES …] [--long] [--out out/bench]    about an hour; with --long, hours
    python bench/all.py --quick [NAMES …]                       the same code in minutes; no figure means anything
    python bench/all.py --from-json DIR                         only write the page, from results that lie in DIR

``BENCHES`` lists every bench of this folder. What a bench finds goes to the terminal and to ``OUT/NAME.json``. After a
full run, the results replace those in ``bench/results``, from which the page is written; a bench that was not run
keeps its last result there. With ``--results PATH`` the page goes to PATH instead, and ``bench/results`` stays as it
is; only so is a page written of a quick run, of its own results alone.

A bench whose needs are missing is skipped by name, with the reason: a CUDA device, published questions and Stanza's
models for parsing, a package that reads or decodes. Questions, models and real clips are found in the folder that
``--shared``, or the environment variable ``REELSTORE_SHARED``, names. ``toyworld``, ``frozenbilm``, the ablations and
what ends in ``-million`` take long and need ``--long`` or their names, unless the run is quick. ``bare``, ``layouts``,
``residency``, ``films`` and ``trials`` measure nothing themselves: ``gpu`` is built on the first, ``reading`` on the
next two, ``decode-real`` on the fourth, ``toyworld`` and ``ablations`` on the last.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

from bench.page import KEPT, PAGE, read_results, render
from bench.report import Result, replace_text
from settings.messages import available, nearest


@dataclass(frozen=True, slots=True)
class Inputs:
    """What benches measure on that is not in this repository; None is not given.

    Attributes
    ----------
    nextgqa, music_avqa
        Annotation files of a split.
    stanza_dir
        Folder of Stanza's models.
    clips
        Folder of real clips.
    """

    nextgqa: Path | None = None
    music_avqa: Path | None = None
    stanza_dir: Path | None = None
    clips: Path | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Inputs:
        """Return what was given, or else lies in the shared folder."""
        places = {
            "nextgqa": "data/annotations/nextgqa/val.csv",
            "music_avqa": "data/annotations/music_avqa/avqa-val.json",
            "stanza_dir": "models/stanza",
            "clips": "data/media",
        }
        found: dict[str, Path | None] = {}
        for name, place in places.items():
            given: Path | None = getattr(arguments, name, None)
            shared = arguments.shared / place if arguments.shared else None
            chosen = given or (shared if shared is not None and shared.exists() else None)
            found[name] = chosen.absolute() if chosen else None
        return cls(**found)


def lacks_cuda(_: Inputs) -> str:
    """Say that there is no CUDA device, if so."""
    import torch

    return "" if torch.cuda.is_available() else "no CUDA device is visible"


def lacks_questions(inputs: Inputs) -> str:
    """Say what parsing lacks, if something."""
    if importlib.util.find_spec("stanza") is None:
        return "the package stanza is not installed"
    if inputs.nextgqa is None and inputs.music_avqa is None:
        return "it needs --nextgqa, --music-avqa or --shared"
    usual = Path(os.environ.get("STANZA_RESOURCES_DIR", Path.home() / "stanza_resources"))
    return "" if inputs.stanza_dir or usual.is_dir() else "it needs Stanza's models: --stanza-dir or --shared"


def lacks_decoder(_: Inputs) -> str:
    """Say that torchcodec is missing, if so."""
    return "" if importlib.util.find_spec("torchcodec") else "the package torchcodec is not installed"


def questions(inputs: Inputs) -> list[str]:
    """Return the arguments that name the questions and the models."""
    options = {"--nextgqa": inputs.nextgqa, "--music-avqa": inputs.music_avqa, "--stanza-dir": inputs.stanza_dir}
    return [f"{option}={path}" for option, path in options.items() if path is not None]


def clips(inputs: Inputs) -> list[str]:
    """Return the folder of real clips, if there is one."""
    return [str(inputs.clips)] if inputs.clips else []


@dataclass(frozen=True, slots=True)
class Bench:
    """One script of this folder with the arguments it is run with.

    Attributes
    ----------
    script, arguments
        The script and its arguments; those of a quick run are followed by ``--quick``, which replaces sizes.
    long
        Whether it takes long, so that it runs only where that is asked for.
    lacks
        Returns what it needs that is missing; nothing if it can run.
    given
        Returns further arguments, of a run that is not quick unless ``quick_given``.
    quick_as
        The bench whose quick run is the same, or almost, so that a quick run of all leaves this one out.
    """

    script: str
    arguments: tuple[str, ...] = ()
    long: bool = False
    lacks: Callable[[Inputs], str] = lambda _: ""
    given: Callable[[Inputs], list[str]] = lambda _: []
    quick_given: bool = False
    quick_as: str = ""


SWIN = ("--model", "swin_tiny_patch4_window7_224", "--micro-batch", "8", "--threads", "1")
MILLION = ("--files", "1000000", "--features", "3", "--runs", "3")
VGGISH = ("--model", "vggish", "--steps", "60", "--micro-batch", "30", "--threads", "1")
HALF = ("--compute-dtype", "bfloat16", "--threads", "1")

LINKED = ("--toyworld", "--world", "linked")

# The order of the page.
BENCHES = {
    "decode": Bench("decode.py", ("--runs", "5")),
    "decode-real": Bench("decode_real.py", ("--generated", "--runs", "3"), given=clips),
    "decode-long": Bench("decode_real.py", ("--long", "--runs", "3")),
    "decode-device": Bench("device_decoding.py", lacks=lacks_decoder),
    "one-decode": Bench("one_decode.py", ("--runs", "3")),
    "overhead-local": Bench("overhead.py", ("local", "--runs", "3")),
    "overhead-ray": Bench("overhead.py", ("ray", "--runs", "2")),
    "overhead-memory": Bench("overhead.py", ("memory", "--runs", "1")),
    "models": Bench("models.py"),
    "models-swin": Bench("models.py", SWIN),
    "models-vggish": Bench("models.py", VGGISH),
    "models-half-bare": Bench("models.py", (*HALF, "--rows", "2"), quick_as="models"),
    "named-towers": Bench("named_towers.py"),
    "models-half": Bench("models.py", (*HALF, "--rows", "1", "--against-float32")),
    "precision": Bench("precision.py"),
    "clips": Bench("clips.py"),
    "gpu": Bench("gpu.py", lacks=lacks_cuda),
    "planning": Bench("planning.py", ("--runs", "3")),
    "planning-million": Bench("planning.py", MILLION, long=True, quick_as="planning"),
    "scale": Bench("scale.py", ("--units", "10000", "100000")),
    "scale-million": Bench("scale.py", ("--units", "1000000"), long=True, quick_as="scale"),
    "store": Bench("store.py"),
    "store-million": Bench("million.py", long=True),
    "parsing": Bench("parsing.py", lacks=lacks_questions, given=questions, quick_given=True),
    "clustering": Bench("clustering.py"),
    "clustering-million": Bench(
        "clustering.py",
        ("--members", "1500000", "--no-peer", "--graphs", "0", "--strings", "200000"),
        long=True,
        quick_as="clustering",
    ),
    "reading": Bench("reading.py"),
    "toyworld": Bench("toyworld.py", long=True),
    "frozenbilm": Bench("frozenbilm.py", long=True),
    "ablations-cra": Bench("ablations.py", ("cra", "--toyworld"), long=True),
    "ablations-cra-free": Bench(
        "ablations.py", ("cra", "--toyworld", "--world", "free", "--only", "bias"), long=True, quick_as="ablations-cra"
    ),
    "ablations-coqo": Bench("ablations.py", ("coqo", "--toyworld"), long=True),
    "ablations-cra-linked": Bench(
        "ablations.py", ("cra", *LINKED, "--epochs", "10"), long=True, quick_as="ablations-cra"
    ),
    "ablations-coqo-linked": Bench(
        "ablations.py",
        ("coqo", *LINKED, "--set", "loss.intra=0.1", "--set", "loop.lr=1e-3"),
        long=True,
        quick_as="ablations-coqo",
    ),
}


def select(names: Sequence[str], long: bool, quick: bool = False) -> list[str]:
    """Return the benches to run: those named, or all that do not take long, or all; in a quick run nothing is long."""
    return list(names) or [
        name for name, bench in BENCHES.items() if (not bench.quick_as if quick else long or not bench.long)
    ]


def run(name: str, inputs: Inputs, quick: bool, json_file: Path) -> Result | str:
    """Run one bench in a process of its own; return what it found, or why there is nothing."""
    bench = BENCHES[name]
    if reason := bench.lacks(inputs):
        return f"skipped: {reason}"
    json_file.unlink(missing_ok=True)
    given = bench.given(inputs) if bench.quick_given or not quick else []
    words = [f"bench/{bench.script}", *bench.arguments, *given, *(["--quick"] if quick else [])]
    done = subprocess.run([sys.executable, *words, "--json", str(json_file)], cwd=ROOT)
    if done.returncode not in (0, 1) or not json_file.exists():
        return f"failed: exit code {done.returncode}"
    try:
        result = Result.read(json_file)
    except ValueError as error:
        return f"failed: {error}"
    return f"skipped: {result.report.skipped}" if result.report.skipped else result


def verdict(result: Result) -> str:
    """Return in a few words how a bench ended."""
    if result.report.failures:
        return f"failed: {'; '.join(result.report.failures)}"
    if result.quick:
        return "ran"
    missed = sum(target.met is False for target in result.targets)
    return f"missed {missed} of {len(result.targets)} targets" if missed else "met its targets"


def publish(fresh: Mapping[str, Result], page: Path | None) -> Path:
    """Write the page: into the repository with the results that it is made of, or to a path of its own."""
    if page is None:
        for name, result in fresh.items():
            result.write(KEPT / f"{name}.json")
        replace_text(PAGE, render(read_results(KEPT, BENCHES)))
        return PAGE
    kept = {} if any(result.quick for result in fresh.values()) else read_results(KEPT, BENCHES)
    both = {**kept, **fresh}
    page.parent.mkdir(parents=True, exist_ok=True)
    replace_text(page, render({name: both[name] for name in BENCHES if name in both}))
    return page


def measure(names: Sequence[str], inputs: Inputs, quick: bool, out: Path) -> tuple[dict[str, Result], dict[str, str]]:
    """Run benches one after the other; return what was found, and how each ended, by name."""
    fresh: dict[str, Result] = {}
    ended: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        print(f"\n=== {name} ({number} of {len(names)})", flush=True)
        started = time.monotonic()
        found = run(name, inputs, quick, (out / f"{name}.json").absolute())
        if isinstance(found, Result):
            fresh[name] = found
        how = verdict(found) if isinstance(found, Result) else found
        ended[name] = f"{how} ({time.monotonic() - started:.0f} s)"
    return fresh, ended


def main() -> int:
    """Run the chosen benches and write the page; return 1 if one fails or misses a target."""
    shared = os.environ.get("REELSTORE_SHARED")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=available(BENCHES))
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder of the JSON files")
    parser.add_argument("--quick", action="store_true", help="run little of everything, to see that it runs")
    parser.add_argument("--long", action="store_true", help="also run what takes long")
    parser.add_argument("--results", type=Path, metavar="PATH", help="write the page here, not into the repository")
    parser.add_argument("--from-json", type=Path, metavar="DIR", help="measure nothing: take the results of a folder")
    parser.add_argument(
        "--shared", type=Path, default=shared, metavar="DIR", help="real clips, questions and Stanza's models"
    )
    parser.add_argument("--nextgqa", type=Path, metavar="CSV", help="questions for parsing: a NExT-GQA split")
    parser.add_argument("--music-avqa", type=Path, metavar="JSON", help="questions for parsing: a MUSIC-AVQA split")
    parser.add_argument("--stanza-dir", type=Path, metavar="DIR", help="Stanza's models for parsing")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in BENCHES:
            parser.error(f"no bench is named {name!r}{nearest(name, BENCHES)} ({available(BENCHES)})")
    ended: dict[str, str] = {}
    if arguments.from_json is not None:
        try:
            fresh = read_results(arguments.from_json, BENCHES)
        except ValueError as error:
            parser.error(str(error))
        if not fresh:
            parser.error(f"{arguments.from_json}: no result of a bench lies there")
    else:
        chosen = select(arguments.names, arguments.long, arguments.quick)
        fresh, ended = measure(chosen, Inputs.of(arguments), arguments.quick, arguments.out)
        left = [] if arguments.names else [name for name in BENCHES if name not in chosen]
        for name in left:
            same = f"its quick run is that of {BENCHES[name].quick_as}"
            ended[name] = f"not run: {same if arguments.quick else 'it takes long (--long)'}"
        print(f"\n=== {len(chosen)} benches")
    for name, how in ended.items():
        print(f"{name}: {how}")
    if any(result.quick for result in fresh.values()) and arguments.results is None:
        print("quick: no targets, and bench/RESULTS.md stays as it is")
    elif fresh:
        print(f"written: {publish(fresh, arguments.results)}")
    return int(any(how.startswith(("failed", "missed")) for how in ended.values()))


if __name__ == "__main__":
    sys.exit(main())

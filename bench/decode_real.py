"""Compare the CPU time of 32 uniform frames on many clips: files of a folder, and films that differ in kind.

    python bench/decode_real.py [DIR] [--generated] [--long] [--runs 5] [--quick] [--json PATH]

    DIR          every video file in this folder.
    --generated  twelve films: every pair of a GOP of 12, 50 or 250 frames with no B-frames, B-frames, or B-frames that
                 are referred to (a pyramid), and three more; 320x180 to 1920x1080 pixels, 2 to 120 s.
    --long       a film of ten minutes with a GOP of 50 frames, against a plain decode of all of it.

Every measurement runs in a process of its own on one decoder thread. It counts the user and system time of opening the
file, choosing the frames, decoding and converting them to RGB; imports and the first use of a library are left out. The
peers are told which frames to take: PyAV decodes in order up to the last one, decord and torchcodec seek as they see
fit. Pixels are compared with ours; a peer that shows other frames is measured, but it is no peer of the ratio.

How much can be skipped is a matter of the share of packets that no other refers to ("not ref.": a ``nal_ref_idc`` of
0), and so is the target. The exit code is 1 if a clip misses its target or cannot be decoded.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from bench.decode import UNIFORM, USES, decord, torchcodec
from bench.films import FILMS, LONG_FILM, QUICK_FILM, WARMING_FILM, Film, films_folder, shoot
from bench.report import Column, Report, Table, Target, bench_parser, prose
from pipeline.media import DecodeRequest, Frame, Header, Limits, MediaError, SamplingError, decode, policy_from_spec
from pipeline.media.packets import H264, read_index
from pipeline.media.picture import to_rgb
from pipeline.media.source import open_source

Pictures = list[NDArray[np.uint8]]

KEYFRAMES = {"policy": "keyframes", "n": 32}
MANY_SKIPPABLE = 0.4
TARGET_MANY, TARGET_FEW = 0.80, 1.05
TARGET_LONG = {"uniform": 0.25, "keyframes": 0.15}
NOTE = """Skipping pays wherever much can be skipped. Where packets cannot be skipped, whole groups of pictures can, if
GOPs are short; without either we take as long as PyAV. Where that is a small part of a second, the first pass over the
packets and the plan, which take milliseconds, show in the ratio, and medians of few runs are noise. What
fresh processes add to our time is not explained: in one process, after a first decode, there is no such difference. Two
readings of the packets are a part of the time of a long film: a file above 64 MiB is not kept for the second pass."""
OTHER_PICTURE = 8.0
"""Mean difference, on the scale of 0 to 255, from which two pictures are not two conversions of one frame."""


def ours(path: str, spec: dict[str, Any], wanted: Sequence[int]) -> Pictures:
    """Decode with our own decoder, in this process; it finds out by itself which frames are wanted."""
    pictures: Pictures = []
    for event in decode(DecodeRequest(path, (spec,))):
        if isinstance(event, Header):  # a second one voids what came before
            pictures.clear()
        elif isinstance(event, Frame):
            pictures.append(event.rgb)
    return pictures


def pyav(path: str, spec: dict[str, Any], wanted: Sequence[int], whole: bool = False) -> Pictures:
    """Decode in order with PyAV, to the last wanted frame or to the end, and convert the wanted ones as we do."""
    pictures: Pictures = []
    chosen, last = frozenset(wanted), max(wanted)
    reformatter = VideoReformatter()
    with av.open(path) as container:
        video = container.streams.best("video")
        assert isinstance(video, VideoStream)
        video.codec_context.thread_count = 1
        aspect = Fraction(video.sample_aspect_ratio or 1)
        for number, frame in enumerate(container.decode(video)):
            if number in chosen:
                pictures.append(to_rgb(reformatter, frame, aspect, Limits()))
            if number >= last and not whole:
                break
    return pictures


CONTENDERS: dict[str, Callable[[str, dict[str, Any], Sequence[int]], Pictures]] = {
    "ours": ours,
    "pyav": pyav,
    "decord": lambda path, spec, wanted: list(decord(path, spec, wanted)),
    "torchcodec": lambda path, spec, wanted: list(torchcodec(path, spec, wanted)),
    "pyav, all of it": lambda path, spec, wanted: pyav(path, spec, wanted, whole=True),
}
PEERS = ("pyav", "decord", "torchcodec")


@dataclass(frozen=True, slots=True)
class Clip:
    """What is known of a clip before anything is measured.

    Attributes
    ----------
    codec, width, height, frames
        The codec by libav's name, the size as coded, the number of frames shown.
    seconds
        Length in seconds.
    share
        Share of packets that no other refers to; None where the codec does not tell.
    way
        How we decode it: ``skip``, or ``plain`` and why.
    wanted
        Numbers of the wanted frames among those shown, ascending.
    """

    codec: str
    width: int
    height: int
    frames: int
    seconds: float
    share: float | None
    way: str
    wanted: tuple[int, ...]

    @property
    def target(self) -> float:
        """Largest ratio of our time to the fastest peer's."""
        return TARGET_MANY if (self.share or 0.0) >= MANY_SKIPPABLE else TARGET_FEW


def describe(path: Path, spec: dict[str, Any]) -> Clip:
    """Decode a clip once, off the clock, and return what is known of it.

    Raises
    ------
    MediaError
        If it cannot be decoded.
    """
    headers = [event for event in decode(DecodeRequest(str(path), (spec,))) if isinstance(event, Header)]
    header = headers[-1]
    with open_source(str(path), Limits()) as source:
        index, context = read_index(source), source.video.codec_context
        codec, width, height = context.name, context.width, context.height
    reason = header.media["plain_because"]
    chosen = header.samples[0].frame
    return Clip(
        codec=codec,
        width=width,
        height=height,
        frames=header.media["frames"],
        seconds=header.duration_s,
        share=index.reference.count(False) / len(index.reference) if codec == H264 else None,
        way=header.media["decode"] + (f": {reason}" if reason else ""),
        wanted=tuple(np.unique(chosen[chosen >= 0]).tolist()),
    )


def measure(contender: str, path: str, spec: dict[str, Any], wanted: Sequence[int], warming: str) -> dict[str, Any]:
    """Measure once in this process: CPU seconds, the pictures, and a digest of them (computed off the clock)."""
    CONTENDERS[contender](warming, {"policy": "uniform", "n": 1}, [0])  # first-use costs are no part of decoding
    before = resource.getrusage(resource.RUSAGE_SELF)
    pictures = CONTENDERS[contender](path, spec, wanted)
    after = resource.getrusage(resource.RUSAGE_SELF)
    digest = hashlib.sha256()
    for picture in pictures:
        digest.update(repr(picture.shape).encode())
        digest.update(np.ascontiguousarray(picture).data)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu, "digest": digest.hexdigest(), "pictures": pictures}


def measure_apart(
    contender: str, path: Path, spec: dict[str, Any], wanted: Sequence[int], keep: Path | None = None
) -> dict[str, Any]:
    """Measure once in a fresh process; ``skipped`` in the result is the reason why that failed.

    Parameters
    ----------
    keep
        Where the process saves its pictures, as an ``.npz`` file.
    """
    if contender in PEERS and importlib.util.find_spec("av" if contender == "pyav" else contender) is None:
        return {"skipped": f"{contender} is not installed"}
    task = {
        "contender": contender,
        "path": str(path),
        "spec": spec,
        "wanted": wanted,
        "warming": str(shoot(WARMING_FILM, films_folder())),
        "keep": None if keep is None else str(keep),
    }
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _child(task: dict[str, Any]) -> None:
    keep = task.pop("keep")
    result = measure(**task)
    pictures = result.pop("pictures")
    if keep:
        np.savez(keep, *pictures)
    print(json.dumps(result))


def difference(own: Pictures, other: Pictures) -> str:
    """Say in words how the pictures of a peer differ from ours."""
    largest = strangers = 0
    for mine, theirs in zip_longest(own, other):
        if mine is None or theirs is None:
            strangers += 1
            continue
        if mine.shape != theirs.shape:
            return f"other size ({theirs.shape[1]}x{theirs.shape[0]} for {mine.shape[1]}x{mine.shape[0]})"
        gap = np.abs(mine.astype(np.int16) - theirs)
        if gap.mean() > OTHER_PICTURE:
            strangers += 1
        else:
            largest = max(largest, int(gap.max()))
    if strangers:
        return f"other frames ({strangers} of {len(own)})"
    return f"differs by at most {largest}" if largest else "equal"


def compare(contender: str, path: Path, spec: dict[str, Any], wanted: Sequence[int]) -> str:
    """Let us and a peer decode a clip once more and say how their pictures differ."""
    with tempfile.TemporaryDirectory() as folder:
        kept = [Path(folder) / "own.npz", Path(folder) / "other.npz"]
        for name, keep in zip(("ours", contender), kept, strict=True):
            measure_apart(name, path, spec, wanted, keep)
        own, other = ([arrays[name] for name in arrays.files] for arrays in map(np.load, kept))
    return difference(own, other)


def contest(
    contenders: Sequence[str], path: Path, spec: dict[str, Any], wanted: Sequence[int], runs: int
) -> dict[str, dict[str, Any]]:
    """Return the median measurement of each contender; they take turns, so that all share the machine's noise."""
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, measured in results.items():
            if not (measured and "skipped" in measured[-1]):
                measured.append(measure_apart(name, path, spec, wanted))
    rows: dict[str, dict[str, Any]] = {}
    for name, measured in results.items():
        if "skipped" in measured[-1]:
            rows[name] = measured[-1]
            continue
        times = [result["cpu_s"] for result in measured]
        rows[name] = {"cpu_s": statistics.median(times), "all_cpu_s": times}
        if name != "ours":
            same = "cpu_s" in rows["ours"] and measured[0]["digest"] == results["ours"][0]["digest"]
            rows[name]["pixels"] = "equal" if same else compare(name, path, spec, wanted)
    return rows


def measure_clip(path: Path, runs: int) -> dict[str, Any]:
    """Measure one clip against all peers; ``failed`` in the result is the reason why that is impossible."""
    try:
        clip = describe(path, UNIFORM)
    except MediaError as error:
        return {"clip": path.name, "failed": str(error)}
    rows = contest(("ours", *PEERS), path, UNIFORM, clip.wanted, runs)
    return _judged(path, clip, rows, PEERS, clip.target)


def measure_long(runs: int, film: Film) -> list[dict[str, Any]]:
    """Measure a long film: each policy that there is, against a plain decode of all of it."""
    path = shoot(film, films_folder())
    results = []
    for spec in (UNIFORM, KEYFRAMES):
        try:
            policy_from_spec(spec)
        except SamplingError as error:
            results.append({"clip": path.name, "policy": spec["policy"], "unknown": str(error)})
            continue
        clip = describe(path, spec)
        plain = "pyav, all of it"
        rows = contest(("ours", plain, "decord", "torchcodec"), path, spec, clip.wanted, runs)
        judged = _judged(path, clip, rows, (plain,), TARGET_LONG[str(spec["policy"])])
        results.append({**judged, "policy": spec["policy"]})
    return results


def _judged(
    path: Path, clip: Clip, rows: dict[str, dict[str, Any]], peers: Sequence[str], target: float
) -> dict[str, Any]:
    """Return the figures of one clip with the ratio to the fastest of the peers that show the same frames."""
    if "skipped" in rows["ours"]:
        return {"clip": path.name, "failed": rows["ours"]["skipped"]}
    times = {
        name: rows[name]["cpu_s"]
        for name in peers
        if "cpu_s" in rows[name] and not rows[name]["pixels"].startswith("other")
    }
    fastest = min(times, key=lambda name: times[name]) if times else None
    ratio = rows["ours"]["cpu_s"] / times[fastest] if fastest else None
    return {
        "clip": path.name,
        **asdict(clip),
        "wanted": len(clip.wanted),
        "contenders": rows,
        "fastest_peer": fastest,
        "ratio": ratio,
        "target": target,
    }


def videos(folder: Path) -> list[Path]:
    """Return the video files in a folder, by name."""
    from pipeline.extract.sources import VIDEO_SUFFIXES  # not in the measured processes: it imports much

    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES)


def table(title: str, results: Sequence[dict[str, Any]], contenders: Mapping[str, str]) -> Table:
    """Return the measured clips as a table; contenders that took part are its columns, with headings by name."""
    measured = [result for result in results if "contenders" in result]
    present = {
        name: heading
        for name, heading in contenders.items()
        if any("cpu_s" in result["contenders"][name] for result in measured)
    }
    times = [Column(heading, ".3f") for heading in present.values()]
    rows = [
        [
            _name(result),
            result["share"],
            *(result["contenders"][name].get("cpu_s") for name in present),
            result["ratio"],
        ]
        for result in measured
    ]
    return Table(title, ["clip", Column("not ref.", ".0%"), *times, Column("ratio", ".2f")], rows)


def remarks(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return what no figure of the tables says: how clips were decoded, which peers differ, who was left out."""
    told = []
    for result in results:
        rows = result.get("contenders", {})
        if "unknown" in result:
            told.append(f"{_name(result)}: not measured: {result['unknown']}")
        elif ":" in result.get("way", ""):
            told.append(f"{_name(result)}: {result['way']}")
        told += [
            f"{_name(result)}: {contender}: {row['pixels']}"
            for contender, row in rows.items()
            if row.get("pixels", "equal") != "equal"
        ]
        told += [f"{contender} was left out: {row['skipped']}" for contender, row in rows.items() if "skipped" in row]
    return list(dict.fromkeys(told))


def report(clips: Sequence[dict[str, Any]], long: Sequence[dict[str, Any]], runs: int) -> Report:
    """Return the figures as tables, each clip held to its target."""
    both = [*clips, *long]
    title = f"CPU seconds, median of {runs}"
    peers = {name: name for name in ("ours", *PEERS)}
    tables = [table(f"32 uniform frames: {title}", clips, peers)] if clips else []
    if long:
        whole = {"ours": "ours", "pyav, all of it": "all of it", "decord": "decord", "torchcodec": "torchcodec"}
        tables.append(table(f"32 frames of a long film, of which PyAV decodes all: {title}", long, whole))
    measured = [result for result in both if "contenders" in result]
    failed = [f"{_name(result)}: not measured: {result['failed']}" for result in both if "failed" in result]
    failed += [f"{_name(result)}: no peer shows the same frames" for result in measured if result["ratio"] is None]
    return Report(
        title="Decoding of many clips" if clips else "Decoding of a long film",
        about=prose(__doc__),
        tables=tables,
        targets=[Target(_name(result), result["ratio"], result["target"]) for result in measured],
        notes=[*remarks(both), NOTE],
        failures=failed,
        figures={"runs": runs, "clips": clips, "long": long},
        uses=USES,
    )


def _name(result: dict[str, Any]) -> str:
    return Path(result["clip"]).stem + (f" {result['policy']}" if "policy" in result else "")


def main() -> int:
    """Measure and report; with ``--child``, run one measurement and print it as JSON."""
    parser = bench_parser(__doc__, runs=1)
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="measure every video file in this folder")
    parser.add_argument(
        "--generated", action="store_true", help="measure twelve films that are made for it (a quick run: one)"
    )
    parser.add_argument("--long", action="store_true", help="measure a film of ten minutes (takes minutes)")
    parser.add_argument("--runs", type=int, default=5, help="measurements of each contender; medians are reported")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(json.loads(arguments.child))
        return 0
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    paths: list[Path] = []
    if arguments.folder is not None:
        if not arguments.folder.is_dir():
            parser.error(f"{arguments.folder} is not a folder")
        paths += videos(arguments.folder)
        if not paths:
            parser.error(f"{arguments.folder} holds no video file")
    if arguments.generated:
        paths += [shoot(film, films_folder()) for film in ((QUICK_FILM,) if arguments.quick else FILMS)]
    if not paths and not arguments.long:
        parser.error("nothing to measure: name a folder, or give --generated or --long")
    clips = [measure_clip(path, arguments.runs) for path in paths]
    long = measure_long(arguments.runs, QUICK_FILM if arguments.quick else LONG_FILM) if arguments.long else []
    return report(clips, long, arguments.runs).finish(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""The pages about a store: what stands on which, and how they are written."""

from __future__ import annotations

import functools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pyarrow as pa
import pyarrow.compute as pc

from ..describe.coverage import percent
from ..describe.inspect import FailureRecord, StoreDescription, describe_store
from ..describe.origins import find_origins
from ..describe.versions import history
from ..describe.videos import count_questions, rows_of
from ..errors import MissingKeyError
from ..format import layout
from ..store import Store
from ..wording import plural, printable
from . import charts, clusters, features, overview, questions, runs, videos
from .drawing import draw_graph
from .media import Decoded, decode_all
from .place import FRONT, Place

VIDEOS = 48
"""Videos that have a page of their own, unless another number is asked for."""
FAILURES = 500
"""The page of failures lists at most this many."""
VERSIONS = 100
"""The page of versions lists at most this many, the latest."""
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of the pages.

    Attributes
    ----------
    videos
        How many videos have a page of their own, evenly spaced over the sorted keys.
    only
        The keys of these videos instead.
    decode
        Whether frames and sound are decoded anew from the videos.
    """

    videos: int = VIDEOS
    only: tuple[str, ...] = ()
    decode: bool = True


@dataclass(slots=True)
class _Contents:
    """What several pages need, read once."""

    store: Store
    described: StoreDescription
    options: Options
    keys: pa.Array
    listed: list[str]
    paged: list[str]
    failed: dict[str, list[FailureRecord]]
    page_of: dict[str, str] = field(default_factory=dict)


def write_pages(store: Store, out: Path | None = None, options: Options = Options()) -> Path:
    """Write the pages about a store, and return the path of the first one.

    Parameters
    ----------
    store
        The store.
    out
        A folder, or a file that ends in ``.html`` for the first page, beside which a folder of the same name holds the
        others; by default ``report.html`` in the store.
    options
        What is asked of the pages.

    Raises
    ------
    StoreError
        If the folder holds something else than pages.
    MissingKeyError
        If a key that is asked for is not in the store.
    OSError
        If they cannot be written.
    """
    place = Place.of(store.path / layout.REPORT if out is None else out)
    with place.replaced() as write:
        for name, data in render(store, place, options):
            write(name, data)
    return place.front


def render(store: Store, place: Place, options: Options = Options()) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of each file; the first page is called ``index.html`` here.

    All text of the data set is escaped. The same store, sources and libraries give the same bytes.
    """
    contents = _read(store, options)
    described = contents.described
    templates = _environment()
    shared = _shared(contents)

    def page(name: str, template: str, **values: Any) -> tuple[str, bytes]:
        links = (place.to_folder, quote(place.front.name)) if name == FRONT else ("", place.to_front)
        text = templates.get_template(f"{template}.html.j2").render(
            **shared, **values, base=links[0], front=links[1], current=template
        )
        return name, text.encode("utf-8", "backslashreplace")

    failures = described["failures"]
    plans = described["coverage"]["plan"]
    described_features = [
        features.describe(store, name, feature, plans.get(name)) for name, feature in described["features"].items()
    ]
    known_runs, run_count = runs.read_runs(store)
    versions = history(store.path, VERSIONS, store.version)[::-1]
    dictionaries = clusters.describe(store)
    asked, asked_total = questions.listed(store)
    yield page(
        FRONT,
        "index",
        warnings=overview.warnings_of(store, described),
        features=described_features,
        splits=described["coverage"]["splits"],
        types=overview.question_types(store),
        tables=overview.tables_of(store),
        anomalies=overview.anomalies(store),
        versions=versions[:5],
        runs=known_runs,
        failure_count=len(failures),
    )
    yield page("features.html", "features", features=described_features)
    yield page(
        "failures.html",
        "failures",
        failures=failures[:FAILURES],
        failure_count=len(failures),
        classes=overview.failure_classes(failures),
        retry=runs.retry_command(store, [version.command for version in versions if version.command]),
    )
    yield page("runs.html", "runs", runs=known_runs, run_count=run_count)
    yield page("versions.html", "versions", versions=versions)
    yield page("questions.html", "questions", questions=asked, total=asked_total)
    yield page("videos.html", "videos", videos=_listing(contents))
    pictures = _Pictures(contents, dictionaries)
    yield page("dictionaries.html", "dictionaries", dictionaries=dictionaries, picture_of=pictures.names)
    yield from pictures.files()
    for number, key in enumerate(contents.paged):
        described_video, files = _video(contents, pictures, key)
        beside = [contents.paged[at] if 0 <= at < len(contents.paged) else None for at in (number - 1, number + 1)]
        yield page(contents.page_of[key], "video", video=described_video, before=beside[0], after=beside[1])
        yield from files
    for name in ("style.css", "script.js"):
        yield name, (_TEMPLATES / name).read_bytes()


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = _shown
    environment.filters["plural"] = plural
    environment.filters["shell"] = shlex.quote
    environment.globals |= {"percent": percent, "draw_graph": draw_graph, "histogram": charts.histogram}
    environment.globals["cells"] = videos.CELLS
    return environment


def _shown(text: object) -> str:
    """Return a text of the data set with what a terminal or browser would interpret escaped; nothing for None."""
    return "" if text is None else printable(str(text))


def _read(store: Store, options: Options) -> _Contents:
    keys = videos.all_keys(store)
    listed = videos.choose(keys, videos.LISTED)
    paged = list(options.only)
    if paged:
        known = pc.is_in(pa.array(paged, pa.string()).cast(pa.large_binary()), value_set=keys).to_pylist()
        for key, is_known in zip(paged, known, strict=True):
            if not is_known:
                raise MissingKeyError(
                    f"{store.path}: no row, failure or question for key {key!r} in version {store.version}"
                )
        listed = sorted({*listed, *paged}, key=str.encode)
    else:
        paged = videos.choose(pa.array(listed, pa.large_string()).cast(pa.large_binary()), options.videos)
    described = describe_store(store)
    failed: dict[str, list[FailureRecord]] = {key: [] for key in listed}
    for failure in described["failures"]:
        if failure["video_id"] in failed:
            failed[failure["video_id"]].append(failure)
    contents = _Contents(store, described, options, keys, listed, paged, failed)
    contents.page_of = {key: f"video-{number:04d}.html" for number, key in enumerate(paged, 1)}
    return contents


def _shared(contents: _Contents) -> dict[str, Any]:
    """Return what every page shows: the head and the way to the other pages."""
    store, described = contents.store, contents.described
    return {
        "name": store.path.name,
        "path": str(store.path),
        "version": store.version,
        "created_at": store.manifest.created_at,
        "command": store.manifest.command,
        "total_bytes": sum(feature["bytes"] for feature in described["features"].values()),
        "row_count": sum(feature["rows"] for feature in described["features"].values()),
        "feature_count": len(described["features"]),
        "video_count": len(contents.keys),
        "listed_count": len(contents.listed),
        "paged_count": len(contents.paged),
        "page_of": contents.page_of,
        "pages": [
            ("index", "", "Overview"),
            ("features", "features.html", "Features"),
            ("videos", "videos.html", "Videos"),
            ("questions", "questions.html", "Questions"),
            ("dictionaries", "dictionaries.html", "Dictionaries"),
            ("runs", "runs.html", "Runs"),
            ("failures", "failures.html", "Failures"),
            ("versions", "versions.html", "Versions"),
        ],
    }


def _listing(contents: _Contents) -> list[dict[str, Any]]:
    """Return what the list of videos says of each."""
    store, keys = contents.store, contents.listed
    binary = pa.array(keys, pa.large_string()).cast(pa.large_binary())
    has = {
        name: pc.is_in(
            binary, value_set=store.index(name).column("key").combine_chunks().cast(pa.large_binary())
        ).to_pylist()
        for name in store.features
    }
    asked = count_questions(store, keys)
    listed = []
    for at, key in enumerate(keys):
        held = [name for name in has if has[name][at]]
        seconds = store.clip(held[0], key)[1] if held else float("nan")
        listed.append(
            {
                "key": key,
                "seconds": seconds if seconds == seconds else None,
                "rows": len(held),
                "lacking": [name for name in has if not has[name][at]],
                "questions": asked.get(key, 0),
                "failed": ", ".join(sorted({failure["class"] for failure in contents.failed[key]})),
            }
        )
    return listed


class _Pictures:
    """Everything that is decoded: of the videos that have a page, and the frames of dictionaries."""

    def __init__(self, contents: _Contents, dictionaries: Sequence[dict[str, Any]]) -> None:
        store = contents.store
        self.questions = questions.of_videos(store, contents.paged)
        self.rows = {key: rows_of(store, key) for key in contents.paged}
        moments = clusters.moments(dictionaries) if contents.options.decode else []
        keys = list(dict.fromkeys([*contents.paged, *(moment.key for moment in moments)]))
        self.origins = find_origins(store, keys)
        self.names: dict[tuple[str, float], str] = {}
        self.decoded: dict[str, Decoded] = {}
        self._files: list[tuple[str, bytes]] = []
        if contents.options.decode:
            self._decode(store, keys, moments)

    def _decode(self, store: Store, keys: Sequence[str], moments: Sequence[clusters.Moment]) -> None:
        """Decode each video once, for its page and for the dictionaries."""
        nearest: dict[str, list[float]] = {}
        for moment in moments:
            nearest.setdefault(moment.key, []).append(moment.time_s)
        wanted = {}
        for key in keys:
            rows = self.rows[key] if key in self.rows else rows_of(store, key)
            one = videos.wanted_of(rows, self.origins.get(key, []), nearest.get(key, ()), whole=key in self.rows)
            if one is not None:
                wanted[key] = one
        found = dict(zip(wanted, decode_all(list(wanted.values())), strict=True))
        for key, decoded in found.items():
            at = dict(zip(wanted[key].times, decoded.pictures, strict=False))
            for second in nearest.get(key, ()):
                if second in at:
                    self.names[key, second] = f"nearest-{len(self._files) + 1:04d}.jpg"
                    self._files.append((self.names[key, second], at[second]))
            if key in self.rows:
                shown = videos.times_of(self.rows[key])
                self.decoded[key] = replace(decoded, pictures=[at[time] for time in shown if time in at])

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the pictures of dictionaries."""
        yield from self._files


def _video(contents: _Contents, pictures: _Pictures, key: str) -> tuple[Mapping[str, Any], list[tuple[str, bytes]]]:
    """Return what the page of a video shows, and its pictures."""
    rows = pictures.rows[key]
    decoded = pictures.decoded.get(key, Decoded())
    if not contents.options.decode:
        decoded = Decoded(problem="frames were not asked for")
    failed = contents.failed.get(key, [])
    asked, origins = pictures.questions.get(key, []), pictures.origins.get(key, [])
    described = videos.describe(contents.store, key, rows, asked, decoded, origins, [each["uri"] for each in failed])
    stem = contents.page_of[key].removesuffix(".html")
    files = [(f"{stem}-{number:02d}.jpg", picture) for number, picture in enumerate(decoded.pictures, 1)]
    lacking = [name for name in contents.store.features if name not in {row.feature for row in rows}]
    frames = [(name, time) for (name, _), time in zip(files, described["times"], strict=False)]
    return {**described, "frames": frames, "failed": failed, "lacking": lacking}, files


__all__ = ["Options", "Place", "render", "write_pages"]

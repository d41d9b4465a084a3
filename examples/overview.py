"""Draw the picture of README from a finished demo: one video and one question on their way from file to score.

python -m examples.overview out/demo bench/figures/overview.png

Everything in it is read from the demo's folder: frames and sound of a video, the rows of its features, the graph of a
question, clusters of a dictionary, the store's versions, and what CRA attends to, answers and scores. The question is
the first of the test split of the form "what does … do" that CRA answers rightly, with a span whose IoU with the true
one is at least a half.
"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from extractors.logmel import log_mel
from stores import Store
from stores.describe import history
from trainers.errors import TrainingError
from trainers.panels import Finder, FinishedRun, open_run
from trainers.panels.clip import Frame, read_frames, read_waveform
from trainers.panels.figure import to_png
from trainers.panels.finished import ShownQuestion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 830, 852
"""Size on the page, in CSS pixels; the file has twice as many."""
SPLIT = "test"
FEATURE = "frames"
SHOWN_FRAMES = 8
SHOWN_CLUSTERS = 6
LEFT, LANE, RIGHT, SIDE = 20, 480, 536, 274
"""Where the two columns begin and how wide they are; on the left, x is the time of the video."""
SCORES, BAR = 440, 140
WAVE_BLOCKS = 480
INK, DIM, LINE, PAPER, BAND = "#1f2328", "#59636e", "#d1d9e0", "#ffffff", "#eef4fb"
BLUE, GREEN, ORANGE, GREY, VIOLET = "#2563c9", "#2a9d4a", "#d9822b", "#9aa4ae", "#7a4fc0"


@dataclass(frozen=True, slots=True)
class Shown:
    """What the picture shows.

    Attributes
    ----------
    video
        Its key.
    duration
        Its duration in seconds.
    frames
        Images over the duration, evenly spaced.
    wave
        Its sound ``[S] float32`` at 16 kHz.
    row
        Its row of ``FEATURE``, ``[T, D] float16``.
    times
        ``[T]``, times of the row's steps in seconds.
    question
        The row of the ``questions`` table.
    triple
        Subject, predicate and object of the question.
    clusters
        For those clusters of the visual dictionary whose frames are least plain, the frame nearest to the centre and
        the number of members.
    cluster_count
        Clusters of the dictionary.
    unsmoothed, attention
        ``[T]``, weights of the steps before and after the Gaussian filter.
    span
        The predicted span in seconds.
    chances
        Softmax of the options' scores.
    metrics
        Scores of the split.
    versions
        For each version of the store what it brought: ``features``, ``questions`` or ``dictionaries``.
    counts
        Videos, features, questions.
    """

    video: str
    duration: float
    frames: list[Frame]
    wave: NDArray[np.float32]
    row: NDArray[np.float16]
    times: NDArray[np.float64]
    question: dict[str, Any]
    triple: tuple[str, str, str]
    clusters: list[tuple[Frame, int]]
    cluster_count: int
    unsmoothed: list[float]
    attention: list[float]
    span: tuple[float, float]
    chances: NDArray[np.float64]
    metrics: dict[str, float]
    versions: list[str]
    counts: tuple[int, int, int]


def read(demo: Path) -> Shown:
    """Read what is shown from the folder of a finished demo.

    Raises
    ------
    TrainingError, StoreError
        If the demo has not finished.
    """
    run = open_run(demo / "cra")
    name = choose(run)
    with Finder(run) as finder, Store.open(demo / "store", run.version, lease=False) as store:
        shown = finder.find(name, split=SPLIT)
        return gather(demo, run, shown, store)


def choose(run: FinishedRun) -> str:
    """Return the first question of the split that is answered rightly, grounded, and about what a shape does.

    Raises
    ------
    TrainingError
        If there is none.
    """
    rows = pq.read_table(run.folder / f"predictions_{SPLIT}.parquet").to_pylist()
    fit = [row for row in rows if row["right"] and row["iou"] >= 0.5 and row["question"].startswith("what does")]
    if not fit:
        raise TrainingError(f"{run.folder}: no question of {SPLIT} is answered and grounded well; train longer")
    return min(str(row["question_id"]) for row in fit)


def gather(demo: Path, run: FinishedRun, shown: ShownQuestion, store: Store) -> Shown:
    """Gather what is shown about one question of a run."""
    video = shown.video_id
    part = f"{run.dataset}/{SPLIT}"
    question = next(
        row for row in store.table("questions", part).to_pylist() if row["question_id"] == shown.question_id
    )
    graph = next(row for row in store.table("graphs", part).to_pylist() if row["question_id"] == shown.question_id)
    triple = next(each for each in graph["triples"] if each["source"] == "question")
    file = demo / "videos" / f"{video}.mp4"
    duration = float(question["duration"])
    wave = read_waveform(file, 0.0, duration)
    assert wave is not None, f"{file}: the toy world's videos have sound"
    keys = (shown.question_id, f"{video}_{shown.question_id}")
    scores = np.asarray(shown.prediction("scores", *keys), np.float64)
    powers = np.exp(scores - scores.max())
    start, end = shown.prediction("spans", *keys)
    members = store.table("visual_dictionary_members", f"{run.dataset}/train/{FEATURE}").to_pylist()
    results = pq.read_table(run.folder / f"predictions_{SPLIT}.parquet").to_pylist()
    questions = sum(store.table("questions", each).num_rows for each in store.parts("questions"))
    return Shown(
        video=video,
        duration=duration,
        frames=read_frames(file, [(i + 0.5) * duration / SHOWN_FRAMES for i in range(SHOWN_FRAMES)], height=128),
        wave=wave,
        row=store.row(FEATURE, video),
        times=store.times(FEATURE, video),
        question=question,
        triple=(triple["subject"], triple["predicate"], triple["object"] or ""),
        clusters=nearest(members, demo / "videos"),
        cluster_count=len({member["cluster"] for member in members}),
        unsmoothed=shown.prediction("unsmoothed", *keys),
        attention=shown.prediction("attention", *keys),
        span=(start, end),
        chances=powers / powers.sum(),
        metrics={
            "right answer": 100 * np.mean([row["right"] for row in results]),
            "… and right span": 100 * np.mean([row["right"] and row["iop"] >= 0.5 for row in results]),
        },
        versions=[kind_of(each.changes) for each in history(demo / "store", until=run.version) if each.version],
        counts=(
            len(store.keys(FEATURE)),
            len(store.features),
            questions,
        ),
    )


def nearest(members: list[dict[str, Any]], videos: Path) -> list[tuple[Frame, int]]:
    """Return the frames nearest to the centres of the clusters that show most, and how many members these have."""
    sizes = Counter(member["cluster"] for member in members)
    found = []
    for cluster in sorted(sizes):
        member = min(
            (member for member in members if member["cluster"] == cluster),
            key=lambda member: (member["distance"], member["key"], member["step"]),
        )
        (frame,) = read_frames(videos / f"{member['key']}.mp4", [member["time_s"]], height=96)
        found.append((frame, sizes[cluster]))
    return sorted(found, key=lambda each: -float(each[0].std(axis=(0, 1)).sum()))[:SHOWN_CLUSTERS]


def kind_of(changes: list[str]) -> str:
    """Return what a version brought, by the names of what it changed."""
    text = " ".join(changes)
    if "dictionary" in text or "embeddings" in text:
        return "dictionaries"
    return "questions" if "questions" in text or "parses" in text else "features"


def place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a place in CSS pixels from the upper left corner, without ticks and frame."""
    axes = figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.patch.set_alpha(0)
    return axes


class Picture:
    """The picture, drawn from the top down. All coordinates are CSS pixels from the upper left corner."""

    def __init__(self, shown: Shown) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.shown = shown
        self.figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=200)
        FigureCanvasAgg(self.figure)
        self.figure.patch.set_alpha(0)
        self.sheet = place(self.figure, 0, 0, WIDTH, HEIGHT)
        self.sheet.set_xlim(0, WIDTH)
        self.sheet.set_ylim(HEIGHT, 0)
        self.box(1, 1, WIDTH - 2, HEIGHT - 2, PAPER, LINE, 14)

    def draw(self) -> bytes:
        """Draw everything; return a PNG. Equal demos give equal bytes."""
        self.videos()
        self.questions()
        self.arrow(LEFT + LANE / 2, 196, 30, "decoded once")
        self.arrow(RIGHT + SIDE / 2, 196, 30, "parsed once")
        self.features()
        self.graphs()
        self.arrow(LEFT + LANE / 2, 412, 22, "")
        self.arrow(RIGHT + SIDE / 2, 412, 22, "")
        self.store()
        self.arrow(LEFT + LANE / 2, 528, 22, "")
        self.arrow(RIGHT + SIDE / 2, 528, 22, "")
        self.spans()
        self.answers()
        self.scores()
        return to_png(self.figure)

    def box(self, left: float, top: float, width: float, height: float, face: str, edge: str, radius: float) -> None:
        """Draw a box with round corners."""
        from matplotlib.patches import FancyBboxPatch

        shape = f"round,pad=0,rounding_size={radius}"
        self.sheet.add_patch(
            FancyBboxPatch((left, top), width, height, boxstyle=shape, facecolor=face, edgecolor=edge, linewidth=0.8)
        )

    def text(self, left: float, top: float, text: str, size: float = 13, colour: str = INK, **more: Any) -> None:
        """Write text; ``size`` is in CSS pixels."""
        self.sheet.text(
            left, top, text, fontsize=size * 0.72, color=colour, va=more.pop("va", "top"), parse_math=False, **more
        )

    def heading(self, left: float, top: float, number: int, title: str, note: str = "") -> None:
        """Write a numbered heading, and a note in grey behind it."""
        from matplotlib.patches import Circle

        self.sheet.add_patch(Circle((left + 10, top + 8), 10.5, facecolor=BLUE, edgecolor="none"))
        self.text(left + 10, top + 8.5, str(number), 13.5, "white", ha="center", va="center_baseline", weight="bold")
        self.text(left + 27, top, title, 16, weight="bold")
        if note:
            self.text(left + 27 + 9.6 * len(title) + 8, top + 1.5, note, 13.5, DIM)

    def arrow(self, middle: float, top: float, height: float, label: str) -> None:
        """Draw an arrow down, with a label to its right."""
        self.sheet.annotate(
            "",
            (middle, top + height),
            (middle, top),
            arrowprops={"arrowstyle": "-|>,head_width=0.35,head_length=0.6", "color": DIM, "linewidth": 1.6},
        )
        self.text(middle + 12, top + height / 2, label, 13, DIM, va="center")

    def lane(self, top: float, height: float) -> Axes:
        """Add axes whose x axis is the time of the video, as wide as the film strip."""
        axes = place(self.figure, LEFT, top, LANE, height)
        axes.set_xlim(0, self.shown.duration)
        return axes

    def videos(self) -> None:
        shown = self.shown
        self.heading(LEFT, 16, 1, "Videos", f"one of {shown.counts[0]}, {shown.duration:.0f} s")
        width = LANE / SHOWN_FRAMES
        for index, frame in enumerate(shown.frames):
            axes = place(self.figure, LEFT + index * width + 1, 46, width - 2, (width - 2) * 2 / 3)
            axes.imshow(frame, aspect="auto")
        axes = self.lane(98, 54)
        blocks = shown.wave[: len(shown.wave) // WAVE_BLOCKS * WAVE_BLOCKS].reshape(WAVE_BLOCKS, -1)
        times = (np.arange(WAVE_BLOCKS) + 0.5) * shown.duration / WAVE_BLOCKS
        axes.fill_between(times, blocks.min(1), blocks.max(1), color="#8ba3c7", linewidth=0)
        axes.set_ylim(-1.1 * np.abs(shown.wave).max(), 1.1 * np.abs(shown.wave).max())
        for second in range(0, int(shown.duration) + 1, 5):
            self.text(
                LEFT + LANE * second / shown.duration,
                158,
                f"{second} s",
                13,
                DIM,
                ha="left" if not second else "right" if second >= shown.duration else "center",
            )

    def questions(self) -> None:
        question = self.shown.question
        self.heading(RIGHT, 16, 2, "Questions", f"one of {self.shown.counts[2]:,}")
        self.box(RIGHT, 46, SIDE, 128, BAND, BAND, 8)
        self.text(RIGHT + 14, 56, textwrap.fill(f"{question['question']}?", 30), 15, weight="bold")
        for index, option in enumerate(question["options"]):
            column, row = divmod(index, 3)
            self.text(RIGHT + 14 + 130 * column, 92 + 26 * row, f"{'ABCDE'[index]}  {option}", 15)

    def features(self) -> None:
        shown = self.shown
        steps, width = shown.row.shape
        self.heading(LEFT, 234, 3, "Features", f"“{FEATURE}”: {steps} × {width} numbers; log-mel of the sound")
        values = shown.row.astype(np.float64)
        varied = np.sort(np.argsort(-values.std(0), kind="stable")[:48])
        scaled = (values[:, varied] - values[:, varied].mean(0)) / values[:, varied].std(0)
        edges = np.concatenate([[0.0], (shown.times[1:] + shown.times[:-1]) / 2, [shown.duration]])
        axes = self.lane(264, 66)
        axes.pcolormesh(edges, np.arange(len(varied) + 1), scaled.T, cmap="Blues", vmin=-1.5, vmax=2.5, rasterized=True)
        axes = self.lane(336, 66)
        axes.imshow(
            log_mel(shown.wave).T,
            aspect="auto",
            origin="lower",
            cmap="magma",
            extent=(0, shown.duration, 0, 1),
            interpolation="antialiased",
        )

    def graphs(self) -> None:
        subject, predicate, thing = self.shown.triple
        self.heading(RIGHT, 234, 4, "Graphs, dictionaries")
        nodes = [(subject, BLUE), (predicate, ORANGE), *([(thing, VIOLET)] if thing else [])]
        spare = (SIDE - 26 * (len(nodes) - 1)) / sum(len(text) + 3 for text, _ in nodes)
        left: float = RIGHT
        for index, ((text, colour), role) in enumerate(zip(nodes, ("subject", "predicate", "object"), strict=False)):
            width = spare * (len(text) + 3)
            self.box(left, 266, width, 32, PAPER, colour, 16)
            self.text(left + width / 2, 282.5, text, 15, colour, ha="center", va="center_baseline")
            if index:
                self.sheet.annotate(
                    "",
                    (left - 1, 282),
                    (left - 25, 282),
                    arrowprops={"arrowstyle": "-|>,head_width=0.25,head_length=0.45", "color": DIM, "linewidth": 1.3},
                )
            self.text(left + width / 2, 301, role, 13, DIM, ha="center")
            left += width + 26
        width = SIDE / SHOWN_CLUSTERS
        for index, (frame, size) in enumerate(self.shown.clusters):
            axes = place(self.figure, RIGHT + index * width + 1, 326, width - 2, (width - 2) * 2 / 3)
            axes.imshow(frame, aspect="auto")
            self.text(RIGHT + (index + 0.5) * width, 358, str(size), 13, DIM, ha="center")
        self.text(RIGHT, 379, f"frames in {SHOWN_CLUSTERS} of {self.shown.cluster_count} clusters of frames", 13, DIM)

    def store(self) -> None:
        shown = self.shown
        videos, features, questions = shown.counts
        self.box(LEFT, 440, WIDTH - 2 * LEFT, 82, BAND, BLUE, 10)
        self.heading(
            LEFT + 14, 450, 5, "Store", "each commit is a version that stays as it is; every file has a digest"
        )
        left, right = LEFT + 30, WIDTH - LEFT - 24
        step = (right - left) / (len(shown.versions) - 1)
        self.sheet.plot([left, right], [488, 488], color=LINE, linewidth=2, zorder=1)
        colours = {"features": BLUE, "questions": ORANGE, "dictionaries": VIOLET}
        places = [left + step * index for index in range(len(shown.versions))]
        self.sheet.scatter(
            places,
            [488] * len(places),
            s=[150 if index in (0, len(places) - 1) else 70 for index in range(len(places))],
            c=[colours[kind] for kind in shown.versions],
            zorder=2,
            linewidths=0,
        )
        for index in (0, len(places) - 1):
            self.text(
                places[index], 488.3, str(index + 1), 11, "white", ha="center", va="center", weight="bold", zorder=3
            )
        at: float = LEFT + 22
        for kind, note in (
            ("features", f"{videos} videos × {features} features"),
            ("questions", f"{questions:,} questions, graphs"),
            ("dictionaries", "dictionaries"),
        ):
            self.sheet.scatter([at + 5], [509], s=34, c=[colours[kind]], linewidths=0)
            self.text(at + 15, 508.5, note, 13.5, va="center")
            at += 44 + 7.4 * len(note)

    def spans(self) -> None:
        shown = self.shown
        self.heading(LEFT, 556, 6, "Trainers", "CRA: where it looks, never told in training")
        axes = self.lane(588, 96)
        for start, end in shown.question["spans"]:
            axes.axvspan(start, end, color=GREEN, alpha=0.22, linewidth=0)
        axes.plot(shown.times, shown.unsmoothed, color=GREY, linewidth=1.6)
        axes.plot(shown.times, shown.attention, color=BLUE, linewidth=2.4)
        top = 1.12 * max(*shown.unsmoothed, *shown.attention)
        axes.set_ylim(0, top)
        axes.plot(shown.span, [0.02 * top] * 2, color=BLUE, linewidth=6, solid_capstyle="butt")
        axes.axhline(0, color=LINE, linewidth=1.5)
        at: float = LEFT
        for colour, alpha, note in (
            (GREY, 1.0, "attention"),
            (BLUE, 1.0, "smoothed, and span"),
            (GREEN, 0.35, "true span"),
        ):
            self.sheet.plot([at, at + 18], [700, 700], color=colour, linewidth=5, alpha=alpha, solid_capstyle="butt")
            self.text(at + 24, 700, note, 13.5, va="center")
            at += 54 + 7.2 * len(note)

    def answers(self) -> None:
        shown = self.shown
        self.heading(RIGHT, 556, 7, "Answers")
        chosen = int(np.argmax(shown.chances))
        right = shown.question["answer_index"]
        for index, (option, chance) in enumerate(zip(shown.question["options"], shown.chances, strict=True)):
            top = 598 + 25 * index
            colour = GREEN if index == right else DIM
            weight = "bold" if index == chosen else "normal"
            self.text(RIGHT, top, f"{'ABCDE'[index]}  {option}", 15, colour, weight=weight, va="center_baseline")
            self.box(RIGHT + 96, top - 7, max(2.0, (SIDE - 150) * chance), 14, colour, colour, 1)
            self.text(
                RIGHT + 104 + (SIDE - 150) * chance,
                top,
                f"{100 * chance:.0f} %",
                15,
                colour,
                weight=weight,
                va="center_baseline",
            )

    def scores(self) -> None:
        shown = self.shown
        self.sheet.plot([LEFT, WIDTH - LEFT], [728, 728], color=LINE, linewidth=1)
        self.heading(LEFT, 742, 8, "Pages and scores", "")
        self.text(LEFT + 27, 770, "what is stored, what is missing and why;", 14, DIM)
        self.text(LEFT + 27, 790, "every question with frames, answers and span", 14, DIM)
        for index, (name, score) in enumerate(shown.metrics.items()):
            top = 762 + 36 * index
            self.text(SCORES, top, name, 15, va="center_baseline")
            self.box(SCORES + 140, top - 9, BAR, 18, "#dfe8f3", "#dfe8f3", 3)
            self.box(SCORES + 140, top - 9, BAR * score / 100, 18, BLUE, BLUE, 3)
            self.text(SCORES + 140 + BAR + 10, top, f"{score:.1f} %", 15.5, weight="bold", va="center_baseline")
        self.text(
            LEFT + 27,
            822,
            "All of it is read from the folder that “make demo” leaves: one small world, one seed.",
            13,
            DIM,
        )


def main() -> None:
    """Draw the picture of a demo."""
    if len(sys.argv) != 3:
        print("usage: python -m examples.overview DEMO PICTURE.png", file=sys.stderr)
        raise SystemExit(2)
    Path(sys.argv[2]).write_bytes(Picture(read(Path(sys.argv[1]))).draw())


if __name__ == "__main__":
    main()

"""Measure what parsing questions costs, and what their graphs contain.

    python bench/parsing.py --nextgqa val.csv --music-avqa avqa-val.json --stanza-dir DIR [--rounds 5] [--json PATH]
    python bench/parsing.py --nextgqa val.csv --stanza-dir DIR --sample 50 --seed 0

Speed: Reelstore parses each distinct question and answer once, sorted by length, in batches, in one process and in two,
as the stage does. The published code parses one string at a time, question and answer of every row, with Stanza's
default processors. Here it gets the same five processors as Reelstore, so its three most expensive ones are left out.
It is timed on a random sample of rows, Reelstore on all of them; all take turns in every round, and a ratio is the
median of the rounds' ratios. Loading the models is timed on neither side; what it takes is printed apart.

Sameness: after the rounds every distinct text is parsed in the published way, too, and each word of both must agree in
everything that a parse holds. This takes as long again as the rounds, and is in no figure. Neither side splits
contractions by a network, which is older than Stanza and would leave its last layer at random.

Graphs: the share of questions with at least one triple, and with a subject, a predicate and an object in one.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

import pyarrow as pa

from bench.report import Cell, Column, Report, Table, Target, bench_parser, prose
from parsers import Parse, parses_from_table
from parsers.annotations import read_annotations
from parsers.graphs import Triple, triples
from parsers.stanza_parser import PROCESSORS, StanzaParser
from pipeline.parse.local import Pool

Row = tuple[str, str]
"""A question and its answer, which is empty if it is hidden."""

Word = tuple[object, ...]
"""What a parse says of a word: its text, tags, head, relation, sentence and place in the text."""

PROCESSES = (1, 2)
TARGETS = {("nextgqa", 1): 5.5, ("nextgqa", 2): 10.0, ("music_avqa", 1): 40.0}
"""Dataset and number of processes to the least ratio."""
NAMES = {"nextgqa": "NExT-GQA", "music_avqa": "MUSIC-AVQA"}


@dataclass(frozen=True, slots=True)
class Speed:
    """Rows per second of both ways, round by round.

    Attributes
    ----------
    rows, texts
        Number of rows, and of their distinct texts.
    published
        One string at a time.
    ours
        Number of processes to what they do.
    """

    rows: int
    texts: int
    published: list[float]
    ours: dict[int, list[float]]

    def ratios(self, processes: int) -> list[float]:
        """Return how many times faster so many processes are, round by round."""
        return [our / their for our, their in zip(self.ours[processes], self.published, strict=True)]


def read_rows(format_name: str, path: Path) -> list[Row]:
    """Return questions and answers of an annotation file, in its order."""
    table = read_annotations(format_name, path, split="val").select(["question", "answer"])
    return [(row["question"], row["answer"] or "") for row in table.to_pylist()]


def distinct(rows: list[Row]) -> list[str]:
    """Return the distinct questions and answers, sorted as the stage sorts them."""
    return sorted({text for row in rows for text in row if text}, key=lambda text: (len(text), text))


def measure(
    rows: list[Row], batch: int, pools: Mapping[int, Pool], published: Any, rounds: int, sample: int
) -> tuple[Speed, dict[str, Parse], list[str]]:
    """Time all ways in turns.

    Returns
    -------
    The rates, the parses by text, and what went wrong.
    """
    texts = distinct(rows)
    batches = [texts[start : start + batch] for start in range(0, len(texts), batch)]
    speed = Speed(len(rows), len(texts), [], {processes: [] for processes in pools})
    first: pa.Table | None = None
    failures: list[str] = []
    for number in range(rounds):
        chosen = random.Random(number).sample(rows, min(sample, len(rows)))
        start = time.perf_counter()
        for row in chosen:
            for text in row:
                if text:
                    published(text)
        speed.published.append(len(chosen) / (time.perf_counter() - start))
        for processes, pool in pools.items():
            start = time.perf_counter()
            table = pa.concat_tables(pool.parse(batches))
            speed.ours[processes].append(len(rows) / (time.perf_counter() - start))
            if first is not None and not table.equals(first):
                failures.append(f"{processes} processes gave another table than one")
            first = table if first is None else first
    return speed, {} if first is None else parses_from_table(first), failures


def words_of(parse: Parse) -> list[Word]:
    """Return the words of a parse."""
    return [
        (t.text, t.lemma, t.upos, t.xpos, t.feats, t.head, t.deprel, t.sentence, t.start, t.end) for t in parse.tokens
    ]


def published_words(published: Any, text: str) -> list[Word]:
    """Return the words that Stanza itself gives for one string."""
    return [
        (
            *(w.text, w.lemma or "", w.upos or "", w.xpos or "", w.feats or "", w.head, w.deprel, number),
            *((w.start_char, w.end_char) if w.start_char is not None else (w.parent.start_char, w.parent.end_char)),
        )
        for number, sentence in enumerate(published(text).sentences)
        for w in sentence.words
    ]


def differences(parses: Mapping[str, Parse], published: Any) -> list[str]:
    """Return the texts that Stanza parses otherwise, alone; blanks around a text are no part of it."""
    return [text for text, parse in parses.items() if words_of(parse) != published_words(published, text.strip())]


def shares(rows: list[Row], parses: dict[str, Parse]) -> dict[str, float]:
    """Return the percentage of rows whose question has at least one such triple, by the parts that it must have."""
    graphs = {question: triples(parses[question]) for question in {question for question, _ in rows}}

    def share(fields: tuple[str, ...]) -> float:
        has_triple = {
            question: any(all(getattr(triple, field) for field in fields) for triple in graph)
            for question, graph in graphs.items()
        }
        return 100 * sum(has_triple[question] for question, _ in rows) / len(rows)

    return {
        "triple": share(()),
        "subject": share(("subject",)),
        "predicate": share(("predicate",)),
        "object": share(("object",)),
        "all three": share(("subject", "predicate", "object")),
    }


def describe(triple: Triple) -> str:
    """Return a triple as one line."""
    parts = " | ".join(part or "-" for part in (triple.subject, triple.predicate, triple.object))
    negated = ", negated" if triple.negated else ""
    return f"{parts}   [{triple.relation}{negated}]"


def print_sample(rows: list[Row], parser: StanzaParser, count: int, seed: int) -> None:
    """Print random questions with their triples."""
    questions = random.Random(seed).sample([question for question, _ in rows], count)
    for parse in parser.parse(questions):
        print(parse.text)
        for triple in triples(parse) if isinstance(parse, Parse) else ():
            print(f"    {describe(triple)}")


def main() -> int:
    """Compare the parse stage with the published way, and count what the graphs of real questions contain."""
    parser = bench_parser(__doc__, rounds=1, one_by_one=5, limit=40)
    parser.add_argument("--stanza-dir", type=Path, help="folder of Stanza's models")
    parser.add_argument("--nextgqa", type=Path, help="CSV file of a NExT-GQA split")
    parser.add_argument("--music-avqa", type=Path, help="JSON file of a MUSIC-AVQA split")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way is timed")
    parser.add_argument("--one-by-one", type=int, default=100, help="rows per round for the published way")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each process, for both ways")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto, for both ways")
    parser.add_argument("--limit", type=int, help="only take so many rows of each dataset")
    parser.add_argument("--sample", type=int, default=0, help="only print so many random questions with their triples")
    parser.add_argument("--seed", type=int, default=0, help="random seed of --sample")
    arguments = parser.parse_args()
    paths = {"nextgqa": arguments.nextgqa, "music_avqa": arguments.music_avqa}
    datasets = {name: read_rows(name, path)[: arguments.limit] for name, path in paths.items() if path is not None}
    if not datasets:
        parser.error("there are no questions to parse; give --nextgqa, --music-avqa or both")
    stanza = StanzaParser(arguments.stanza_dir, device=arguments.device, threads=arguments.threads)
    if arguments.sample:
        for rows in datasets.values():
            print_sample(rows, stanza, arguments.sample, arguments.seed)
        return 0
    return compare(datasets, stanza, arguments)


def compare(datasets: Mapping[str, list[Row]], stanza: StanzaParser, arguments: argparse.Namespace) -> int:
    """Measure and report."""
    start = time.perf_counter()
    published = one_at_a_time(stanza, arguments.threads)
    published("who is it")
    loading = {"one at a time": time.perf_counter() - start}
    speeds, graphs, failures = {}, {}, []
    with ExitStack() as stack:
        pools = {processes: stack.enter_context(Pool(stanza, processes)) for processes in PROCESSES}
        for processes, pool in pools.items():
            start = time.perf_counter()
            pool.start()
            loading[f"{processes} in a pool"] = time.perf_counter() - start
        for name, rows in datasets.items():
            speeds[name], parses, wrong = measure(
                rows, stanza.batch_size, pools, published, arguments.rounds, arguments.one_by_one
            )
            wrong += [f"{text!r} is parsed otherwise than alone" for text in differences(parses, published)]
            failures += [f"{name}: {each}" for each in wrong]
            graphs[name] = shares([row for row in rows if row[0] in parses], parses)
    return Report(
        title="Parsing",
        about=prose(__doc__),
        tables=[speed_table(speeds), loading_table(loading), graphs_table(graphs)],
        targets=[
            Target(
                f"{NAMES[name]}, {processes} at work", statistics.median(speeds[name].ratios(processes)), bound, False
            )
            for (name, processes), bound in TARGETS.items()
            if name in speeds
        ],
        failures=failures,
        figures={
            "numerics": stanza.numerics,
            "seconds_until_loaded": loading,
            "speed": {name: asdict(speed) for name, speed in speeds.items()},
            "shares": graphs,
        },
        uses=("torch", "stanza"),
    ).finish(arguments)


def speed_table(speeds: Mapping[str, Speed]) -> Table:
    """Return rows per second of both ways, and their ratio."""
    rows: list[tuple[Cell, ...]] = []
    for name, speed in speeds.items():
        rows.append((NAMES[name], "one at a time", speed.texts, statistics.median(speed.published), None, ""))
        for processes, ours in speed.ours.items():
            ratios = speed.ratios(processes)
            spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
            way = f"{processes} process{'es' * (processes > 1)}"
            rows.append((NAMES[name], way, speed.texts, statistics.median(ours), statistics.median(ratios), spread))
    columns: list[Column | str] = [Column("texts", ","), Column("rows/s", ".1f"), Column("ratio", ".1f"), "per round"]
    return Table("medians of the rounds", ["dataset", "way", *columns], rows)


def loading_table(loading: Mapping[str, float]) -> Table:
    """Return the seconds until models are loaded, which are in no other figure."""
    return Table("until models are loaded", ["way", Column("s", ".1f")], list(loading.items()))


def graphs_table(graphs: Mapping[str, Mapping[str, float]]) -> Table:
    """Return what the graphs contain."""
    names = list(next(iter(graphs.values())))
    rows: list[tuple[Cell, ...]] = [(NAMES[name], *share.values()) for name, share in graphs.items()]
    return Table("percent of questions whose graph has …", ["dataset", *(Column(n, ".1f") for n in names)], rows)


def one_at_a_time(parser: StanzaParser, threads: int) -> Any:
    """Return the published way to parse: a Stanza pipeline, called with one string at a time."""
    import stanza
    import torch

    torch.set_num_threads(threads)
    pipeline = stanza.Pipeline(
        "en",
        model_dir=str(parser.model_dir),
        processors=",".join(PROCESSORS),
        download_method=None,
        device=parser.torch_device(),
        logging_level="FATAL",
    )
    pipeline.processors["mwt"].config["dict_only"] = True
    return pipeline


if __name__ == "__main__":
    sys.exit(main())

"""Measure what parsing questions costs, and what their graphs contain.

    python bench/parsing.py --nextgqa val.csv --music-avqa avqa-val.json --stanza-dir DIR [--rounds 3] [--json PATH]
    python bench/parsing.py --nextgqa val.csv --stanza-dir DIR --sample 50 --seed 0

Speed: Reelstore parses each distinct question and answer once, sorted by length, in batches. The published code
parses one string at a time, question and answer of every row, with Stanza's default processors. Here it gets the
same five processors as Reelstore, so its three most expensive ones are left out. It is timed on a random sample of
rows, Reelstore on all of them; the two take turns, and the ratio is that of the medians. Loading the models is not
timed.

Graphs: the share of questions with at least one triple, and with a subject, a predicate and an object in one.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

sys.path[0] = str(Path(__file__).resolve().parents[1])  # the checkout: only the reader is ever installed

from parsers import Parse
from parsers.annotations import read_annotations
from parsers.graphs import Triple, triples
from parsers.stanza_parser import PROCESSORS, StanzaParser

Row = tuple[str, str]
"""A question and its answer, which is empty if it is hidden."""


def read_rows(format_name: str, path: Path) -> list[Row]:
    """Return questions and answers of an annotation file, in its order."""
    table = read_annotations(format_name, path, split="val").select(["question", "answer"])
    return [(row["question"], row["answer"] or "") for row in table.to_pylist()]


def distinct(rows: list[Row]) -> set[str]:
    """Return the distinct questions and answers."""
    return {text for row in rows for text in row}


def speed(
    rows: list[Row], parser: StanzaParser, published: Any, rounds: int, sample: int
) -> tuple[dict[str, float], dict[str, Parse]]:
    """Time both ways.

    Returns
    -------
    Rows per second as medians over rounds, with the lowest and highest ratio of a round; and the parses by text.
    """
    ours, theirs = [], []
    parses: dict[str, Parse] = {}
    for number in range(rounds):
        chosen = random.Random(number).sample(rows, min(sample, len(rows)))
        start = time.perf_counter()
        for row in chosen:
            for text in row:
                if text:
                    published(text)
        theirs.append(len(chosen) / (time.perf_counter() - start))
        start = time.perf_counter()
        results = parser.parse(text for row in rows for text in row)
        parses = {parse.text: parse for parse in results if isinstance(parse, Parse)}
        ours.append(len(rows) / (time.perf_counter() - start))
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    measured = {
        "rows": len(rows),
        "distinct_texts": len(distinct(rows)),
        "rows_per_s": statistics.median(ours),
        "published_rows_per_s": statistics.median(theirs),
        "ratio": statistics.median(ours) / statistics.median(theirs),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    return measured, parses


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


def main(
    stanza_dir: Annotated[Path | None, typer.Option(help="Folder of Stanza's models.")] = None,
    nextgqa: Annotated[Path | None, typer.Option(help="CSV file of a NExT-GQA split.")] = None,
    music_avqa: Annotated[Path | None, typer.Option(help="JSON file of a MUSIC-AVQA split.")] = None,
    rounds: Annotated[int, typer.Option(help="How often each way is timed.")] = 3,
    one_by_one: Annotated[int, typer.Option(help="Rows per round for the published way.")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads, for both ways.")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto, for both ways.")] = "cpu",
    sample: Annotated[int, typer.Option(help="Only print so many random questions with their triples.")] = 0,
    seed: Annotated[int, typer.Option(help="Random seed of --sample.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")] = None,
) -> None:
    """Compare the parse stage with the published way, and count what the graphs of real questions contain."""
    paths = {"nextgqa": nextgqa, "music_avqa": music_avqa}
    datasets = {name: read_rows(name, path) for name, path in paths.items() if path is not None}
    if not datasets:
        raise typer.BadParameter("there are no questions to parse; give --nextgqa, --music-avqa or both")
    parser = StanzaParser(stanza_dir, device=device, threads=threads)
    if sample:
        for rows in datasets.values():
            print_sample(rows, parser, sample, seed)
        return
    published = one_at_a_time(parser, threads)
    parser.parse(["who is it"])
    published("who is it")
    results = {}
    for name, rows in datasets.items():
        measured, parses = speed(rows, parser, published, rounds, one_by_one)
        results[name] = {"speed": measured, "shares": shares(rows, parses)}
    show(results, parser)
    if json_path is not None:
        json_path.write_text(json.dumps({"numerics": parser.numerics, "results": results}, indent=1) + "\n")


def one_at_a_time(parser: StanzaParser, threads: int) -> Any:
    """Return the published way to parse: a Stanza pipeline, called with one string at a time."""
    import stanza
    import torch

    torch.set_num_threads(threads)
    return stanza.Pipeline(
        "en",
        model_dir=str(parser.model_dir),
        processors=",".join(PROCESSORS),
        download_method=None,
        device=parser.torch_device(),
        logging_level="FATAL",
    )


def show(results: dict[str, Any], parser: StanzaParser) -> None:
    """Print both tables."""
    print(f"numerics: {parser.numerics}")
    table = Table("dataset", "rows", "distinct texts", "rows/s", "one at a time", "ratio", "per round")
    for name, result in results.items():
        measured = result["speed"]
        table.add_row(
            name,
            f"{measured['rows']:,}",
            f"{measured['distinct_texts']:,}",
            f"{measured['rows_per_s']:.1f}",
            f"{measured['published_rows_per_s']:.1f}",
            f"{measured['ratio']:.1f}",
            f"{measured['ratio_min']:.1f} to {measured['ratio_max']:.1f}",
        )
    Console().print(table)
    table = Table("dataset", *next(iter(results.values()))["shares"], title="percent of questions whose graph has …")
    for name, result in results.items():
        table.add_row(name, *(f"{share:.1f}" for share in result["shares"].values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

"""What parsing questions costs, and what their graphs hold.

    python bench/parsing.py --nextgqa val.csv --music-avqa avqa-val.json --stanza-dir DIR [--rounds 3] [--json PATH]
    python bench/parsing.py --nextgqa val.csv --stanza-dir DIR --sample 50 --seed 0

Speed: Reelstore parses each distinct question and answer once, sorted by length, in batches. The published code
parses one string at a time, question and answer of every row, with Stanza's default processors; here it gets the
same five processors as Reelstore, which leaves out its three most expensive ones. It is timed on a random sample of
rows, Reelstore on all; the two take turns, and the ratio is that of the medians. Loading the models is left out.

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

sys.path[0] = str(Path(__file__).resolve().parents[1])

from parsers.annotations import read_annotations
from parsers.graphs import Triple, triples
from parsers.parse import Parse
from parsers.stanza_parser import PROCESSORS, StanzaParser

Row = tuple[str, str]
"""A question and its answer, "" where it is hidden."""


def rows(format_name: str, path: Path) -> list[Row]:
    table = read_annotations(format_name, path, split="val").select(["question", "answer"])
    return [(row["question"], row["answer"] or "") for row in table.to_pylist()]


def distinct(rows: list[Row]) -> set[str]:
    return {text for row in rows for text in row}


def speed(
    rows: list[Row], parser: StanzaParser, published: Any, rounds: int, sample: int
) -> tuple[dict[str, float], dict[str, Parse]]:
    """Rows per second, medians over rounds, with the lowest and highest ratio of a round; and the parses."""
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
        parses = {parse.text: parse for parse in parser.parse(text for row in rows for text in row)}
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
    """Percent of the rows whose question's graph has such a triple."""
    graphs = {question: triples(parses[question]) for question in {question for question, _ in rows}}

    def share(fields: tuple[str, ...]) -> float:
        held = {
            question: any(all(getattr(triple, field) for field in fields) for triple in graph)
            for question, graph in graphs.items()
        }
        return 100 * sum(held[question] for question, _ in rows) / len(rows)

    return {
        "triple": share(()),
        "subject": share(("subject",)),
        "predicate": share(("predicate",)),
        "object": share(("object",)),
        "all three": share(("subject", "predicate", "object")),
    }


def shown(triple: Triple) -> str:
    parts = " | ".join(part or "-" for part in (triple.subject, triple.predicate, triple.object))
    return f"{parts}   [{triple.relation}{', negated' * triple.negated}]"


def print_sample(rows: list[Row], parser: StanzaParser, count: int, seed: int) -> None:
    questions = random.Random(seed).sample([question for question, _ in rows], count)
    for parse in parser.parse(questions):
        print(parse.text)
        for triple in triples(parse):
            print(f"    {shown(triple)}")


def main(
    stanza_dir: Annotated[Path | None, typer.Option(help="folder of Stanza's models")] = None,
    nextgqa: Annotated[Path | None, typer.Option(help="csv of a NExT-GQA split")] = None,
    music_avqa: Annotated[Path | None, typer.Option(help="json of a MUSIC-AVQA split")] = None,
    rounds: Annotated[int, typer.Option(help="how often each way is timed")] = 3,
    one_by_one: Annotated[int, typer.Option(help="rows per round for the published way")] = 100,
    threads: Annotated[int, typer.Option(help="CPU threads, both ways")] = 1,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto, both ways")] = "cpu",
    sample: Annotated[int, typer.Option(help="print so many random questions with their triples, measure nothing")] = 0,
    seed: int = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the numbers here")] = None,
) -> None:
    """Measure the parse stage against the published way, and the graphs of real questions."""
    paths = {"nextgqa": nextgqa, "music_avqa": music_avqa}
    sources = {name: rows(name, path) for name, path in paths.items() if path is not None}
    parser = StanzaParser(stanza_dir, device=device, threads=threads)
    if sample:
        for of_source in sources.values():
            print_sample(of_source, parser, sample, seed)
        return
    published = one_at_a_time(parser, threads)
    parser.parse(["who is it"])
    published("who is it")
    results = {}
    for name, of_source in sources.items():
        measured, parses = speed(of_source, parser, published, rounds, one_by_one)
        results[name] = {"speed": measured, "shares": shares(of_source, parses)}
    show(results, parser)
    if json_path is not None:
        json_path.write_text(json.dumps({"numerics": parser.numerics, "results": results}, indent=1) + "\n")


def one_at_a_time(parser: StanzaParser, threads: int) -> Any:
    """The published way: Stanza as it comes, one string a call."""
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
    print(f"numerics: {parser.numerics}")
    table = Table("dataset", "rows", "distinct texts", "rows/s", "one at a time", "ratio", "per round")
    for name, found in results.items():
        s = found["speed"]
        spread = f"{s['ratio_min']:.1f} to {s['ratio_max']:.1f}"
        table.add_row(
            name,
            f"{s['rows']:,}",
            f"{s['distinct_texts']:,}",
            f"{s['rows_per_s']:.1f}",
            f"{s['published_rows_per_s']:.1f}",
            f"{s['ratio']:.1f}",
            spread,
        )
    Console().print(table)
    table = Table("dataset", *next(iter(results.values()))["shares"], title="percent of questions whose graph has …")
    for name, found in results.items():
        table.add_row(name, *(f"{share:.1f}" for share in found["shares"].values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)

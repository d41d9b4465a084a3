"""Renders ``bench/RESULTS.md`` from the results that are kept in ``bench/results``, one JSON file per bench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.circumstances import ROOT
from bench.report import Cell, Column, Result, Table
from bench.tables import wrapped

KEPT = ROOT / "bench" / "results"
PAGE = ROOT / "bench" / "RESULTS.md"
HEAD = """# Measurements

This page is written by ``python bench/all.py`` from the files in ``bench/results``; nothing in it is written by hand.
A bench that a run leaves out keeps its last result, so each section has its own date, commit, machine and load; a plus
sign after a commit says that files differed from it.

Ratios are taken within one run, against peers that are measured in turn with us. Single measurements of one contender
differ by up to a third on a machine with other work on it, so medians are given, and a margin of a few per cent is no
margin. Below 1 means less time, or less memory, than the peer, unless a rate is compared.
"""


def read_results(folder: Path, order: Iterable[str]) -> dict[str, Result]:
    """Read the results of a folder, in the given order of benches.

    Raises
    ------
    ValueError
        If a file is no result of a bench, or of one that is not in the order.
    """
    names = list(order)
    paths = {path.stem: path for path in sorted(folder.glob("*.json"))}
    for name, path in paths.items():
        if name not in names:
            raise ValueError(f"{path}: no bench is named {name!r}")
    return {name: Result.read(paths[name]) for name in names if name in paths}


def render(results: Mapping[str, Result]) -> str:
    """Return the page: what is missed, then a section per bench; what several explain is said once."""
    targets = _targets(results)
    blocks = [wrapped(HEAD), *(["## Targets", *targets] if targets else [])]
    sections = []
    told: set[str] = set()
    for result in results.values():
        sections.append(result.markdown(told))
        told |= {result.report.about, *result.report.notes}
    return "\n\n".join(blocks) + "\n\n" + "\n".join(sections)


def _targets(results: Mapping[str, Result]) -> list[str]:
    counts: list[list[Cell]] = [
        [
            result.report.title,
            sum(target.met is True for target in result.targets),
            sum(target.met is False for target in result.targets),
            sum(target.met is None for target in result.targets),
            result.taken.date[:10],
        ]
        for result in results.values()
        if result.targets
    ]
    missed: list[list[Cell]] = [
        [f"{result.report.title}: {target.what}", target.measured, target.wanted]
        for result in results.values()
        for target in result.targets
        if target.met is False
    ]
    numbers = (Column("met"), Column("missed"), Column("not measured"))
    tables = [Table("", ["bench", *numbers, "date"], counts)] if counts else []
    tables += [Table("", ["missed", "measured", "wanted"], missed)] if missed else []
    return [part.markdown() for table in tables for part in table.parts()]

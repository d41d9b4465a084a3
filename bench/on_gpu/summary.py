"""Makes the report of the findings: a table per section, and the targets whose figures were measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench.on_gpu import throughput, training
from bench.on_gpu.towers import DTYPES
from bench.report import Cell, Column, Report, Table, Target

Section = Mapping[str, Any]
Sections = Mapping[str, Section]

EXTRACTION_TARGET = 0.9


def report(found: Sections, about: str) -> Report:
    """Return the report of findings by section, as ``Findings.sections`` holds them.

    Figures of a CPU are held to no target.
    """
    device = found.get("environment", {}).get("device")
    on_gpu = device != "cpu"
    failures = [
        f"{name}: {what}: {text.strip().splitlines()[-1]}"
        for name, section in found.items()
        for what, text in section.get("failed", {}).items()
    ]
    left_out = [
        f"{name}: {what} left out: {why}"
        for name, section in found.items()
        for what, why in section.get("left_out", {}).items()
    ]
    return Report(
        title="On one GPU" if on_gpu else "The bench of a GPU, on a CPU",
        about=about,
        tables=[TABLES[name](section) for name, section in found.items() if name in TABLES],
        targets=targets(found) if on_gpu else [],
        notes=left_out,
        failures=failures,
        figures=found,
        uses=("torch", "torchvision", "timm", "open_clip_torch", "transformers", "av", "torchcodec"),
    )


def targets(found: Sections) -> list[Target]:
    """Return the targets whose figures were measured; they are meant for an H100.

    Parameters
    ----------
    found
        Findings by section, as ``Findings.sections`` holds them.
    """
    told = []
    for tower, rates in _with(found.get("throughput", {}), "float16"):
        best = rates["float16"]["ratio"]
        told.append(Target(f"{tower} float16, to the best bare model", best, throughput.TARGET, at_most=False))
    for film, figures in _with(found.get("extraction", {}), "ratio"):
        told.append(Target(f"{film}, to its limit", figures["ratio"], EXTRACTION_TARGET, at_most=False))
    step = found.get("training", {}).get("coqo_bfloat16")
    if step is not None and step["reserved_gib"] is not None:
        told.append(Target("CoQo's step in bfloat16", step["reserved_gib"], training.TARGET_GIB, unit="GiB"))
    for tower, compared in _with(found.get("towers", {}), "float16"):
        for dtype in DTYPES:
            same = int(compared[dtype]["same_bits_twice"])
            told.append(Target(f"{tower} {dtype}: same bits twice", same, 1, at_most=False))
    return told


def _with(section: Section, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield those findings of a section that are objects with a field of this name."""
    for key, value in section.items():
        if isinstance(value, Mapping) and name in value:
            yield key, value


def _environment(section: Section) -> Table:
    rows: list[list[Cell]] = [
        [name.replace("_", " "), value if isinstance(value, str) else f"{value:.4g}"]
        for name, value in section.items()
        if isinstance(value, str | int | float) and name not in ("python", "commit", "seconds")
    ]
    return Table("the machine and its ceilings", ["", "found"], rows)


def _towers(section: Section) -> Table:
    marks = ("same_bits_twice", "position_independent", "neighbours_do_not_matter")
    rows: list[list[Cell]] = [
        [
            f"{tower} {dtype}",
            *(error[name] for name in ("min_cosine", "mean_abs", "max_abs")),
            *map(agreement.get, marks),
        ]
        for tower, compared in _with(section, "mean_abs")
        for dtype, agreement in _with(compared, "scenes")
        for error in [agreement["scenes"]]
    ]
    numbers = (Column("cosine", ".7f"), Column("mean", ".1e"), Column("largest", ".1e"))
    title = "towers against float32 on the CPU, on scenes; same bits twice, anywhere, beside other steps"
    return Table(title, ["tower", *numbers, "twice", "place", "beside"], rows)


def _throughput(section: Section) -> Table:
    rows: list[list[Cell]] = [
        [f"{tower} {dtype}", found["ours"], best["steps_per_second"], f"{best['way']}, {best['batch']}", found["ratio"]]
        for tower, rates in section.items()
        if isinstance(rates, Mapping)
        for dtype, found in _with(rates, "best_bare")
        for best in [found["best_bare"]]
    ]
    rates = (Column("ours", ",.0f"), Column("best bare", ",.0f"))
    return Table("steps per second", ["tower", *rates, "how", Column("ratio", ".3f")], rows)


def _extraction(section: Section) -> Table:
    names = ("extraction", "decode_alone", "gpu_alone", "ratio", "limited_by")
    rows: list[list[Cell]] = [
        [film, *(found[name] for name in names), found["busy"]["percent"]] for film, found in _with(section, "ratio")
    ]
    rates = [Column(name, ",.0f") for name in ("whole", "decoding", "model")]
    columns: list[Column | str] = ["film", *rates, Column("ratio", ".3f"), "limit", Column("busy, %", ".0f")]
    return Table("whole extractions: frames per second, beside decoding and the model alone", columns, rows)


def _training(section: Section) -> Table:
    names = ("milliseconds", "allocated_gib", "reserved_gib", "parameters")
    rows: list[list[Cell]] = [
        [name.replace("_", " "), *(found[part] for part in names)] for name, found in _with(section, "milliseconds")
    ]
    memory = (Column("tensors, GiB", ".2f"), Column("reserved, GiB", ".2f"))
    return Table("training steps", ["", Column("ms", ".1f"), *memory, Column("parameters")], rows)


def _memory(section: Section) -> Table:
    rows: list[list[Cell]] = [
        [tower, found["asked"], found["used"], found["same_bits"]] for tower, found in _with(section, "asked")
    ]
    return Table("a full card", ["tower", Column("micro-batch"), Column("what fits"), "same bits"], rows)


def _nvdec(section: Section) -> Table:
    rows: list[list[Cell]] = []
    for film, found in _with(section, "pyav_in_children"):
        rows += [
            [film, f"PyAV, {count} at once", None, None, rate] for count, rate in found["pyav_in_children"].items()
        ]
        for device, compared in _with(found, "device_frames_per_s"):
            apart = compared["difference"]
            rows += [
                [film, f"{device}, {count} at once", apart["mean"], apart["largest"], rate]
                for count, rate in compared["device_frames_per_s"].items()
            ]
    pixels = (Column("mean", ".3f"), Column("largest"))
    return Table("video engine against PyAV", ["film", "decoder", *pixels, Column("frames/s", ",.0f")], rows)


TABLES: Mapping[str, Callable[[Section], Table]] = {
    "environment": _environment,
    "towers": _towers,
    "throughput": _throughput,
    "extraction": _extraction,
    "training": _training,
    "memory": _memory,
    "nvdec": _nvdec,
}
"""A section to its table."""

"""Train CRA or CoQo without each of its parts, and say what each is worth.

    python bench/ablations.py cra|coqo --store STORE [--preset NAME] [--set data.x=y …] [--only NAME …] [--seeds 0-2]
    python bench/ablations.py cra|coqo --toyworld [--world KIND] [--only NAME …] [--seeds 10-12]
    python bench/ablations.py cra --quick        one table, of one epoch on a tiny world

Each row is one named change of the preset, trained and evaluated through ``jobs/train.py`` with every seed: on a store
of yours with several seeds, or on the toy worlds of several seeds (``docs/toyworld.md``, its protocol and its tuned
rates). Finished trainings are not repeated, so the same command continues where it was stopped; ``--workers``
trainings run at the same time. Tables give mean and standard deviation in %, and mean differences from the whole method
in points, paired by seed, with 95 % intervals (Student's t, not corrected for the number of comparisons).

CRA's columns are those of its paper: answers (Acc@VQA), spans, both (Acc@GQA), and its two kinds of failure: unfaithful
answers (UF: right, but IoP below 0.5) and bias errors (Err: wrong, and IoP below 0.5). ``question only`` hides the
frames; ``triples shuffled`` and ``triples dropped`` say what the parser's quality is worth. What templates are worth is
the same command on two stores or presets, as ``--preset cra-star`` beside ``cra``.

``--world`` takes another kind of toy world than ``shapes``. On ``linked``, whose answers go with the question's wording
and with the backdrop of the true span, CRA's columns are its answers where both links hold (test), where one of them is
broken (wording, backdrop), and where both are (ood). ``free`` words the questions of ``shapes`` freely: the table
``bias`` on both says what templates are worth. The table ``rates`` is made only if it is named: with ``--split val``
and ``--seeds 0-2`` it is for choosing.

``--visual FEATURE …`` adds rows for other features of the store in the place of CoQo's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the checkout: only the reader is ever installed

import settings
from bench import toyworld, trials
from bench.report import Report, bench_parser, prose
from bench.trials import Experiment, Place, Places, parse_seeds, tables
from examples.toyworld import KINDS
from examples.toyworld.kinds import DEFAULT
from settings.messages import available, nearest
from trainers import PRESETS, find_method

WHOLE = {"cra": "CRA", "coqo": "CoQo"}
STORE_SEEDS = (0, 1, 2)
NO_ECI = ("model.front=false", "model.back=false")

CRA: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "parts": {
        "without Gaussian filter": ("model.gaussian=false",),
        "without GSG and back door": ("model.gsg=false", "model.back=false"),
        "without CMA": ("loss.align=0",),
        "without ECI, front door": ("model.front=false",),
        "without ECI, back door": ("model.back=false",),
        "without ECI": NO_ECI,
    },
    "bias": {
        "question only": ("data.inputs=question",),
        "triples shuffled": ("data.graphs=shuffled",),
        "triples dropped": ("data.graphs=dropped",),
    },
}
"""Rows of CRA's tables by the name of the table: a variant and its overrides of the preset."""

COQO: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "losses": {
        "without inter": ("loss.inter=0",),
        "without intra": ("loss.intra=0",),
        "without both": ("loss.inter=0", "loss.intra=0"),
    },
    "lambda": {
        "λ = 0": ("model.qgt.lambda_init=0", "model.qgt.lambda_learnable=false"),
        "λ = 0.5": ("model.qgt.lambda_init=0.5", "model.qgt.lambda_learnable=false"),
        "λ = 1": ("model.qgt.lambda_init=1", "model.qgt.lambda_learnable=false"),
        "λ = 2": ("model.qgt.lambda_init=2", "model.qgt.lambda_learnable=false"),
    },
    "layers": {f"{count} layers" if count > 1 else "1 layer": (f"model.qgt.layers={count}",) for count in (1, 2, 3)},
    "tokens": {f"m = {count}": (f"model.qgt.tokens={count}",) for count in (0, 2, 4, 8, 16)},
    "questions": {
        **{f"N = {count}": (f"data.max_questions={count}",) for count in (1, 2, 4)},
        **{
            f"{count} of each modality": (f"data.quotas={{Audio: {count}, Visual: {count}, Audio-Visual: {count}}}",)
            for count in (1, 2)
        },
        **{
            f"1 of {modality} alone": (f"data.quotas={{{modality}: 1, {others[0]}: 99, {others[1]}: 99}}",)
            for modality, others in {
                "Audio": ("Visual", "Audio-Visual"),
                "Visual": ("Audio", "Audio-Visual"),
                "Audio-Visual": ("Audio", "Visual"),
            }.items()
        },
        "single questions": ("data.collective=false",),
    },
    "fusion": {"product": ("model.fusion=product",), "per-question guidance": ("model.qgt.guidance=per_question",)},
    "hosts": {"HCRN": toyworld.HCRN, "HCRN with QGT": toyworld.HCRN_QGT, "AVST": toyworld.AVST},
    "inputs": {f"{name} only": (f"model.inputs={name}",) for name in ("question", "audio", "visual")},
}
"""Rows of CoQo's tables."""

MAPS = ("data.visual=map",)
SPATIAL = {"CoQo on maps": MAPS, "AVST": toyworld.AVST, "AVST on maps": (*toyworld.AVST, *MAPS)}
"""Rows of CoQo's table that is made on toy worlds only: ``map`` has the numbers of ``scene``, for the spatial stage."""
RATES = {"cra": ("1.5e-3", "3e-3"), "coqo": ("1e-3", "2e-3")}

TABLES = {"cra": CRA, "coqo": COQO}
QUICK = {"cra": "bias", "coqo": "fusion"}
"""The table that a quick run makes."""
TITLES = {
    "parts": "CRA's modules",
    "bias": "what questions and their graphs are worth to CRA",
    "losses": "CoQo's alignments, L_inter and L_intra",
    "lambda": "λ, the weight of the cross attention, when it is not learned",
    "layers": "layers of the QGT",
    "tokens": "learnable tokens m",
    "questions": "questions of a video in a step",
    "fusion": "fusion and guidance",
    "hosts": "HCRN as a host of the QGT, and AVST, by type of question",
    "inputs": "what CoQo perceives",
    "backbones": "CoQo on other features",
    "spatial": "the spatial stage: maps in the place of flat features",
    "rates": "learning rates",
}
LINKED = {
    "Acc@VQA": ("test", "acc_vqa"),
    "wording": ("test_wording", "acc_vqa"),
    "backdrop": ("test_backdrop", "acc_vqa"),
    "ood": ("test_ood", "acc_vqa"),
    "IoP@.5 ood": ("test_ood", "iop_50"),
    "Acc@GQA ood": ("test_ood", "acc_gqa"),
}
"""CRA's columns on worlds of the kind ``linked``."""


def columns(method: str, split: str) -> dict[str, tuple[str, str]]:
    """Return the columns of a method: headings to split and metric."""
    if method == "coqo":
        return {name: (split, name) for name in ("Audio", "Visual", "Audio-Visual")} | {"all": (split, "overall")}
    return {
        "Acc@VQA": (split, "acc_vqa"),
        "mIoU": (split, "miou"),
        "IoU@.5": (split, "iou_50"),
        "IoP@.5": (split, "iop_50"),
        "Acc@GQA": (split, "acc_gqa"),
        "UF": (split, "unfaithful"),
        "Err": (split, "bias_errors"),
    }


def experiments(
    method: str, split: str, seeds: Sequence[int], visual: Sequence[str] = (), world: str = ""
) -> dict[str, Experiment]:
    """Return the experiments of a method by the names of their tables.

    Parameters
    ----------
    method
        ``cra`` or ``coqo``.
    split
        The split that is shown.
    seeds
        Seeds of the trials.
    visual
        Features that CoQo is also trained on.
    world
        The kind of the toy worlds; empty for a store.
    """
    rows = dict(TABLES[method])
    if world and method == "coqo":
        rows["spatial"] = SPATIAL
    if visual:
        rows["backbones"] = {name: (f"data.visual={name}",) for name in visual}
    shown = columns(method, split)
    compared: tuple[str, ...] = ("Acc@GQA", "UF", "Err") if method == "cra" else ("all",)
    if method == "cra" and world == "linked" and split != "val":
        shown, compared = LINKED, ("wording", "backdrop", "ood", "Acc@GQA ood")
    rates = {f"lr {rate}": (f"loop.lr={rate}",) for rate in RATES[method]}
    found = {"rates": Experiment(method, tuple(seeds), rates, shown, title=TITLES["rates"])}
    for name, variants in rows.items():
        against = {variant: "HCRN" if variant == "HCRN with QGT" else WHOLE[method] for variant in variants}
        found[name] = Experiment(
            method,
            tuple(seeds),
            {WHOLE[method]: (), **variants},
            {} if name == "hosts" else shown,
            ("overall",) if name == "hosts" else compared,
            against,
            title=TITLES[name],
            whole_split=split if name == "hosts" else "",
        )
    return found


def scored_split(method: str, preset: str, overrides: Sequence[str]) -> str:
    """Return the split whose scores are shown: the last that the settings test, else the one they validate with."""
    raw, origin = settings.read(PRESETS, preset, None, list(overrides))
    data = settings.validate(find_method(method).settings, raw, origin).data
    return str((data.val, *data.tests)[-1])


def places_of(store: Path, preset: str, folder: Path) -> Places:
    """Return where the trials on a store are made."""
    return lambda method, seed: Place(store, preset, folder / preset)


def main() -> int:
    """Train and report."""
    parser = bench_parser(__doc__, toyworld=True, seeds=[0], epochs=1, videos=40)
    parser.add_argument("method", choices=sorted(TABLES), help="the method")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--store", type=Path, help="train on this store")
    where.add_argument("--toyworld", action="store_true", help="train on toy worlds, filmed if they are not there")
    parser.add_argument("--world", choices=sorted(KINDS), default=DEFAULT, help="their kind (default: %(default)s)")
    parser.add_argument("--preset", help="preset of the method (default: cra or coqo, or that of the toy world)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="in all rows")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="tables to make (default: all)")
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="rows to make, beside the one of the whole method")
    parser.add_argument("--seeds", type=parse_seeds, help="as 0-2 or 0,1 (default: 0-2; worlds 10-12)")
    parser.add_argument("--split", help="the split to show (default: the last that the preset tests, else its val)")
    parser.add_argument("--visual", nargs="+", default=[], metavar="FEATURE", help="also train CoQo on these")
    parser.add_argument("--dir", type=Path, default=Path("out/ablations"), help="where worlds and trainings are kept")
    parser.add_argument("--workers", type=int, default=2, help="trainings at the same time, one thread each")
    parser.add_argument("--epochs", type=int, help="epochs of each training (default: those of the preset)")
    parser.add_argument("--videos", type=int, help="videos of a toy world (default: those of its preset)")
    arguments = parser.parse_args()
    method: str = arguments.method
    if arguments.visual and method != "coqo":
        parser.error("--visual: only coqo takes the features of its frames from another one")
    if arguments.store is None and not arguments.toyworld:
        parser.error("say what to train on: --store STORE or --toyworld")
    if arguments.world != DEFAULT and not arguments.toyworld:
        parser.error("--world: only toy worlds have a kind; give --toyworld too")
    if method == "coqo" and KINDS[arguments.world].band is None:
        parser.error(f"--world {arguments.world}: has no videos for coqo")
    world = arguments.world if arguments.toyworld else ""
    preset = arguments.preset or (f"{method}-toyworld" if arguments.toyworld else method)
    epochs = [f"loop.epochs={arguments.epochs}"] if arguments.epochs else []
    shared = (*tested(method, world), *arguments.overrides, *epochs)
    split = arguments.split or scored_split(method, preset, shared)
    seeds = arguments.seeds or (toyworld.REPORTED[:3] if arguments.toyworld else STORE_SEEDS)
    known = experiments(method, split, seeds, arguments.visual, world)
    names = arguments.only or ([QUICK[method]] if arguments.quick else [name for name in known if name != "rates"])
    for name in names:
        if name not in known:
            parser.error(f"{method} has no table {name!r}{nearest(name, known)} ({available(known)})")
    rows = {row for name in names for row in known[name].variants}
    for row in arguments.rows or ():
        if row not in rows:
            parser.error(f"no row is named {row!r}{nearest(row, rows)} ({available(sorted(rows))})")
    chosen = {name: with_overrides(with_rows(known[name], arguments.rows), shared) for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if arguments.quick else arguments.dir.absolute()
        if arguments.toyworld:
            worlds = toyworld.make_worlds(folder, seeds, arguments.workers, arguments.videos, world)
            places = toyworld.places(worlds, preset)
        else:
            places = places_of(arguments.store.absolute(), preset, folder)
        found = trials.run(chosen, dict.fromkeys(chosen, seeds), places, arguments.workers)
    unit = "worlds" if arguments.toyworld else "seeds"
    return Report(
        title=f"What the parts of {WHOLE[method]} are worth" + (f", in the world {world!r}" if world else ""),
        about=prose(__doc__),
        tables=[table for name, collected in found.items() for table in tables(chosen[name], collected, unit)],
        figures={"split": split, "preset": preset, "world": world, **found},
        uses=("torch", "numpy", "av"),
    ).finish(arguments)


def tested(method: str, world: str) -> tuple[str, ...]:
    """Return the override by which CRA is tested on all splits of a kind of world that has more than the usual ones."""
    splits = [split for split in KINDS[world].splits if split.startswith("test")] if world else []
    if method != "cra" or len(splits) < 3:
        return ()
    return (f"data.tests=[{', '.join(sorted(splits, key='test_ood'.__eq__))}]",)


def with_rows(experiment: Experiment, rows: Sequence[str] | None) -> Experiment:
    """Return an experiment with some of its rows, and those that they are compared with; None keeps all."""
    if rows is None:
        return experiment
    kept = {*rows, *(experiment.against[row] for row in rows if row in experiment.against), *WHOLE.values()}
    variants = {name: overrides for name, overrides in experiment.variants.items() if name in kept}
    against = {name: other for name, other in experiment.against.items() if name in kept}
    return replace(experiment, variants=variants, against=against)


def with_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Return an experiment all of whose rows have these overrides, before their own."""
    variants = {name: (*overrides, *own) for name, own in experiment.variants.items()}
    return replace(experiment, variants=variants)


if __name__ == "__main__":
    sys.exit(main())

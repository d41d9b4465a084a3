"""Stores with anything changed in any of their files, resealed: every command ends as it should."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stores import Store, StoreError
from stores.describe.card import render_card
from stores.describe.inspect import describe_key, describe_store
from stores.describe.versions import history
from stores.format import layout
from stores.pages import Options, Place, render
from stores.upkeep.compaction import compact
from stores.upkeep.gc import collect
from stores.upkeep.repairing import repair
from stores.upkeep.verification import Verification, verify
from tests._helpers.hostile import copied, mutate_bytes, mutate_json, picture, relist, reseal, restate
from tests.conftest import ROOT

MUTATIONS = 500


def mutate(root: Path, chance: random.Random) -> str:
    """Change one file of a store as its kind asks for, and return its name."""
    path = chance.choice(sorted(path for path in root.rglob("*") if path.is_file()))
    if path.suffix in (".arrow", ".parquet", ".h5"):
        path.write_bytes(mutate_bytes(path.read_bytes(), chance))
        if path.suffix == ".h5":
            restate(root, path)
        elif chance.random() < 0.9:
            relist(root, path)
    elif chance.random() < 0.2:
        path.write_bytes(mutate_bytes(path.read_bytes(), chance))
    elif path.parent.name in (layout.SPECS, layout.EVENTS) or path.name == layout.IDENTITY:
        path.write_text("\n".join(json.dumps(mutate_json(json.loads(line), chance)) for line in [path.read_text()]))
    else:
        before = json.loads(layout.unseal(path.read_bytes()))
        after = mutate_json(before, chance)
        if isinstance(after, dict):
            reseal(path, lambda record: (record.clear(), record.update(after))[0])
    return path.relative_to(root).as_posix()


def read_all(root: Path) -> None:
    with Store.open(root) as store:
        for name, entry in store.manifest.features.items():
            for spec in entry.specs:
                for key in store.keys(f"{name}@{spec}"):
                    full = f"{name}@{spec}"
                    store.row(full, key), store.times(full, key), store.valid(full, key), store.clip(full, key)
                    store.media(full, key), store.digest(full, key), store.published_times(full, key)
        for table in store.tables:
            store.table(table)
        store.failures()


def describe(root: Path) -> object:
    with Store.open(root, lease=False) as store:
        describe_store(store), render_card(store), describe_key(store, "clip0")
        return dict(render(store, Place.of(root / "out"), Options(videos=3)))


OPERATIONS: dict[str, Callable[[Path], object]] = {
    "read": read_all,
    "describe": describe,
    "history": history,
    "verify": lambda root: verify(root, deep=True),
    "compact": compact,
    "gc": lambda root: collect(root, grace_seconds=0),
    "repair": repair,
    "verify again": lambda root: verify(root, deep=True),
}


def beside(folder: Path) -> dict[str, tuple[str, bytes]]:
    return {name: what for name, what in picture(folder).items() if name.split("/")[0] != "store"}


def main(template: Path, folder: Path, first: int, count: int) -> None:
    """Mutate stores, and run every operation on each; print what went wrong."""
    outside = beside(folder)
    for seed in range(first, first + count):
        root = copied(template, folder / "store")
        changed = mutate(root, random.Random(seed))
        repaired = False
        for name, operation in OPERATIONS.items():
            sys.stderr.write(f"seed {seed}: {changed}: {name}\n")
            try:
                found = operation(root)
            except (StoreError, OSError):
                continue
            except BaseException as error:  # noqa: BLE001 (that is what is looked for)
                print(f"seed {seed}: {changed}: {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
                continue
            repaired = repaired or name == "repair"
            if name == "verify again" and repaired and isinstance(found, Verification) and not found.ok:
                print(f"seed {seed}: {changed}: not sound after repair: {found.problems[0]}", flush=True)
        if beside(folder) != outside:
            print(f"seed {seed}: {changed}: something outside changed", flush=True)


@pytest.mark.slow
def test_every_mutation_ends_in_an_error_of_ours_or_in_nothing(tmp_path: Path) -> None:
    from tests._helpers.mutable import rich_store

    template = rich_store(tmp_path / "template")
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "beside.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "tests.stores.test_mutations", str(template), str(folder), "0", str(MUTATIONS)],
        cwd=ROOT, text=True, capture_output=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))

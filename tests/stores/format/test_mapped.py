"""Memory maps without file descriptors."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stores.commit import Changes, commit, create_store, place_shard
from stores.format.mapped import empty_half_page_off, map_file
from tests._helpers.building import row, write_shard
from tests.conftest import ROOT


def mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_a_map_lives_as_long_as_a_view_of_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)) * 100)
    descriptors = os.listdir("/proc/self/fd")
    with path.open("rb") as file:
        view = map_file(file.fileno(), 25600)
    assert os.listdir("/proc/self/fd") == descriptors and mapped(path)
    part = view[256:260].view("<u4")
    assert not part.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    del view
    gc.collect()
    assert part[0] == 0x03020100
    del part
    gc.collect()
    assert not mapped(path)


def test_an_empty_file_cannot_be_mapped(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with (tmp_path / "empty").open("rb") as file, pytest.raises(OSError, match="Invalid argument"):
        map_file(file.fileno(), 0)


@pytest.mark.parametrize("nbytes", [1, 4096, 100_000])
def test_targets_of_copies_lie_half_a_page_from_rows(nbytes: int) -> None:
    target = empty_half_page_off(nbytes)
    assert target.shape == (nbytes,) and target.dtype == np.uint8
    assert target.ctypes.data % 4096 == 2048


def test_a_reader_holds_more_shards_than_file_descriptors(tmp_path: Path) -> None:
    root = create_store(tmp_path / "store")
    receipts = [write_shard(root, [row(f"v{number}")]) for number in range(40)]
    placed = [place for receipt in receipts for place in place_shard(root, receipt)]
    commit(root, Changes(placed=placed, shards=receipts, current={"demo": receipts[0].spec_digest}))
    code = (
        "import resource, sys; from stores import Store;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32));"
        "store = Store.open(sys.argv[1], lease=False);"
        "print(sum(len(store.row('demo', key)) for key in store.keys('demo')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], cwd=ROOT, text=True, capture_output=True)
    assert (done.stdout.strip(), done.stderr) == ("120", "")

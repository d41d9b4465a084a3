"""Dictionaries as the published trainers read them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.cluster.run import ClusterConfig, ClusterRequest, cluster
from stores import Store
from stores.describe import DictionaryKind
from stores.errors import MissingKeyError
from stores.exchange.cra_dictionaries import export_dictionaries
from stores.exchange.files import ExchangeError
from tests._helpers.dictionaries import fill, questions, write_questions
from tests.conftest import ROOT

CONFIG = {"encoder": {"name": "hashed", "size": 16}, "kmeans": {"k": 6}}
PUBLISHED_EDGES = [(0, 5), (0, 1), (0, 2), (0, 3), (0, 4), (2, 4), (2, 3), (4, 3), (5, 6), (5, 7), (6, 7), (2, 5)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = fill(tmp_path_factory.mktemp("dictionaries") / "store")
    kinds: tuple[DictionaryKind, ...] = ("linguistic", "visual")
    for kind in kinds:
        cluster(ClusterRequest(store=str(root), kind=kind, config=ClusterConfig.model_validate(CONFIG)))
    return root


@pytest.fixture
def out(store: Path, tmp_path: Path) -> Path:
    with Store.open(store, lease=False) as opened:
        result = export_dictionaries(opened, tmp_path / "out")
    assert set(result.files.values()) == {6}
    return tmp_path / "out"


def column(store: Path, table: str, name: str) -> np.ndarray[Any, Any]:
    with Store.open(store, lease=False) as opened:
        return np.array(opened.table(table).column(name).to_pylist(), np.float32)


def test_plain_tensors_are_read_without_torch_geometric(store: Path, out: Path) -> None:
    code = (
        "import sys, torch; sys.modules['torch_geometric'] = None;"
        f"graphs = torch.load({str(out / 'qa_graphs.pt')!r}, weights_only=True);"
        f"clusters = torch.load({str(out / 'visual_clusters.npy')!r}, weights_only=True);"
        "print(list(graphs['k_center']['x'].shape), list(clusters['k_center'].shape), sorted(graphs), sorted(clusters))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[6, 8, 16] [6, 4] ['k_center', 'k_mean'] ['k_center', 'k_mean']"


def test_tensors_hold_the_tables_numbers_and_the_published_edges(store: Path, out: Path) -> None:
    graphs = torch.load(out / "qa_graphs.pt", weights_only=True)
    centers = column(store, "linguistic_dictionary", "center").reshape(6, 8, 16)
    assert (graphs["k_center"]["x"].numpy() == centers).all()
    assert (graphs["k_mean"]["x"].numpy().reshape(6, -1) == column(store, "linguistic_dictionary", "mean")).all()
    assert [tuple(edge) for edge in graphs["k_center"]["edge_index"].T.tolist()] == PUBLISHED_EDGES
    clusters = torch.load(out / "visual_clusters.npy", weights_only=True)
    assert clusters["k_center"].dtype == torch.float32
    assert (clusters["k_center"].numpy() == column(store, "visual_dictionary", "center")).all()


@pytest.mark.skipif(importlib.util.find_spec("torch_geometric") is None, reason="needs torch_geometric")
def test_the_published_reading_works(out: Path) -> None:
    """Do what CRA's model does with the file: ``torch.load(path)["k_center"].x`` into a GCNConv over every graph."""
    from torch_geometric.nn import GCNConv

    graphs = torch.load(out / "qa_graphs.npy", weights_only=False)
    center = graphs["k_center"]
    assert center.edge_index.dtype == torch.int64
    assert tuple(center.edge_index.shape) == (2, 12)
    convolved = GCNConv(16, 2)(center.x, center.edge_index)
    assert tuple(convolved.shape) == (6, 8, 2)


def test_without_torch_geometric_it_says_what_is_not_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stores.exchange.cra_dictionaries.PYG", "no_such_package")
    with Store.open(store, lease=False) as opened:
        result = export_dictionaries(opened, tmp_path / "out")
    assert "pip install no_such_package" in result.left_out["qa_graphs.npy"]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"qa_graphs.pt", "visual_clusters.npy", "export.json"}


def test_the_record_says_what_was_exported(store: Path, out: Path) -> None:
    record = json.loads((out / "export.json").read_text())
    assert record["reelstore"]["dictionaries"]["linguistic"]["k"] == 6
    assert record["export"]["target"] == "cra_dictionaries"


def test_stale_dictionaries_are_exported_with_a_word(tmp_path: Path) -> None:
    root = fill(tmp_path / "store")
    cluster(ClusterRequest(store=str(root), kind="visual", config=ClusterConfig.model_validate(CONFIG)))
    write_questions(root, questions({"train": 20}))
    from pipeline.shared.staleness import mark_stale

    mark_stale(root)
    with Store.open(root, lease=False) as opened:
        result = export_dictionaries(opened, tmp_path / "out")
    assert result.stale == {"visual": ["removed train10", "removed train11"]}


def test_what_cannot_be_exported(store: Path, tmp_path: Path) -> None:
    bare = fill(tmp_path / "bare")
    with Store.open(bare, lease=False) as opened, pytest.raises(MissingKeyError, match="no dictionary in version"):
        export_dictionaries(opened, tmp_path / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with Store.open(store, lease=False) as opened, pytest.raises(ExchangeError, match="not an empty folder"):
        export_dictionaries(opened, tmp_path / "full")


def test_of_several_dictionaries_of_a_kind_one_is_named(store: Path, tmp_path: Path) -> None:
    config = ClusterConfig.model_validate({**CONFIG, "kmeans": {"k": 2}})
    cluster(ClusterRequest(store=str(store), kind="visual", config=config, split="val"))
    with Store.open(store, lease=False) as opened:
        with pytest.raises(MissingKeyError, match=r"several visual .*nextgqa/train/clip, nextgqa/val/clip"):
            export_dictionaries(opened, tmp_path / "out")
        with pytest.raises(MissingKeyError, match="no dictionary 'nextgqa/test/clip'"):
            export_dictionaries(opened, tmp_path / "out", ["nextgqa/test/clip"])
        result = export_dictionaries(opened, tmp_path / "out", ["nextgqa/val/clip"])
    assert result.files["visual_clusters.npy"] == 2 and result.files["qa_graphs.pt"] == 6

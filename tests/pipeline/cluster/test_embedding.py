"""The table of embeddings: each string once, sorted, computed once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from extractors.text import build_text_encoder
from pipeline.cluster import embedding
from pipeline.cluster.embedding import embed, option_texts, part_name, vectors
from pipeline.shared.errors import PreflightError, UsageError
from pipeline.shared.sizing import MachineConfig
from stores import Store
from stores.commit import create_store
from stores.format.manifest import load
from tests.conftest import ROOT

ENCODER = build_text_encoder("hashed", {"size": 16})


def texts_of(root: Path) -> list[str]:
    with Store.open(root, lease=False) as store:
        texts: list[str] = store.table("embeddings", part_name(ENCODER)).column("text").to_pylist()
        return texts


def test_unique_strings_are_stored_sorted_with_their_vectors(tmp_path: Path) -> None:
    assert embed(tmp_path / "store", ENCODER, ["dog", "a cat", "dog", "", "Zebra", "é"]) == 5
    assert texts_of(tmp_path / "store") == ["", "Zebra", "a cat", "dog", "é"]
    with Store.open(tmp_path / "store", lease=False) as store:
        texts, values = vectors(store, ENCODER)
        assert store.table("embeddings").schema.field("vector").type == pa.list_(pa.float32(), 16)
        assert json.loads(store.table("embeddings").schema.metadata[b"reelstore.numerics"]) == [{}]
    assert values.tobytes() == ENCODER.load("cpu").encode(texts.to_pylist()).tobytes()


def test_what_is_there_is_kept_and_only_the_rest_is_computed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    embed(root, ENCODER, ["b", "d"])
    assert embed(root, ENCODER, ["a", "b", "c"]) == 2
    assert texts_of(root) == ["a", "b", "c", "d"]
    before = load(root).version
    assert embed(root, ENCODER, ["d", "a"]) == 0
    assert load(root).version == before


def test_what_a_run_beside_this_one_adds_is_kept(tmp_path: Path, before_encoding: Callable[..., None]) -> None:
    root = tmp_path / "store"

    def run_beside(chunk: int) -> None:
        if chunk == 1:
            embed(root, ENCODER, ["b", "c"])

    before_encoding(run_beside)
    embed(root, ENCODER, ["a", "b"])
    assert texts_of(root) == ["a", "b", "c"]
    with Store.open(root, lease=False) as store:
        texts, values = vectors(store, ENCODER)
    assert values.tobytes() == ENCODER.load("cpu").encode(texts.to_pylist()).tobytes()


def test_encoders_have_parts_of_their_own(tmp_path: Path) -> None:
    root = tmp_path / "store"
    other = build_text_encoder("hashed", {"size": 8})
    embed(root, ENCODER, ["a"])
    embed(root, other, ["b"])
    with Store.open(root, lease=False) as store:
        assert set(store.parts("embeddings")) == {part_name(ENCODER), part_name(other)}
        assert store.table("embeddings", part_name(other)).column("text").to_pylist() == ["b"]


def test_the_bytes_do_not_depend_on_the_order_of_arrival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word {i}" for i in range(40)]
    embed(tmp_path / "one", ENCODER, words)
    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 7)
    monkeypatch.setattr(embedding, "COMMIT_EVERY_S", 0.0)
    embed(tmp_path / "two", ENCODER, reversed(words[::2]))
    embed(tmp_path / "two", ENCODER, reversed(words))
    digests = []
    for name in ("one", "two"):
        (part,) = load(tmp_path / name).tables["embeddings"].parts.values()
        digests.append([file.sha256 for file in part.files])
    assert digests[0] == digests[1]


def test_a_run_that_is_stopped_keeps_what_it_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_encoding: Callable[..., None]
) -> None:
    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 4)

    def stop(chunk: int) -> None:
        if chunk == 3:
            raise KeyboardInterrupt

    before_encoding(stop)
    words = [f"{i:02d}" for i in range(12)]
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "store", ENCODER, words)
    assert texts_of(tmp_path / "store") == words[:8]
    assert embed(tmp_path / "store", ENCODER, words) == 4


def test_nothing_to_do_loads_no_network_library(tmp_path: Path) -> None:
    embed(create_store(tmp_path / "store"), ENCODER, ["a"])
    code = (
        "import sys; from pathlib import Path; from pipeline.cluster.embedding import embed;"
        "from extractors.text import build_text_encoder;"
        f"print(embed(Path({str(tmp_path / 'store')!r}), build_text_encoder('hashed', {{'size': 16}}), ['a']),"
        "sorted({'torch', 'sklearn', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "0 []"


def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path) -> None:
    encoder = build_text_encoder("clip", {"model": "ViT-S-32-alt", "weights": "random:0"})
    with pytest.raises(PreflightError, match="but no GPU is visible"):
        embed(tmp_path / "store", encoder, ["a"], MachineConfig(device="cuda", gpus=0))


@pytest.mark.parametrize("when", ["load", "encode"])
def test_a_card_that_faults_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """Whatever torch raises; what was embedded before it stays."""

    def fault(*_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later")

    encoder = build_text_encoder("hashed", {"size": 32})
    target = type(encoder) if when == "load" else type(encoder.load("cpu"))
    monkeypatch.setattr(target, when, fault)
    with pytest.raises(UsageError, match=r"encoder on cpu: RuntimeError: CUDA error: .*another device") as caught:
        embed(tmp_path / "store", encoder, ["a"])
    assert "\n" not in str(caught.value)


def test_questions_and_options_are_embedded_plain_and_joined() -> None:
    table = pa.table({"question": ["why run", "what"], "options": [["fun", "fear"], None]})
    assert option_texts(table) == ["fear", "fun", "why run", "why run fear", "why run fun"]

"""The table of embeddings: each string once, sorted, computed once."""

from __future__ import annotations

import json
import signal
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
from pipeline.shared.terminal import Terminal
from stores import Store
from stores.commit import create_store
from stores.format.manifest import load
from stores.upkeep.gc import collect
from stores.upkeep.verification import verify
from tests.conftest import ROOT

ENCODER = build_text_encoder("hashed", {"size": 16})
WORDS = [f"{'very ' * (number % 5)}long word {number}" for number in range(111)]


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


_KILLED = """
import os, signal, sys
from pathlib import Path
from extractors.text import TextModel
from extractors.text.hashed import HashedText
from pipeline.cluster import embedding
from tests.pipeline.cluster.test_embedding import ENCODER, WORDS

embedding.TEXTS_AT_ONCE = 16
embedding.COMMIT_EVERY_S = 0.0
load, calls = HashedText.load, []

def load_watched(*arguments):
    model = load(*arguments)
    encode = model.encode

    def encode_watched(texts):
        calls.append(texts)
        if len(calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(texts)

    model.encode = encode_watched
    return model

HashedText.load = load_watched
embedding.embed(Path(sys.argv[1]), ENCODER, WORDS)
"""


def part_files(root: Path) -> list[str]:
    """sha256 of the files of the part."""
    (part,) = load(root).tables["embeddings"].parts.values()
    return [file.sha256 for file in part.files]


def test_a_run_that_is_killed_goes_on_and_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    root = tmp_path / "store"
    computed = 0
    for call in (4, 3):  # killed in the fourth call, then again in the third
        done = subprocess.run([sys.executable, "-c", _KILLED, root, str(call)], cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL
        computed += 16 * (call - 1)
        texts = texts_of(root)
        assert len(texts) == len(set(texts)) == computed
        assert len(part_files(root)) == computed // 16
        assert verify(root).ok
        collect(root)
        assert verify(root).ok and texts_of(root) == texts
    assert set(texts) == set(sorted(WORDS, key=lambda word: (len(word), word))[:computed])
    assert texts != sorted(texts)  # each file is sorted by itself
    assert embed(root, ENCODER, WORDS) == len(WORDS) - computed
    embed(tmp_path / "undisturbed", ENCODER, WORDS)
    assert part_files(root) == part_files(tmp_path / "undisturbed")
    assert texts_of(root) == sorted(WORDS)
    assert verify(root).ok


def test_a_run_that_was_killed_before_its_last_commit_is_tidied_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_encoding: Callable[..., None]
) -> None:
    """Nothing is left to compute, but the part still has a file per commit."""
    root = tmp_path / "store"
    with monkeypatch.context() as patched:
        patched.setattr(embedding, "TEXTS_AT_ONCE", 16)
        patched.setattr(embedding, "COMMIT_EVERY_S", 0.0)
        patched.setattr(embedding._GrowingPart, "merge", lambda part: None)
        embed(root, ENCODER, WORDS)
    assert len(part_files(root)) == -(-len(WORDS) // 16)

    def refuse(chunk: int) -> None:
        raise AssertionError("nothing is missing")

    before_encoding(refuse)
    assert embed(root, ENCODER, WORDS) == 0
    assert (len(part_files(root)), texts_of(root)) == (1, sorted(WORDS))
    before = load(root).version
    assert embed(root, ENCODER, WORDS) == 0
    assert load(root).version == before


def test_a_string_that_another_run_stores_between_two_commits_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_encoding: Callable[..., None]
) -> None:
    root = tmp_path / "store"
    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 1)
    monkeypatch.setattr(embedding, "COMMIT_EVERY_S", 0.0)

    def run_beside(chunk: int) -> None:
        if chunk == 2:
            embed(root, ENCODER, ["b", "c", "x"])

    before_encoding(run_beside)
    assert embed(root, ENCODER, ["a", "b", "c", "d"]) == 4
    assert texts_of(root) == ["a", "b", "c", "d", "x"]


def test_the_numerics_of_every_file_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "store"
    model = type(ENCODER.load("cpu"))
    for texts, threads in ((["a"], 1), (["b"], 2), (["c"], 1)):
        monkeypatch.setattr(model, "numerics", lambda _, threads=threads: {"threads": threads})
        embed(root, ENCODER, texts)
    with Store.open(root, lease=False) as store:
        metadata = store.table("embeddings", part_name(ENCODER)).schema.metadata
    assert json.loads(metadata[b"reelstore.numerics"]) == [{"threads": 1}, {"threads": 2}]


def test_progress_counts_strings_shortest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_encoding: Callable[..., None]
) -> None:
    shown: list[tuple[str, int, int]] = []

    class Shown(Terminal):
        def stage(self, name: str, done: int, total: int, note: str = "") -> None:
            shown.append((name, done, total))

    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 20)
    embed(tmp_path / "store", ENCODER, WORDS, terminal=Shown(quiet=True))
    assert shown == [("embed", min(done, 111), 111) for done in range(20, 121, 20)]


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

"""Networks of other kinds than those of the small models: what arrays give is what Stanza's documents give."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from parsers.stanza_arrays import Engine, Sentence
from parsers.stanza_arrays.words import batches
from parsers.stanza_parser import StanzaParser

torch = pytest.importorskip("torch")

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'-"


@pytest.fixture(scope="session")
def models(shared: Path) -> Path:
    return shared / "models" / "stanza"


@pytest.fixture(scope="session")
def texts(shared: Path) -> list[str]:
    with (shared / "data/annotations/nextgqa/val.csv").open(encoding="utf-8") as file:
        questions = random.Random(3).sample([row["question"] for row in csv.DictReader(file)], 20)
    return [*questions, "The dog ran. It was red!?! See www.example.com", "a"]


def language_model(folder: Path, forward: bool) -> str:
    """Write a character language model with random weights."""
    from stanza.models.common.char_model import CharacterLanguageModel
    from stanza.models.common.vocab import CharVocab

    vocab = {"char": CharVocab([list(LETTERS + " \n")])}
    sizes = {"char_emb_dim": 8, "char_hidden_dim": 12, "char_num_layers": 1}
    own = CharacterLanguageModel(
        sizes | {"char_rec_dropout": 0, "char_dropout": 0, "char_unit_dropout": 0}, vocab, is_forward_lm=forward
    )
    path = folder / f"{'forward' if forward else 'backward'}.pt"
    own.save(str(path))
    return str(path)


def randomise(pipeline: Any, folder: Path, **options: Any) -> None:
    """Give tagger and parser networks with random weights and other options."""
    from stanza.models.depparse.model import GraphParser
    from stanza.models.pos.model import Tagger

    torch.manual_seed(5)
    charlm = {
        "charlm_forward_file": language_model(folder, True),
        "charlm_backward_file": language_model(folder, False),
    }
    for name in ("pos", "depparse"):
        processor = pipeline.processors[name]
        trainer = processor.trainer
        own = {key: value for key, value in options.items() if key in trainer.args}
        trainer.args = trainer.args | charlm | own
        cls = Tagger if name == "pos" else GraphParser
        trainer.model = cls(trainer.args, trainer.vocab, emb_matrix=processor.pretrain.emb).eval()
        for parameter in trainer.model.parameters():
            torch.nn.init.normal_(parameter, std=0.15)


def columns(sentences: list[Sentence]) -> list[tuple[Any, ...]]:
    found = []
    for own in sentences:
        found += zip(own.words, own.lemmas, own.upos, own.xpos, own.feats, own.heads, own.deprels, strict=True)
    return found


def expected(pipeline: Any, text: str) -> list[tuple[Any, ...]]:
    words = [word for sentence in pipeline(text).sentences for word in sentence.words]
    return [
        (w.text, w.lemma or "_", w.upos or "_", w.xpos or "_", w.feats or "_", w.head, w.deprel or "_") for w in words
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"charlm": True},
        {"linearization": False, "distance": False, "char": False},
        {"share_hid": True},
        {"use_arc_embedding": True},
        {"reversed": True},
        {"tag_column_link": "hidden"},
    ],
    ids=lambda options: ", ".join(options) or "as they are",
)
def test_random_networks_give_what_stanza_gives(
    models: Path, texts: list[str], options: dict[str, Any], tmp_path: Path
) -> None:
    """With random weights nearly every tree needs a search, and many words conflict."""
    pipeline = StanzaParser(models)._load()
    randomise(pipeline, tmp_path, **options)
    torch.set_num_threads(1)
    alone = [expected(pipeline, text) for text in texts]
    engine = Engine(pipeline)
    split = engine.split(texts)
    engine.annotate([sentence for sentences in split for sentence in sentences])
    assert [columns(sentences) for sentences in split] == alone
    assert len({relation for words in alone for *_, relation in words}) > 5


def test_a_tokeniser_that_is_not_known_goes_through_stanza(models: Path, texts: list[str]) -> None:
    plain, other = Engine(StanzaParser(models)._load()), StanzaParser(models)._load()
    other.processors["tokenize"].trainer.args["use_dictionary"] = True
    engine = Engine(other)
    other.processors["tokenize"].trainer.args["use_dictionary"] = False
    assert not engine._splitter._is_known and plain._splitter._is_known
    assert engine.split(texts) == plain.split(texts)


def test_batches_bound_words_and_pairs() -> None:
    lengths = random.Random(0).choices(range(1, 40), k=300) + [500]
    found = list(batches(lengths, 200, 3000))
    assert sorted(number for batch in found for number in batch) == list(range(301))
    assert found[0] == [300]
    for batch in found[1:]:
        longest = max(lengths[number] for number in batch)
        assert lengths[batch[0]] == longest
        assert len(batch) * longest <= 200 and len(batch) * longest**2 <= 3000

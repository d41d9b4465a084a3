from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainers.cra.config import TextConfig
from trainers.cra.text import Pretrained, TokenText, load_pretrained
from trainers.cra.tokens import RobertaTokens, StoredVectors, WordTokens
from trainers.errors import TrainingError

QUESTION = "why did the boy pick up one present from the group of them"
OPTIONS = ["unwrap it", "what's that? a man-made thing", "it"]


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A RoBERTa of one small layer with a vocabulary of its own, as a folder."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("roberta")
    bpe = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    bpe.train_from_iterator([QUESTION, *OPTIONS] * 3, vocab_size=330, special_tokens=special)
    bpe.save_model(str(folder))
    tokenizer = transformers.RobertaTokenizerFast.from_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    size: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = transformers.RobertaConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=60, **size)
    torch.manual_seed(0)
    transformers.RobertaModel(config, add_pooling_layer=False).save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("length", [38, 24, 12])
def test_released_ids_are_those_of_the_published_text(roberta: Path, length: int) -> None:
    """Question + " </s> " + option in one segment of a fixed length (``docs/facts/cra.md`` section 3)."""
    _, tokenizer = load_pretrained(str(roberta))
    config = TextConfig(weights=str(roberta), option_tokens=length, mask_padding=False, keep_options=False)
    ours = RobertaTokens(config, tokenizer)([[(QUESTION, option) for option in OPTIONS]])
    texts = [f"{QUESTION} </s> {option}" for option in OPTIONS]
    published = tokenizer(texts, max_length=length, padding="max_length", truncation=True).input_ids
    assert ours[0].tolist() == published
    alone = RobertaTokens(config, tokenizer)([[(QUESTION, None)]])
    assert alone[0].tolist() == tokenizer([QUESTION], max_length=30, padding="max_length", truncation=True).input_ids


def test_what_is_too_long_keeps_its_option(roberta: Path) -> None:
    _, tokenizer = load_pretrained(str(roberta))
    tokens = RobertaTokens(TextConfig(option_tokens=12), tokenizer)
    for option in ("unwrap it", "it"):
        ids = tokens([[(QUESTION, option)]])[0, 0].tolist()
        tail = tokenizer(f" {option}", add_special_tokens=False).input_ids
        assert len(ids) == 12
        assert ids[-len(tail) - 2 :] == [2, *tail, 2]
        assert ids[:2] == tokenizer(QUESTION).input_ids[:2]


def test_a_pretrained_encoder_is_trained_whole(roberta: Path) -> None:
    encoder, tokenizer = load_pretrained(str(roberta))
    text = TokenText(Pretrained(encoder), 16, 8, 1, "attention")
    tokens = RobertaTokens(TextConfig(), tokenizer)([[(QUESTION, option) for option in OPTIONS]] * 2)
    out = text(tokens)
    assert out.shape == (2, 3, 8)
    out.pow(2).sum().backward()
    still = [name for name, parameter in text.named_parameters() if parameter.grad is None]
    assert still == []
    text.eval()
    torch.testing.assert_close(text(torch.nn.functional.pad(tokens, (0, 5), value=1)), text(tokens))


def test_weights_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"text\.weights .*: could not be loaded from that folder") as caught:
        load_pretrained(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_vocabulary_is_sorted_and_knows_unknown_words() -> None:
    tokens = WordTokens.build(TextConfig(encoder="words"), ["Why is it, red?", "it is"])
    assert tokens.words == (",", "?", "is", "it", "red", "why")
    assert len(tokens) == 9
    assert tokens([[("why blue", "it"), ("is", None)], [("", None), ("", None)]]).tolist() == [
        [[8, 1, 2, 6], [5, 0, 0, 0]],
        [[1, 0, 0, 0], [1, 0, 0, 0]],
    ]


def test_padding_has_a_fixed_length_where_it_takes_part() -> None:
    released = WordTokens(TextConfig(encoder="words", mask_padding=False), ["a"])
    assert released([[("a", "a")]]).shape == (1, 1, 38)
    assert released([[("a", None)]]).shape == (1, 1, 30)
    assert WordTokens(TextConfig(encoder="words"), ["a"])([[("a", "a")]]).shape == (1, 1, 3)


def test_stored_vectors_stand_side_by_side() -> None:
    vectors = {"q": np.array([1, 2], np.float32), "yes": np.array([3, 4], np.float32)}
    encode = StoredVectors(vectors, 2)
    assert encode([[("q", "yes"), ("q", None)], [("q", "yes"), ("", None)]]).tolist() == [
        [[1, 2, 3, 4], [1, 2, 0, 0]],
        [[1, 2, 3, 4], [0, 0, 0, 0]],
    ]
    with pytest.raises(TrainingError, match="'no'"):
        encode([[("q", "no")]])

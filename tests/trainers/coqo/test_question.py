"""Tokens, vocabularies and the padding-safe encoder."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from parsers.annotations import read_annotations
from trainers.coqo.question import QuestionEncoder, Vocabulary, tokenise
from trainers.errors import TrainingError


def test_published_vocabulary_has_93_ids() -> None:
    """``docs/facts/coqo.md`` section 1.3: 92 words and ``<pad>``, the LSTM embedding of 93."""
    assert len(Vocabulary.published()) == 93


def test_every_real_question_is_in_the_published_vocabulary(shared: Path) -> None:
    """``docs/facts/coqo.md`` section 1.3: 4 to 14 words after the published tokenisation, all of them among the 92."""
    table = read_annotations("music_avqa", shared / "data/annotations/music_avqa/avqa-val.json", "val")
    texts = table.column("question").to_pylist()
    ids = Vocabulary.published().encode([[text] for text in texts])
    lengths = (ids != 0).sum(-1)
    assert (int(lengths.min()), int(lengths.max())) == (4, 14)
    assert set(Vocabulary.build(texts).words) <= set(Vocabulary.published().words)


@pytest.mark.parametrize("question", ["Where is the tuba?", "Where is the tuba？", "Where is the tuba? "])
def test_both_question_marks_and_trailing_blanks_are_dropped(question: str) -> None:
    assert tokenise(question) == ["Where", "is", "the", "tuba"]


def test_a_vocabulary_depends_on_words_not_on_their_order() -> None:
    questions = ["Is there a tuba sound?", "Where is the flute?", "How many flute sounds?"]
    shuffled = random.Random(3).sample(questions, 3)
    assert Vocabulary.build(questions) == Vocabulary.build(shuffled)
    assert Vocabulary.build(questions).digest == Vocabulary.build(shuffled).digest
    assert Vocabulary.build(questions).digest != Vocabulary.build(questions[:2]).digest


def test_words_that_a_built_vocabulary_lacks_share_one_id() -> None:
    vocabulary = Vocabulary.build(["Where is it?"])
    ids = vocabulary.encode([["Where is Zorro?", "What is it?"]])
    assert ids.tolist() == [[[1, 2, 4], [4, 2, 3]]]
    assert len(vocabulary) == 5


def test_the_published_vocabulary_names_a_word_it_lacks() -> None:
    with pytest.raises(TrainingError, match="'theremin' is not in the published vocabulary"):
        Vocabulary.published().encode([["Is there a theremin sound?"]])


def test_padding_never_changes_a_question() -> None:
    """The published encoder runs over its padding; this one must not."""
    torch.manual_seed(0)
    encoder = QuestionEncoder(30, 8, 12, 16)
    words = torch.randint(1, 30, (2, 3, 6))
    words[0, 1, 3:] = 0
    padded = torch.zeros(2, 5, 14, dtype=torch.int64)
    padded[:, :3, :6] = words
    expected = encoder(words)
    torch.testing.assert_close(encoder(padded)[:, :3], expected)
    torch.testing.assert_close(encoder(words[:1, 1:2, :3])[0, 0], expected[0, 1])


def test_the_published_encoder_runs_over_learned_padding_to_14_steps() -> None:
    """The published loop by hand: an LSTM over every one of 14 ids, with a vector of its own for padding."""
    torch.manual_seed(0)
    encoder = QuestionEncoder(30, 8, 12, 16, padded_to=14)
    words = torch.randint(1, 30, (1, 3, 14))
    words[0, 1, 4:] = 0
    words[0, 2, 9:] = 0
    _, (h, c) = encoder.lstm(torch.tanh(encoder.embedding(words[0])))
    expected = encoder.out(torch.tanh(torch.cat([h[0], c[0]], dim=-1)))
    torch.testing.assert_close(encoder(words)[0], expected)
    torch.testing.assert_close(encoder(words[:, 1:2, :4])[0, 0], expected[1])  # a batch of short questions alone
    assert encoder.embedding.weight[0].abs().sum() > 0
    encoder(words[:, 1:2]).sum().backward()
    assert encoder.embedding.weight.grad is not None and encoder.embedding.weight.grad[0].abs().sum() > 0

    plain = QuestionEncoder(30, 8, 12, 16)
    plain.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(plain(words)[0, 0], expected[0])  # 14 words have no padding
    assert (plain(words)[0, 1] - expected[1]).abs().max() > 1e-3


def test_a_longer_question_changes_no_other_where_padding_is_read() -> None:
    torch.manual_seed(0)
    encoder = QuestionEncoder(30, 8, 12, 16, padded_to=6)
    words = torch.randint(1, 30, (1, 2, 9))
    words[0, 1, 3:] = 0
    torch.testing.assert_close(encoder(words)[0, 1], encoder(words[:, 1:2, :3])[0, 0])


def test_encoder_is_the_familys() -> None:
    """Linear(tanh[h; c]) of an LSTM over tanh(embedding), step by step (``docs/facts/coqo.md`` section 3.3)."""
    torch.manual_seed(0)
    encoder = QuestionEncoder(93, 512, 512, 512)
    lstm = 4 * 512 * (512 + 512) + 2 * 4 * 512
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 93 * 512 + lstm + 1024 * 512 + 512
    cell = torch.nn.LSTMCell(512, 512)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in encoder.lstm.state_dict().items()})
    words = torch.tensor([4, 8, 15, 16])
    h = c = torch.zeros(1, 512)
    for word in words:
        h, c = cell(torch.tanh(encoder.embedding(word[None])), (h, c))
    expected = encoder.out(torch.tanh(torch.cat([h, c], dim=1)))
    torch.testing.assert_close(encoder(words.view(1, 1, 4))[0], expected)

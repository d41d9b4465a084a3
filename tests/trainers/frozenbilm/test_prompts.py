"""Texts as published, and their ids by a tokeniser of our own or of the language model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests._helpers.frozenbilm import language_folder
from trainers.cra.tokens import PADDING
from trainers.errors import TrainingError
from trainers.frozenbilm import prompts
from trainers.frozenbilm.config import PromptConfig
from trainers.frozenbilm.prompts import (
    PretrainedTokeniser,
    PromptEncoder,
    WordTokeniser,
    answer_prompt,
    load_tokeniser,
    match_prompt,
)

TEXTS = ["why did the Boy pick up one present", "unwrap it", "who is it?"]


def test_prompts_are_the_published_texts() -> None:
    """``docs/facts/frozenbilm.md`` section 5: all but the first letter become small, and a question ends with a "?"."""
    assert answer_prompt("who is it", "a Man") == "Question: Who is it? Is it 'A man'? [MASK]. Subtitles:"
    assert answer_prompt("who is it?", "BLUE") == "Question: Who is it? Is it 'Blue'? [MASK]. Subtitles:"
    assert match_prompt("why is IT red") == (
        "Question: What question can the video clip answer? Is it 'Why is it red?' [MASK]. Subtitles:"
    )


def test_words_have_one_number_whatever_their_order() -> None:
    tokens, again = WordTokeniser.build(TEXTS), WordTokeniser.build(TEXTS[::-1] * 2)
    assert tokens.words == again.words == tuple(sorted(tokens.words))
    assert {"yes", "no", "subtitles", "clip", "boy"} <= set(tokens.words)
    ids = tokens.ids("Boy zebra [MASK].")
    assert ids[0] == 2 and ids[-1] == 3 and ids[2:4] == [1, 4]
    assert tokens.word("Yes") == 5 + tokens.words.index("yes") and len(tokens) == 5 + len(tokens.words)


def test_rows_are_padded_to_the_longest_text_of_the_batch() -> None:
    tokens = WordTokeniser.build(TEXTS)
    encode = PromptEncoder(PromptConfig(), tokens)
    found = encode([[(TEXTS[0], TEXTS[1]), (TEXTS[0], "it")], [(TEXTS[2], None), PADDING]])
    assert found.shape == (2, 2, len(tokens.ids(answer_prompt(TEXTS[0], TEXTS[1]))))
    assert found[1, 1].tolist()[:4] == [2, 4, 3, 0]
    assert ((found == tokens.mask).sum(-1) == 1).all()


@pytest.mark.parametrize("kind", ["words", "pretrained"])
def test_what_is_too_long_loses_the_end_of_its_question(kind: str, tmp_path: Path) -> None:
    tokens = WordTokeniser.build(TEXTS) if kind == "words" else load_tokeniser(language_folder(tmp_path, TEXTS))
    whole = len(tokens.ids(answer_prompt(*TEXTS[:2])))
    encode = PromptEncoder(PromptConfig(max_tokens=max(16, whole - 2)), tokens)
    kept = next(
        " ".join(TEXTS[0].split()[:count])
        for count in range(8, -1, -1)
        if len(tokens.ids(answer_prompt(" ".join(TEXTS[0].split()[:count]), TEXTS[1]))) <= encode.config.max_tokens
    )
    assert kept != TEXTS[0]
    assert encode.ids((TEXTS[0], TEXTS[1])) == tokens.ids(answer_prompt(kept, TEXTS[1]))
    with pytest.raises(TrainingError, match=r"text\.max_tokens: \d+ tokens do not hold 'very long very long"):
        encode.ids((TEXTS[0], " ".join(["very long"] * 100)))


def test_a_folder_has_the_ids_of_its_own_tokeniser(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    folder = language_folder(tmp_path, TEXTS)
    tokens = load_tokeniser(folder)
    plain = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = answer_prompt(*TEXTS[:2])
    assert tokens.ids(text) == plain.encode(text).ids
    assert tokens.ids(text).count(tokens.mask) == 1 and tokens.mask == plain.token_to_id("[MASK]")
    assert tokens.word("Yes") == plain.encode("Yes", add_special_tokens=False).ids[0]
    assert tokens.pad == 0


def test_what_is_missing_for_spm_model_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = language_folder(tmp_path, TEXTS)
    (folder / "tokenizer.json").unlink()
    (folder / "spm.model").write_bytes(b"")
    monkeypatch.setattr(prompts, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"spm\.model needs sentencepiece: pip install sentencepiece") as caught:
        load_tokeniser(folder)
    assert "\n" not in str(caught.value)


def test_a_tokeniser_of_another_model_is_refused(tmp_path: Path) -> None:
    class Other:
        mask_token, mask_token_id, pad_token_id = "<mask>", 4, 1

    with pytest.raises(TrainingError, match=r"its tokeniser has no padding or no \[MASK\]"):
        PretrainedTokeniser(Other(), tmp_path)


def test_spm_model_gives_the_pieces_of_sentencepiece(tmp_path: Path) -> None:
    """As Microsoft published it: the file has no [MASK], whose number follows all pieces."""
    sentencepiece = pytest.importorskip("sentencepiece")
    special = {f"{name}_piece": f"[{name.upper()}]" for name in ("pad", "unk")}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([answer_prompt(*TEXTS[:2]).replace("[MASK]", ""), "Yes No", *TEXTS] * 20),
        model_prefix=str(tmp_path / "spm"),
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=3,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        bos_piece="[CLS]",
        eos_piece="[SEP]",
        **special,
    )
    (tmp_path / "config.json").write_text('{"model_type": "deberta-v2"}')
    tokens = load_tokeniser(tmp_path)
    plain = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    before, after = answer_prompt(*TEXTS[:2]).split("[MASK]")
    assert tokens.mask == plain.vocab_size()
    assert tokens.ids(f"{before}[MASK]{after}") == [1, *plain.encode(before), tokens.mask, *plain.encode(after), 2]

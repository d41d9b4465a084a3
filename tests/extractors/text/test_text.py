"""Text encoders against the libraries whose numbers they promise."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import save_file

from extractors import ExtractorError, WeightsError
from extractors.text import TextEncoder, TextModel, build_text_encoder, text_encoder_names
from stores.format import layout
from tests.conftest import ROOT

SMALL_CLIP = {"model": "ViT-S-32-alt", "weights": "random:0"}
HASHED = "d21c4539f89b782d5505cb3a9858bad781de4c218ad21a73f38ec89f9382e58c"  # sha256 of TEXTS, size 16, seed 3
TEXTS = [
    "why did the boy pick up the ball",
    "why did the child lift the ball",
    "a train leaves the station",
    "",
    "Ball",
    "[PAD] ball <end_of_text> ball",
    "¿qué? ☃",
    "how many people were there in the room while the dog was barking at the postman",
    "word " * 100,
]


@pytest.fixture(scope="module")
def clip() -> TextModel:
    return build_text_encoder("clip", SMALL_CLIP).load("cpu", threads=1)


def check_rows_depend_on_their_text_alone(model: TextModel) -> None:
    texts = TEXTS[:5]
    together = model.encode(texts)
    doubled = model.encode([*texts[::-1], "one more", *texts])
    assert together.dtype == np.float32
    assert doubled[:5][::-1].tobytes() == together.tobytes()
    assert doubled[6:].tobytes() == together.tobytes()
    assert model.encode(texts[2:3]).tobytes() == together[2:3].tobytes()


def reference_clip(model: str, texts: list[str]) -> NDArray[np.float32]:
    """Encode with open_clip's own network of seed 0, its own tokenizer and its own ``encode_text``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = open_clip.create_model(model, pretrained=None).eval()
    with torch.no_grad():
        values: NDArray[np.float32] = network.encode_text(open_clip.get_tokenizer(model)(texts)).numpy()
    return values


def test_clip_is_open_clips_encode_text(clip: TextModel) -> None:
    np.testing.assert_allclose(clip.encode(TEXTS), reference_clip("ViT-S-32-alt", TEXTS), atol=2e-5)


def test_clip_is_not_normalised_and_the_empty_string_is_a_vector(clip: TextModel) -> None:
    values = clip.encode(["", "ball"])
    assert (abs(np.linalg.norm(values, axis=1) - 1) > 0.01).all()
    assert np.isfinite(values).all()


def test_clip_cuts_after_77_tokens(clip: TextModel) -> None:
    """Begin, 75 words and end fit: the 76th word has no effect, the 75th has."""
    fits, longer, other = "cat " * 75, "cat " * 75 + "dog", "cat " * 74 + "dog"
    values = clip.encode([fits, longer, other])
    assert values[0].tobytes() == values[1].tobytes()
    assert abs(values[0] - values[2]).max() > 1e-4


def test_clip_rows_depend_on_their_text_alone(clip: TextModel) -> None:
    check_rows_depend_on_their_text_alone(clip)


def test_clip_weights_and_activation_are_in_the_spec(tmp_path: Path) -> None:
    plain = build_text_encoder("clip", {})
    assert plain.dim == 768
    spec = plain.spec()
    assert (spec["model"], spec["weights"], spec["activation"]) == ("ViT-L-14", {"tag": "openai"}, "quick_gelu")
    assert spec["context_length"] == 77
    # The activation is also that of the text blocks, even if the image tower has its own.
    assert build_text_encoder("clip", {"model": "RN50", "weights": "openai"}).spec()["activation"] == "quick_gelu"
    assert build_text_encoder("clip", {**SMALL_CLIP, "activation": "quick_gelu"}).spec()["activation"] == "quick_gelu"
    assert not plain.random_weights
    assert build_text_encoder("clip", SMALL_CLIP).random_weights


def test_clip_from_a_file_gives_the_numbers_of_its_seed(clip: TextModel, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = open_clip.create_model("ViT-S-32-alt", pretrained=None).state_dict()
    file = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    encoder = build_text_encoder("clip", {**SMALL_CLIP, "weights": str(file), "sha256": digest})
    assert encoder.spec()["weights"] == {"sha256": digest}
    assert encoder.load("cpu", threads=1).encode(TEXTS[:3]).tobytes() == clip.encode(TEXTS[:3]).tobytes()
    pinned = build_text_encoder("clip", {**SMALL_CLIP, "weights": str(file), "sha256": "0" * 64})
    with pytest.raises(WeightsError, match="is pinned"):
        pinned.load("cpu")


@pytest.fixture(scope="module")
def sentence(minilm: Path) -> TextModel:
    return build_text_encoder("sentence", {"model": str(minilm)}).load("cpu", threads=1)


def test_sentence_is_the_mean_of_unpadded_hidden_states(minilm: Path, sentence: TextModel) -> None:
    """Compare with the definition, one text at a time, loaded and tokenized by the transformers library itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    network = transformers.AutoModel.from_pretrained(minilm).eval()
    ours = sentence.encode(TEXTS)
    for text, vector in zip(TEXTS, ours, strict=True):
        with torch.no_grad():
            hidden = network(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state
        wanted = torch.nn.functional.normalize(hidden[0].mean(dim=0), dim=0).numpy()
        np.testing.assert_allclose(vector, wanted, atol=2e-6)


@pytest.mark.slow
def test_sentence_is_sentence_transformers(minilm: Path, sentence: TextModel) -> None:
    library = pytest.importorskip("sentence_transformers")
    ours = sentence.encode(TEXTS)
    theirs = library.SentenceTransformer(str(minilm), device="cpu").encode(TEXTS, normalize_embeddings=True)
    assert ours.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


def test_sentence_knows_what_sentences_mean(sentence: TextModel) -> None:
    pairs = [
        ("why did the boy pick up the ball", "for what reason was the ball lifted by the child", "a train leaves"),
        ("a woman plays the violin", "a lady performs on a string instrument", "the stock market fell today"),
        ("how many dogs are there", "count the puppies", "the soup is too hot"),
    ]
    for text, near, far in pairs:
        vectors = sentence.encode([text, near, far])
        assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_sentence_rows_depend_on_their_text_alone(sentence: TextModel) -> None:
    check_rows_depend_on_their_text_alone(sentence)


def test_sentence_max_length_cuts_and_is_in_the_spec(minilm: Path) -> None:
    own = build_text_encoder("sentence", {"model": str(minilm)})
    assert own.spec()["max_length"] == 256
    short = build_text_encoder("sentence", {"model": str(minilm), "max_length": 10})
    model = short.load("cpu", threads=1)
    words = "one two three four five six seven eight"
    values = model.encode([words, f"{words} nine ten"])
    assert values[0].tobytes() == values[1].tobytes()
    assert short.digest != own.digest
    too_long = build_text_encoder("sentence", {"model": str(minilm), "max_length": 1024})
    with pytest.raises(ExtractorError, match="max_length"):
        too_long.spec()


def test_sentence_says_what_is_wrong_with_a_folder(minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="sentence: nowhere: no such folder"):
        build_text_encoder("sentence", {"model": "nowhere"})
    with pytest.raises(WeightsError, match=r"no config\.json"):
        _ = build_text_encoder("sentence", {"model": str(tmp_path)}).dim
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((minilm / name).read_bytes())
    save_file({"embeddings.word_embeddings.weight": torch.zeros(30522, 384)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="missing"):
        build_text_encoder("sentence", {"model": str(tmp_path)}).load("cpu")
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": false}')
    with pytest.raises(ExtractorError, match="not pooled by the mean"):
        build_text_encoder("sentence", {"model": str(tmp_path)}).spec()


def test_hashed_gives_the_same_bytes_on_every_machine() -> None:
    values = build_text_encoder("hashed", {"size": 16, "seed": 3}).load("cpu").encode(TEXTS)
    assert hashlib.sha256(values.tobytes()).hexdigest() == HASHED


def test_hashed_rows_depend_on_their_text_alone() -> None:
    check_rows_depend_on_their_text_alone(build_text_encoder("hashed", {}).load("cpu"))


def test_hashed_puts_shared_words_near() -> None:
    vectors = build_text_encoder("hashed", {}).load("cpu").encode(TEXTS)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(np.delete(lengths, 3), 1, atol=1e-6)
    assert lengths[3] == 0


def test_the_digest_is_the_spec_digest_of_stores() -> None:
    for encoder in (build_text_encoder("hashed", {}), build_text_encoder("clip", SMALL_CLIP)):
        assert encoder.digest == layout.digest(encoder.spec())


def test_names_and_a_users_own_encoder() -> None:
    assert text_encoder_names() == ["clip", "hashed", "sentence"]
    assert type(build_text_encoder("extractors.text.hashed:HashedText", {})).__name__ == "HashedText"
    with pytest.raises(ExtractorError, match=r"unknown text encoder 'hash'; did you mean 'hashed'\?"):
        build_text_encoder("hash", {})
    with pytest.raises(ExtractorError, match=r"not a subclass of extractors\.text\.base\.TextEncoder"):
        build_text_encoder("extractors.clip:Clip", {})
    with pytest.raises(ExtractorError, match="clip: unknown option 'tokens'"):
        build_text_encoder("clip", {"tokens": "cls"})


def test_describing_an_encoder_imports_no_torch() -> None:
    code = (
        "import sys; from extractors.text import build_text_encoder;"
        "encoders = [build_text_encoder('clip', {}), build_text_encoder('hashed', {})];"
        "print([len(encoder.digest) + encoder.dim for encoder in encoders]);"
        "print(sorted({'torch', 'open_clip', 'sklearn', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.strip() == "[832, 320]\n[]"


def test_an_encoder_is_frozen_and_hashes_its_options() -> None:
    encoder: TextEncoder = build_text_encoder("hashed", {"size": 8})
    assert encoder.digest != build_text_encoder("hashed", {"size": 16}).digest
    with pytest.raises(ValueError, match="frozen"):
        encoder.size = 9  # type: ignore[attr-defined]  # frozen, which is what is tested

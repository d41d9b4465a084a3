"""Parsing with Stanza's real models: what a parse depends on, odd texts, and missing or broken models."""

from __future__ import annotations

import csv
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bench.parsing import one_at_a_time, published_words, words_of
from parsers.annotations import read_annotations
from parsers.parse import Parse, ParserError, Refused
from parsers.stanza_arrays import Sentence
from parsers.stanza_parser import MAX_CHARACTERS, MAX_SENTENCE, StanzaParser, default_model_dir
from pipeline.parse.tables import texts_of
from tests.conftest import ROOT

MINIMAL = {
    "en": {
        "packages": {"default": {"tokenize": "tiny", "pos": "tiny"}},
        "tokenize": {"tiny": {"md5": "0"}},
        "pos": {"tiny": {"md5": "1", "dependencies": [{"model": "pretrain", "package": "vectors"}]}},
    },
    "english": {"alias": "en"},
}


@pytest.fixture(scope="session")
def models(shared: Path) -> Path:
    return shared / "models" / "stanza"


@pytest.fixture(scope="session")
def questions(shared: Path) -> list[str]:
    with (shared / "data/annotations/nextgqa/val.csv").open(encoding="utf-8") as file:
        return random.Random(1).sample([row["question"] for row in csv.DictReader(file)], 24)


@pytest.fixture(scope="session")
def parser(models: Path) -> StanzaParser:
    return StanzaParser(models)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Make a folder of models as Stanza lays it out, with files that are not models."""
    (tmp_path / "resources.json").write_text(json.dumps(MINIMAL))
    for name in ("tokenize/tiny", "pos/tiny", "pretrain/vectors"):
        path = tmp_path / "en" / f"{name}.pt"
        path.parent.mkdir(parents=True)
        path.write_text(name)
    return tmp_path


def words(parse: Parse) -> list[tuple[object, ...]]:
    return [(t.text, t.lemma, t.upos, t.xpos, t.feats, t.head, t.deprel) for t in parse.tokens]


@pytest.fixture(scope="session")
def alone(models: Path) -> Callable[[str], list[tuple[object, ...]]]:
    """Return Stanza's own parse of one string, which no code of ours has touched."""
    return partial(published_words, one_at_a_time(StanzaParser(models), threads=1))


def test_a_parse_is_stanzas_own_of_the_text_alone(
    parser: StanzaParser, alone: Callable[[str], list[tuple[object, ...]]], questions: list[str]
) -> None:
    texts = [
        *questions[:10],
        "see www.example.com or a@b.org, then 3.5 of it!?! he won't, y'all",
        "The dog ran.  It was red, wasn't it?\n\nCannot say...",
        "a" * 1500,
        "was __ there _ ?",
        "he gave her him the book it did what when what",
        "😀 is not café\u0301 or naïve",
    ]
    for text, parse in by_text(parser, texts):
        assert words_of(parse) == alone(text)


@pytest.fixture(scope="session")
def sample(shared: Path) -> list[str]:
    """A sixth of the texts of two datasets, but of each length in words, plain or not, at least eight if there are."""
    annotations = shared / "data/annotations"
    strata = defaultdict(list)
    for name, file in (("nextgqa", "nextgqa/val.csv"), ("music_avqa", "music_avqa/avqa-val.json")):
        for text in texts_of(read_annotations(name, annotations / file, split="val")):
            is_plain = text.replace("?", "").replace(" ", "").isalpha()
            strata[name, len(text.split()), is_plain].append(text)
    chosen = random.Random(4)
    taken = [chosen.sample(texts, min(len(texts), max(8, -(-len(texts) // 6)))) for texts in strata.values()]
    return list(dict.fromkeys(text for texts in taken for text in texts))


@pytest.mark.slow
def test_texts_of_two_datasets_are_parsed_as_stanza_does_alone(
    parser: StanzaParser, alone: Callable[[str], list[tuple[object, ...]]], sample: list[str]
) -> None:
    """Stanza takes 20 ms for each text, one string at a time; bench/parsing.py compares all 7,099."""
    assert len(sample) > 1200
    assert not [text for text, parse in by_text(parser, sample) if words_of(parse) != alone(text.strip())]


def test_a_parse_depends_on_nothing_else_in_the_batch(parser: StanzaParser, questions: list[str]) -> None:
    together = parser.parse(questions)
    shuffled = random.Random(2).sample(questions, len(questions))
    apart = {text: parse for at in range(0, 24, 5) for text, parse in by_text(parser, shuffled[at : at + 5])}
    assert [apart[question] for question in questions] == together


def by_text(parser: StanzaParser, texts: list[str]) -> list[tuple[str, Parse]]:
    return list(zip(texts, parser.parse(texts), strict=True))


def test_parses_come_in_the_callers_order_one_for_each_text(parser: StanzaParser) -> None:
    first, second, third = parser.parse(["Who runs?", "", "Who runs?"])
    assert (first.text, second, first) == ("Who runs?", Parse("", ()), third)
    assert first is third


def test_odd_texts_keep_their_offsets(parser: StanzaParser) -> None:
    texts = [
        " \n\t ",
        "\x00\x07",
        "😀",
        "x" * 3000,
        "?!",
        " \n\nWhat is it?\n\nA dog\x00 or a\x07cat 😀",
        "\ud800 is half a character",
        "is it? yes, no!",
        "\u200b",
    ]
    parses = dict(zip(texts, parser.parse(texts), strict=True))
    assert [parse.text for parse in parses.values()] == texts
    assert not parses[texts[0]].tokens and not parses[texts[1]].tokens
    for text in (texts[2], texts[4], texts[5], texts[7]):
        assert [text[t.start : t.end] for t in parses[text].tokens] == [t.text for t in parses[text].tokens]
        assert "".join(t.text for t in parses[text].tokens) == "".join(
            text.replace("\x00", "").replace("\x07", "").split()
        )
    assert len(parses[texts[5]].sentences()) >= 2
    assert len(parses[texts[7]].sentences()) == 2


def test_format_characters_are_no_words(parser: StanzaParser) -> None:
    texts = ["what is the man", "\u200bwhat is\u200b the man", "\ufeffwhat \u202bis\u202c the man", "foot\u00adball"]
    plain, spaced, marked, hyphen = parser.parse(texts)
    assert [t.text for t in plain.tokens] == ["what", "is", "the", "man"]
    assert words(spaced) == words(marked) == words(plain)
    assert [spaced.text[t.start : t.end] for t in spaced.tokens] == [t.text for t in spaced.tokens]
    assert [marked.text[t.start : t.end] for t in marked.tokens] == [t.text for t in marked.tokens]
    assert [(t.text, t.start, t.end) for t in hyphen.tokens] == [("football", 0, 9)]
    assert parser.parse(["\u200b\ufeff"]) == [Parse("\u200b\ufeff", ())]


def test_joiners_stay_inside_emoji_and_persian_words(parser: StanzaParser) -> None:
    texts = ["the \U0001f468\u200d\U0001f469\u200d\U0001f467 runs", "می\u200cخواهم"]
    for text, parse in zip(texts, parser.parse(texts), strict=True):
        assert [text[t.start : t.end] for t in parse.tokens] == [t.text for t in parse.tokens]
        assert [t.text for t in parse.tokens] == text.split()


LIMITED = """
import csv, random, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
from pathlib import Path
from parsers.stanza_parser import StanzaParser
words = random.Random(1).choices(sys.argv[2].split(), k=5000)
long = " ".join(words)[:9990]
for result in StanzaParser(Path(sys.argv[1])).parse(["why did the boy run", long]):
    print(type(result).__name__, len(result.text), getattr(result, "code", None), len(getattr(result, "tokens", ())))
"""


def test_a_long_text_without_a_full_stop_is_refused_within_4_gib(models: Path, questions: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(models), " ".join(questions)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Parse 19 None 5", "Refused 9990 text_too_long 0"]


def test_the_bounds_are_words_of_a_sentence_and_characters_of_a_text(parser: StanzaParser) -> None:
    longest, too_long = (" ".join(["dog"] * words) for words in (MAX_SENTENCE, MAX_SENTENCE + 1))
    sentences = "the dog ran. " * 60
    results = parser.parse([longest, too_long, sentences, "x" * (MAX_CHARACTERS + 1)])
    assert [len(result.tokens) if isinstance(result, Parse) else result.reason for result in results] == [
        200,
        "text_too_long: has a sentence of 201 words, but at most 200 are parsed",
        240,
        "text_too_long: has 10001 characters, but at most 10000 are parsed",
    ]


class Failing:
    """The networks, but for an error where ``fails`` says so of the sentences of a batch."""

    def __init__(self, parser: StanzaParser, fails: Callable[[list[str]], bool], error: Exception) -> None:
        self.engine, self.fails, self.error = parser._engine, fails, error
        self.failed: list[int] = []

    def split(self, texts: list[str]) -> list[list[Sentence]]:
        return self.engine.split(texts)

    def annotate(self, sentences: list[Sentence]) -> None:
        texts = [" ".join(sentence.words) for sentence in sentences]
        if self.fails(texts):
            self.failed.append(len(texts))
            raise self.error
        self.engine.annotate(sentences)


def failing(parser: StanzaParser, fails: Callable[[list[str]], bool], error: Exception) -> tuple[StanzaParser, Failing]:
    broken = StanzaParser(parser.model_dir)
    engine = Failing(parser, fails, error)
    vars(broken)["_engine"] = engine
    return broken, engine


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory.\nTried to allocate 9 GiB"), ZeroDivisionError("by 0")]
)
def test_a_text_on_which_stanza_fails_costs_no_other(
    parser: StanzaParser, questions: list[str], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "reelstore.parsers.stanza")
    bad = [questions[3], questions[17]]
    broken, _ = failing(parser, lambda texts: any(text in bad for text in texts), error)
    expected = [None if question in bad else parse for question, parse in by_text(parser, questions)]
    results = broken.parse(questions)
    assert [result if isinstance(result, Parse) else None for result in results] == expected
    reason = " ".join(str(error).split()) or type(error).__name__
    refused = [result for result in results if isinstance(result, Refused)]
    assert [result.text for result in refused] == bad
    assert {result.reason for result in refused} == {f"parser_failed: Stanza fails on this text ({reason})"}
    assert all(record.exc_info for record in caplog.records)


def test_a_batch_too_large_for_the_memory_is_halved(parser: StanzaParser, questions: list[str]) -> None:
    small, pipeline = failing(parser, lambda texts: len(texts) > 7, MemoryError())
    assert small.parse(questions) == parser.parse(questions)
    assert pipeline.failed == [24, 12, 12]


def test_a_text_that_fails_once_is_parsed(parser: StanzaParser) -> None:
    once = iter([True])
    flaky, _ = failing(parser, lambda texts: next(once, False), MemoryError())
    assert flaky.parse(["who ran"]) == parser.parse(["who ran"])


def test_a_machine_that_fails_on_every_text_ends_the_run(parser: StanzaParser, questions: list[str]) -> None:
    lost, pipeline = failing(parser, lambda texts: True, RuntimeError("CUDA error: the device\nis lost"))
    with pytest.raises(ParserError, match=r"^Stanza fails on every text, .* CUDA error: the device is lost; .*$"):
        lost.parse(questions)
    assert len(pipeline.failed) < 10
    full, _ = failing(parser, lambda texts: True, OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        full.parse(questions)


@pytest.mark.slow
def test_a_text_of_ten_thousand_characters(parser: StanzaParser) -> None:
    text = "the small dog runs after the ball. " * 285
    (parse,) = parser.parse([text])
    assert len(parse.tokens) == 285 * 8
    assert len(parse.sentences()) > 200


def test_contractions_that_the_dictionary_lacks_stay_whole(parser: StanzaParser) -> None:
    """The network for contractions is older than Stanza, which would leave its last layer at random."""
    parses = parser.parse(["change the toy's colour", "hold the lady's hands", "he won't go"])
    assert [[token.text for token in parse.tokens] for parse in parses] == [
        ["change", "the", "toy's", "colour"],
        ["hold", "the", "lady's", "hands"],
        ["he", "wo", "n't", "go"],
    ]


def test_parsing_leaves_the_process_as_it_was(parser: StanzaParser) -> None:
    import torch

    torch.set_num_threads(2)
    parser.parse(["who is it"])
    assert torch.get_num_threads() == 2
    assert not torch.is_inference_mode_enabled()
    torch.set_num_threads(1)


def test_a_loaded_parser_travels_without_its_models(parser: StanzaParser) -> None:
    parser.parse(["who is it"])
    assert len(pickle.dumps(parser)) < 2000
    assert pickle.loads(pickle.dumps(parser)).digest == parser.digest


def test_numerics_name_device_threads_and_versions(parser: StanzaParser) -> None:
    import stanza
    import torch

    numerics = parser.numerics
    assert (numerics["threads"], numerics["torch"], numerics["stanza"]) == (1, torch.__version__, stanza.__version__)


def test_the_digest_is_cheap(models: Path) -> None:
    """A run with nothing to parse imports neither Stanza nor torch."""
    code = (
        "import sys; from pathlib import Path; from parsers.stanza_parser import StanzaParser;"
        f"print(StanzaParser(Path({str(models)!r})).digest, sorted({{'torch', 'stanza'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout.split() == [StanzaParser(models).digest, "[]"]


def test_the_digest_follows_the_bytes_of_every_model_and_no_path(
    tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = StanzaParser(tiny).digest
    elsewhere = shutil.copytree(tiny, tmp_path_factory.mktemp("copy") / "models")
    assert StanzaParser(elsewhere).digest == first
    assert StanzaParser(elsewhere, batch_size=7, threads=3).digest == first
    digests = {first}
    for path in sorted(elsewhere.rglob("*.pt")):
        path.write_text("other")
        digests.add(StanzaParser(elsewhere).digest)
    assert len(digests) == 4


def test_a_missing_model_is_named(tiny: Path) -> None:
    missing = tiny / "en/pretrain/vectors.pt"
    missing.unlink()
    with pytest.raises(ParserError, match=rf"^Stanza's model {missing} is missing; .*run `python -c .*stanza.download"):
        StanzaParser(tiny).parse(["who"])


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParserError, match=rf"^{tmp_path / 'none' / 'resources.json'} cannot be read .*no such file"):
        _ = StanzaParser(tmp_path / "none").digest


def test_a_language_without_models_is_named(tiny: Path) -> None:
    for lang in ("xx", "english"):
        with pytest.raises(ParserError, match=f"lists no models for language '{lang}'"):
            _ = StanzaParser(tiny, lang=lang).digest


def test_a_broken_model_is_one_line_that_names_the_file(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "models"
    shutil.copytree(models, broken, copy_function=lambda source, target: Path(target).symlink_to(source))
    path = broken / "en/tokenize/combined.pt"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[: len(data) // 2])
    caplog.set_level("DEBUG", "reelstore.parsers.stanza")
    with pytest.raises(ParserError, match=rf"^Stanza's models in {broken} do not load \({path} has md5 \w+") as raised:
        StanzaParser(broken).parse(["who"])
    assert "\n" not in str(raised.value)
    (record,) = caplog.records
    assert record.exc_info


def test_models_are_downloaded_only_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stanza

    def download(lang: str, model_dir: str, **_: object) -> None:
        raise ConnectionError(f"no way to {model_dir}\nfor {lang}")

    monkeypatch.setattr(stanza, "download", download)
    monkeypatch.setenv("STANZA_RESOURCES_DIR", str(tmp_path / "mine"))
    with pytest.raises(
        ParserError, match=r"cannot be downloaded \(.*\); on a machine with a network, run `python -c"
    ) as raised:
        _ = StanzaParser().digest
    assert str(tmp_path / "mine") in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ParserError, match="cannot be read"):
        _ = StanzaParser(tmp_path).digest


def test_the_default_folder_is_that_of_stanza(monkeypatch: pytest.MonkeyPatch) -> None:
    from stanza.resources.common import DEFAULT_MODEL_DIR

    monkeypatch.delenv("STANZA_RESOURCES_DIR", raising=False)
    assert default_model_dir() == Path(DEFAULT_MODEL_DIR)


def test_a_missing_gpu_is_named(models: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("has a GPU")
    with pytest.raises(ParserError, match=r"^device cuda: torch sees no GPU here; use cpu or auto$"):
        StanzaParser(models, device="cuda").parse(["who"])

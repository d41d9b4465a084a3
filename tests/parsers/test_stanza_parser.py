"""Parsing with Stanza's real models: what a parse depends on, odd texts, and missing or broken models."""

from __future__ import annotations

import csv
import json
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from parsers.parse import Parse, ParserError
from parsers.stanza_parser import StanzaParser, default_model_dir
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


def test_a_parse_is_stanzas_own_of_the_text_alone(parser: StanzaParser, models: Path, questions: list[str]) -> None:
    import stanza
    import torch

    parses = parser.parse(questions)
    torch.set_num_threads(1)
    alone = stanza.Pipeline(
        "en",
        model_dir=str(models),
        processors="tokenize,mwt,pos,lemma,depparse",
        download_method=None,
        device="cpu",
        logging_level="FATAL",
    )
    for question, parse in list(zip(questions, parses, strict=True))[:10]:
        expected = [
            (w.text, w.lemma, w.upos, w.xpos, w.feats or "", w.head, w.deprel)
            for sentence in alone(question).sentences
            for w in sentence.words
        ]
        assert words(parse) == expected
        assert [question[t.start : t.end] for t in parse.tokens] == [t.text for t in parse.tokens]


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


@pytest.mark.slow
def test_a_text_of_ten_thousand_characters(parser: StanzaParser) -> None:
    text = "the small dog runs after the ball. " * 286
    (parse,) = parser.parse([text])
    assert len(parse.tokens) == 286 * 8
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
    import stanza.models.depparse.model as decoding
    import torch

    torch.set_num_threads(2)
    before = decoding.chuliu_edmonds_one_root
    parser.parse(["who is it"])
    assert torch.get_num_threads() == 2
    assert decoding.chuliu_edmonds_one_root is before
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
    with pytest.raises(ParserError, match=rf"^Stanza's model {missing} is missing; run `python -c .*stanza.download"):
        StanzaParser(tiny).parse(["who"])


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParserError, match=rf"^{tmp_path / 'none' / 'resources.json'} cannot be read .*No such file"):
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

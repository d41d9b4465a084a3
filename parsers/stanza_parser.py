"""Parses texts with Stanza: each distinct text once, sorted by length, in batches, with the processors graphs need.

A text that is too long for the search of a tree, or on which Stanza fails, costs neither the memory of the machine nor
its neighbours: it comes back as refused.

Stanza's ``resources.json`` names the model files. It is read here without Stanza, so that a run with nothing to parse
imports neither Stanza nor torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsers.characters import without_format
from parsers.parse import Parse, ParserError, Refused, Token
from settings.files import open_regular, read_text
from settings.messages import one_line, why_not_loaded

if TYPE_CHECKING:
    from stanza import Pipeline

    from parsers.stanza_arrays import Engine, Sentence

PROCESSORS = ("tokenize", "mwt", "pos", "lemma", "depparse")
MAX_CHARACTERS = 10_000
"""Characters of the longest text that is parsed."""

MAX_SENTENCE = 200
"""Words of the longest sentence that is parsed.

Scores and the search of the tree grow with the square and the cube of its words. On one CPU thread a sentence of 200
words took 0.2 s and 50 MB, one of 400 took 0.9 s and 0.2 GB, one of 800 took 4.4 s and 1.1 GB, and one of 2,000 failed
with 14 GB. The longest question of NExT-GQA has 28 words.
"""

_BATCH_CHARACTERS = 100_000  # bounds a batch of long texts; 512 questions of NExT-GQA have about 32,000
_PROBE = "who ran"
_EPOCH = 2
"""Part of the digest; raised when this file would give another parse with the same models."""

_LONGEST_REASON = 200
_DOWNLOAD = (
    'on a machine with a network, run `python -c "import stanza; '
    "stanza.download('{lang}', model_dir='{folder}', processors='{processors}')\"`, copy that folder"
)
_LOADING_ERRORS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    pickle.PickleError,
)
"""What Stanza raises for a damaged file: torch's own errors, or whatever its code meets in the wrong content."""

logger = logging.getLogger("reelstore.parsers.stanza")


@dataclass(frozen=True, slots=True)
class _Input:
    """A text, what Stanza gets of it, and the position in the text of each character that it gets."""

    text: str
    readable: str
    positions: Sequence[int]


class StanzaParser:
    """Parses one language with the default models of a folder.

    Parameters
    ----------
    model_dir
        A folder with ``resources.json`` and the models, into which nothing is ever downloaded. None stands for Stanza's
        own folder (``STANZA_RESOURCES_DIR`` or the user's cache), into which missing models are downloaded.
    lang
        The language as Stanza's code, such as ``en``.
    device
        ``cpu``, ``cuda``, or ``auto``, which takes a GPU if there is one.
    batch_size
        Texts per batch. A parse does not depend on it.
    threads
        CPU threads of the networks.
    """

    def __init__(
        self,
        model_dir: Path | None = None,
        lang: str = "en",
        device: str = "cpu",
        batch_size: int = 512,
        threads: int = 1,
    ) -> None:
        self.lang = lang
        self.device = device
        self.batch_size = batch_size
        self.threads = threads
        self._may_download = model_dir is None
        self.model_dir = default_model_dir() if model_dir is None else Path(model_dir).expanduser().absolute()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_engine"}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides a parse: processors, the bytes of every model file, and Stanza's version.

        Raises
        ------
        ParserError
            If a model file is missing and cannot be downloaded, or ``resources.json`` cannot be read.
        """
        files = {}
        for path in self._files():
            with open_regular(path) as file:
                files[path.relative_to(self.model_dir).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
        identity = {
            "epoch": _EPOCH,
            "parser": "stanza",
            "version": importlib.metadata.version("stanza"),
            "lang": self.lang,
            "processors": PROCESSORS,
            "files": files,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def numerics(self) -> dict[str, str | int | None]:
        """What can change the last bits of a score: device, threads, batch size and library versions.

        In a test with 8,655 real questions and answers, no parse depended on the batch size.
        """
        import torch

        device = self.torch_device()
        on_cpu = device == "cpu"
        return {
            "device": torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(),
            "threads": self.threads if on_cpu else None,
            "batch_size": self.batch_size,
            "torch": torch.__version__,
            "stanza": importlib.metadata.version("stanza"),
        }

    def parse(self, texts: Iterable[str]) -> list[Parse | Refused]:
        """Return the parses of ``texts``, in their order; equal texts are parsed once.

        A text has one or more sentences, all of which are kept. Control characters count as blanks, format characters
        that nobody sees are no part of a word (``parsers.characters``), and a text of blanks has no words.

        A text of more than ``MAX_CHARACTERS``, or with a sentence of more than ``MAX_SENTENCE`` words, is refused as
        ``text_too_long``. One on which Stanza fails, twice and alone, is refused as ``parser_failed``.

        Raises
        ------
        ParserError
            If the models are missing or do not load, or Stanza fails on every text.
        OSError
            If the machine fails to read or write.
        """
        texts = list(texts)
        results: dict[str, Parse | Refused] = {}
        inputs = []
        for text in sorted(set(texts), key=lambda text: (len(text), text)):
            if len(text) > MAX_CHARACTERS:
                message = f"has {len(text)} characters, but at most {MAX_CHARACTERS} are parsed"
                results[text] = Refused(text, "text_too_long", message)
                continue
            readable, positions = without_format(text)
            start = len(readable) - len(readable.lstrip())
            if readable.strip():
                inputs.append(_Input(text, readable.strip(), positions[start:]))
            else:
                results[text] = Parse(text, ())
        for batch in self._batches(inputs):
            results |= {result.text: result for result in self._parse_isolated(batch)}
        return [results[text] for text in texts]

    def _batches(self, inputs: Sequence[_Input]) -> Iterator[list[_Input]]:
        """Yield the texts in batches that are bounded by number and by characters."""
        batch: list[_Input] = []
        characters = 0
        for text in inputs:
            if batch and (len(batch) == self.batch_size or characters + len(text.readable) > _BATCH_CHARACTERS):
                yield batch
                batch, characters = [], 0
            batch.append(text)
            characters += len(text.readable)
        if batch:
            yield batch

    def _parse_isolated(self, batch: Sequence[_Input], tries: int = 2) -> list[Parse | Refused]:
        """Parse a batch; if Stanza fails, halve it until the text at fault is alone, and refuse that one."""
        engine = self._engine  # outside of the try: that models do not load is no fault of a text
        try:
            return self._parse_batch(engine, batch)
        except (ParserError, OSError):
            raise
        except Exception as error:  # whatever Stanza, torch or numpy raise, and want of memory
            logger.debug("Stanza fails on a batch of %d texts", len(batch), exc_info=True)
            reason = one_line(error, _LONGEST_REASON)
        # Only here, after the error is gone, nothing holds the tensors of the failed batch any longer.
        self._free_memory()
        if len(batch) > 1:
            middle = len(batch) // 2
            return [*self._parse_isolated(batch[:middle]), *self._parse_isolated(batch[middle:])]
        if tries > 1:
            return self._parse_isolated(batch, tries - 1)
        self._check_works(engine)
        return [Refused(batch[0].text, "parser_failed", f"Stanza fails on this text ({reason})")]

    def _check_works(self, engine: Engine) -> None:
        """Raise ParserError if Stanza fails on any text, so that a fault of the machine is not charged to texts."""
        try:
            self._parse_batch(engine, [_Input(_PROBE, _PROBE, range(len(_PROBE)))])
        except OSError:
            raise
        except Exception as error:  # as in _parse_isolated
            logger.debug("Stanza fails on %r", _PROBE, exc_info=True)
            reason = one_line(error, _LONGEST_REASON)
            raise ParserError(
                f"Stanza fails on every text, the last time with: {reason}; what is parsed is kept, so run again "
                f"with more memory or on another device (now {self.torch_device()})"
            ) from error

    def _free_memory(self) -> None:
        if self.torch_device() == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _parse_batch(self, engine: Engine, batch: Sequence[_Input]) -> list[Parse | Refused]:
        """Parse a batch whose texts are split into sentences first; one with too long a sentence goes no further."""
        with _threads(self.threads):
            split = engine.split([text.readable for text in batch])
            longest = [max((len(sentence.words) for sentence in sentences), default=0) for sentences in split]
            fitting = [sentences for sentences, words in zip(split, longest, strict=True) if words <= MAX_SENTENCE]
            engine.annotate([sentence for sentences in fitting for sentence in sentences])
        results: list[Parse | Refused] = []
        for text, sentences, words in zip(batch, split, longest, strict=True):
            if words <= MAX_SENTENCE:
                results.append(Parse(text.text, tuple(_tokens(sentences, text.positions))))
            else:
                message = f"has a sentence of {words} words, but at most {MAX_SENTENCE} are parsed"
                results.append(Refused(text.text, "text_too_long", message))
        return results

    @cached_property
    def _engine(self) -> Engine:
        from parsers.stanza_arrays import Engine

        return Engine(self._load())

    def load(self) -> None:
        """Load the models, which the first parse would do otherwise.

        Raises
        ------
        ParserError
            If they are missing or do not load.
        """
        _ = self._engine

    def _load(self) -> Pipeline:
        files = self._files()
        packages = self._packages()
        device = self.torch_device()
        import stanza

        try:
            pipeline = stanza.Pipeline(
                self.lang,
                model_dir=str(self.model_dir),
                processors=packages,
                package=None,
                download_method=None,
                device=device,
                logging_level="FATAL",
            )
        except _LOADING_ERRORS as error:
            logger.debug("Stanza's models in %s do not load", self.model_dir, exc_info=True)
            reason = why_not_loaded(error, _LONGEST_REASON)
            raise ParserError(
                f"Stanza's models in {self.model_dir} do not load{self._damaged(files)}: {reason}"
            ) from error
        if "mwt" in pipeline.processors and _is_untrained(pipeline.processors["mwt"]):
            pipeline.processors["mwt"].config["dict_only"] = True
            logger.warning(
                "Stanza %s cannot use the network in %s; contractions are split by its dictionary only",
                importlib.metadata.version("stanza"),
                self.model_dir / self.lang / "mwt",
            )
        return pipeline

    def torch_device(self) -> str:
        """Return ``cpu`` or ``cuda``; ``auto`` takes a GPU if torch sees one.

        Raises
        ------
        ParserError
            If the device is ``cuda`` and torch sees no GPU.
        """
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ParserError("device cuda: torch sees no GPU here; use cpu or auto")
        return self.device

    def _resources(self) -> dict[str, Any]:
        """Return what ``resources.json`` says about the language. Raises ParserError if it cannot be read."""
        path = self.model_dir / "resources.json"
        try:
            languages = json.loads(read_text(path))
        except (OSError, ValueError, RecursionError) as error:
            reason = "no such file" if isinstance(error, FileNotFoundError) else one_line(error, _LONGEST_REASON)
            raise ParserError(f"{path} cannot be read ({reason}); {self._advice()}") from error
        resources: dict[str, Any] = languages.get(self.lang, {}) if isinstance(languages, dict) else {}
        if "packages" not in resources:
            raise ParserError(f"{path} lists no models for language {self.lang!r}")
        return resources

    def _packages(self) -> dict[str, str]:
        """Return the default model of each processor; a language without contractions has no ``mwt``."""
        default = self._resources()["packages"]["default"]
        return {name: default[name] for name in PROCESSORS if name in default}

    def _model_files(self) -> list[Path]:
        """Return the files of the processors' models and of the models they depend on, each once, in their order."""
        resources = self._resources()
        needed = []
        for processor, package in self._packages().items():
            dependencies = resources.get(processor, {}).get(package, {}).get("dependencies", [])
            needed.append((processor, package))
            needed += [(dependency["model"], dependency["package"]) for dependency in dependencies]
        folder = self.model_dir / self.lang
        return [folder / model / f"{package}.pt" for model, package in dict.fromkeys(needed)]

    def _files(self) -> list[Path]:
        """Return the model files, all of which exist; missing ones are downloaded first if that is allowed."""
        if self._may_download and not (self.model_dir / "resources.json").is_file():
            self._download()
        missing = [path for path in self._model_files() if not path.is_file()]
        if missing and self._may_download:
            self._download()
            missing = [path for path in self._model_files() if not path.is_file()]
        if missing:
            raise ParserError(f"Stanza's model {missing[0]} is missing; {self._advice()}")
        return self._model_files()

    def _download(self) -> None:
        import stanza

        try:
            stanza.download(
                self.lang, model_dir=str(self.model_dir), processors=",".join(PROCESSORS), logging_level="FATAL"
            )
        except (OSError, ValueError) as error:
            logger.debug("Stanza's models for %r cannot be downloaded", self.lang, exc_info=True)
            reason = one_line(error, 80)  # the advice must fit on the line, too
            raise ParserError(
                f"Stanza's models for {self.lang!r} are not in {self.model_dir} and cannot be downloaded ({reason}); "
                f"{self._advice()}"
            ) from error

    def _advice(self) -> str:
        """Return how the models get here, and what names their folder to parse.py and to refresh.py."""
        folder = "stanza" if self._may_download else self.model_dir.name
        download = _DOWNLOAD.format(lang=self.lang, folder=folder, processors=",".join(PROCESSORS))
        if not self._may_download:
            return f"{download} to {self.model_dir}"
        return f"{download} here and name it: --stanza-dir, or parse.stanza.dir in a dataset file"

    def _damaged(self, files: list[Path]) -> str:
        """Return, for a message, the first file whose bytes are not those that ``resources.json`` lists."""
        resources = self._resources()
        for path in files:
            listed = resources.get(path.parent.name, {}).get(path.stem, {}).get("md5")
            with open_regular(path) as file:
                actual = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
            if listed is not None and actual != listed:
                return f" ({path} has md5 {actual}, but {listed} is listed; download it again)"
        return ""


def default_model_dir() -> Path:
    """Return Stanza's own folder of models (``stanza.resources.common.DEFAULT_MODEL_DIR``) without importing Stanza.

    Raises
    ------
    ParserError
        If Stanza is not installed.
    """
    chosen = os.environ.get("STANZA_RESOURCES_DIR")
    if chosen:
        return Path(chosen).absolute()
    spec = importlib.util.find_spec("stanza")
    if spec is None or spec.origin is None:
        raise ParserError("Stanza is not installed; run pip install stanza")
    version = re.search(
        r"__resources_version__ = ['\"]([^'\"]+)", Path(spec.origin).with_name("_version.py").read_text()
    )
    import platformdirs

    return Path(platformdirs.user_cache_dir("stanza", "StanfordNLP", version and version[1])) / "resources"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set torch's threads for the time of a parse, and restore them afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_untrained(processor: Any) -> bool:
    """Return whether a processor's file lacks some weights of its network, which Stanza silently leaves at random.

    Stanza 1.9 changed the network for contractions. With an older file it would split the same word differently in
    every process.
    """
    import torch

    network = processor.trainer.model
    if network is None:
        return False
    saved = torch.load(processor.config["model_path"], map_location="cpu", weights_only=True)["model"]
    return not set(network.state_dict()) <= set(saved)


def _tokens(sentences: Sequence[Sentence], positions: Sequence[int]) -> Iterator[Token]:
    """Yield the words of sentences, with the offsets that ``positions`` gives for their characters."""
    for number, own in enumerate(sentences):
        columns = (own.words, own.lemmas, own.upos, own.xpos, own.feats, own.heads, own.deprels, own.starts, own.ends)
        for text, lemma, upos, xpos, feats, head, deprel, start, end in zip(*columns, strict=True):
            yield Token(
                text=text,
                lemma="" if lemma == "_" and text != "_" else lemma,
                upos="" if upos == "_" else upos,
                xpos="" if xpos == "_" else xpos,
                feats="" if feats == "_" else feats,
                head=head,
                deprel="" if deprel == "_" else deprel,
                sentence=number,
                start=positions[start],
                end=positions[end - 1] + 1,
            )

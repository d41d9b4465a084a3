"""Stanza as the parser: unique texts, sorted by length, in batches, with the five processors that graphs need.

The model files are named by Stanza's `resources.json`, read here without Stanza, so that a run with nothing to parse
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
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parsers.parse import Parse, ParserError, Token
from parsers.spanning_tree import with_shortcut

if TYPE_CHECKING:
    from stanza import Pipeline

PROCESSORS = ("tokenize", "mwt", "pos", "lemma", "depparse")
_EPOCH = 1
"""Part of the digest; raised when this file would give another parse with the same models."""

_LOGGER = logging.getLogger(__name__)
_DOWNLOAD = "run `python -c \"import stanza; stanza.download('{lang}', processors='{processors}')\"`"
_LOADING_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.PickleError)


class StanzaParser:
    """A parser of one language with the default models of a folder.

    Parameters
    ----------
    model_dir:
        Folder with `resources.json` and the models; nothing is ever downloaded into it. None: Stanza's own folder
        (`STANZA_RESOURCES_DIR` or the user's cache), into which missing models are downloaded.
    device:
        `cpu`, `cuda`, or `auto`: a GPU where there is one.
    batch_size:
        Texts per batch. A parse does not depend on it.
    threads:
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
        return {name: value for name, value in vars(self).items() if name != "_pipeline"}

    @cached_property
    def digest(self) -> str:
        """sha256 of what decides a parse: processors, the bytes of every model file, Stanza's version.

        Raises
        ------
        ParserError:
            A model file is missing and cannot be downloaded, or `resources.json` cannot be read.
        """
        files = {}
        for path in self._files():
            with path.open("rb") as file:
                files[path.relative_to(self.model_dir).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
        recipe = {
            "epoch": _EPOCH,
            "parser": "stanza",
            "version": importlib.metadata.version("stanza"),
            "lang": self.lang,
            "processors": PROCESSORS,
            "files": files,
        }
        return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    @property
    def numerics(self) -> dict[str, str | int | None]:
        """What can move the last bits of a score: device, threads, batch size, library versions.

        The batch size changed none of 8,655 parses of real questions and answers.
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

    def parse(self, texts: Iterable[str]) -> list[Parse]:
        """Parses of `texts`, in their order; equal texts are parsed once.

        A text is one or more sentences, all kept. Control characters count as blanks. A text of blanks has no words.

        Raises
        ------
        ParserError:
            The models are missing or do not load.
        """
        texts = list(texts)
        parses = {}
        to_parse = []
        for text in sorted(set(texts), key=lambda text: (len(text), text)):
            readable = _readable(text)
            if readable.strip():
                to_parse.append((text, readable))
            else:
                parses[text] = Parse(text, ())
        for start in range(0, len(to_parse), self.batch_size):
            for parse in self._parse_batch(to_parse[start : start + self.batch_size]):
                parses[parse.text] = parse
        return [parses[text] for text in texts]

    def _parse_batch(self, batch: list[tuple[str, str]]) -> Iterator[Parse]:
        pipeline = self._pipeline
        with _settings(self.threads):
            documents = pipeline.bulk_process([readable.strip() for _, readable in batch])
        for (text, readable), document in zip(batch, documents, strict=True):
            yield Parse(text, tuple(_tokens(document, len(readable) - len(readable.lstrip()))))

    @cached_property
    def _pipeline(self) -> Pipeline:
        files = self._files()
        import stanza

        try:
            pipeline = stanza.Pipeline(
                self.lang,
                model_dir=str(self.model_dir),
                processors=self._packages(),
                package=None,
                download_method=None,
                device=self.torch_device(),
                logging_level="FATAL",
            )
        except _LOADING_ERRORS as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ParserError(
                f"Stanza's models in {self.model_dir} do not load{self._changed(files)}: {reason}"
            ) from error
        if "mwt" in pipeline.processors and _is_untrained(pipeline.processors["mwt"]):
            pipeline.processors["mwt"].config["dict_only"] = True
            _LOGGER.warning(
                "Stanza %s has no use for the network in %s/mwt: contractions are cut by its dictionary only",
                importlib.metadata.version("stanza"),
                self.model_dir / self.lang,
            )
        return pipeline

    def torch_device(self) -> str:
        """`cpu` or `cuda`, `auto` decided. Raises ParserError if a GPU is asked for and torch sees none."""
        import torch

        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ParserError("device cuda: torch sees no GPU here; use cpu or auto")
        return self.device

    def _resources(self) -> dict[str, Any]:
        """What `resources.json` says about the language. Raises ParserError if it cannot be read."""
        path = self.model_dir / "resources.json"
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ParserError(f"{path} cannot be read ({error}); {self._advice()}") from error
        found: dict[str, Any] = listed.get(self.lang, {}) if isinstance(listed, dict) else {}
        if "packages" not in found:
            raise ParserError(f"{path} lists no models for language {self.lang!r}")
        return found

    def _packages(self) -> dict[str, str]:
        """Processor name to the name of its default model; a language without contractions has no mwt."""
        default = self._resources()["packages"]["default"]
        return {name: default[name] for name in PROCESSORS if name in default}

    def _model_files(self) -> list[Path]:
        """Files of the processors' models and of those they depend on, each once, in the processors' order."""
        resources = self._resources()
        needed = []
        for processor, package in self._packages().items():
            dependencies = resources.get(processor, {}).get(package, {}).get("dependencies", [])
            needed.append((processor, package))
            needed += [(dependency["model"], dependency["package"]) for dependency in dependencies]
        return [self.model_dir / self.lang / kind / f"{package}.pt" for kind, package in dict.fromkeys(needed)]

    def _files(self) -> list[Path]:
        """The model files, all there; downloaded first where that is allowed."""
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
            reason = " ".join(str(error).split())[:200]
            raise ParserError(
                f"Stanza's models for {self.lang!r} are not in {self.model_dir} and cannot be downloaded; where there "
                f"is a network, {self._advice()}, then name the folder with --stanza-dir ({reason})"
            ) from error

    def _advice(self) -> str:
        return _DOWNLOAD.format(lang=self.lang, processors=",".join(PROCESSORS))

    def _changed(self, files: list[Path]) -> str:
        """Names a file whose bytes are not those that `resources.json` lists, for an error."""
        resources = self._resources()
        for path in files:
            listed = resources.get(path.parent.name, {}).get(path.stem, {}).get("md5")
            found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            if listed is not None and found != listed:
                return f" ({path} has md5 {found}, {listed} is listed: download it again)"
        return ""


def default_model_dir() -> Path:
    """Stanza's own folder of models (`stanza.resources.common.DEFAULT_MODEL_DIR`), found without importing it.

    Raises
    ------
    ParserError:
        Stanza is not installed.
    """
    named = os.environ.get("STANZA_RESOURCES_DIR")
    if named:
        return Path(named).absolute()
    spec = importlib.util.find_spec("stanza")
    if spec is None or spec.origin is None:
        raise ParserError("Stanza is not installed; run pip install stanza")
    version = re.search(
        r"__resources_version__ = ['\"]([^'\"]+)", Path(spec.origin).with_name("_version.py").read_text()
    )
    import platformdirs

    return Path(platformdirs.user_cache_dir("stanza", "StanfordNLP", version and version[1])) / "resources"


@contextmanager
def _settings(threads: int) -> Iterator[None]:
    """The process's settings while Stanza parses; afterwards they are what they were."""
    import stanza.models.depparse.model as decoding
    import torch

    threads_before = torch.get_num_threads()
    search = getattr(decoding, "chuliu_edmonds_one_root", None)
    torch.set_num_threads(threads)
    if search is not None:
        decoding.chuliu_edmonds_one_root = with_shortcut(search)
    try:
        yield
    finally:
        torch.set_num_threads(threads_before)
        if search is not None:
            decoding.chuliu_edmonds_one_root = search


def _is_untrained(processor: Any) -> bool:
    """Whether some weights of a processor's network are not in its file: Stanza leaves those at random, silently.

    The network for contractions is another since Stanza 1.9; with a file from before it would cut the same word
    differently in every process.
    """
    import torch

    network = processor.trainer.model
    if network is None:
        return False
    saved = torch.load(processor.config["model_path"], map_location="cpu", weights_only=True)["model"]
    return not set(network.state_dict()) <= set(saved)


def _readable(text: str) -> str:
    """`text`, character for character, with blanks for what a tokeniser would take into a word or refuse."""
    return "".join(" " if unicodedata.category(char) in ("Cc", "Cs") and char != "\n" else char for char in text)


def _tokens(document: Any, shift: int) -> Iterator[Token]:
    """Words of a Stanza document, offsets moved by `shift` characters."""
    for number, sentence in enumerate(document.sentences):
        for word in sentence.words:
            place = word if word.start_char is not None else word.parent
            yield Token(
                text=word.text,
                lemma=word.lemma or "",
                upos=word.upos or "",
                xpos=word.xpos or "",
                feats=word.feats or "",
                head=word.head,
                deprel=word.deprel or "",
                sentence=number,
                start=place.start_char + shift,
                end=place.end_char + shift,
            )

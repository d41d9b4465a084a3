"""`sentence`: a sentence encoder of the transformers library, as all-MiniLM-L6-v2.

The mean of the last hidden states over the tokens of the text, scaled to length 1 (Reimers and Gurevych,
"Sentence-BERT", 2019). The model is a local folder or a repository of the Hugging Face hub that holds `config.json`,
`tokenizer.json` and `model.safetensors`; a repository and a copy of its files are one and the same encoder.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from extractors import hub
from extractors.base import ExtractorError, Json, WeightsError
from extractors.text.base import TextEncoder, TextModel
from extractors.weights import check_pin, digest

_CONFIG, _TOKENIZER, _WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
_LENGTH, _POOLING = "sentence_bert_config.json", "1_Pooling/config.json"


class SentenceText(TextEncoder):
    """Options of the `sentence` text encoder.

    Attributes
    ----------
    model:
        A folder, or a repository such as `sentence-transformers/all-MiniLM-L6-v2`.
    sha256:
        Digest that `model.safetensors` must have.
    max_length:
        Tokens of the longest text, begin and end included; what is longer is cut. None is the model's own.
    """

    name: ClassVar[str] = "sentence"
    version: ClassVar[int] = 1

    model: Annotated[str, Field(min_length=1)]
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    max_length: Annotated[int, Field(ge=8, le=8192)] | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        looks_local = self.model.startswith((".", "/", "~")) or self.model.count("/") != 1
        if looks_local and not self.folder.is_dir():
            raise WeightsError(f"{self.model}: no such folder, and not the name of a repository (owner/name)")
        return self

    @property
    def folder(self) -> Path:
        """Where a local model is."""
        return Path(self.model).expanduser().absolute()

    def file(self, name: str) -> Path:
        """One file of the model. Raises WeightsError if it is not there or cannot be downloaded."""
        if not self.folder.is_dir():
            return hub.hugging_face_file(f"{self.model} {name}", self.model, name)
        if not (path := self.folder / name).is_file():
            raise WeightsError(f"{self.folder}: no {name}; a sentence encoder is config, tokenizer and safetensors")
        return path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The model's `config.json`, its own `max_length` under that name.

        Raises
        ------
        ExtractorError:
            The model's vectors are pooled otherwise than by the mean.
        """
        read = _read_json(self.file(_CONFIG))
        pooling = self._optional(_POOLING)
        if not pooling.get("pooling_mode_mean_tokens", True):
            raise ExtractorError(f"{self.model} is not pooled by the mean of its tokens; only that is supported")
        longest = read.get("max_position_embeddings", 512)
        return {**read, "max_length": min(self._optional(_LENGTH).get("max_seq_length") or longest, longest)}

    def _optional(self, name: str) -> dict[str, Any]:
        try:
            return _read_json(self.file(name))
        except WeightsError:
            return {}

    @property
    def context_length(self) -> int:
        """Tokens of the longest text."""
        own: int = self.settings["max_length"]
        if self.max_length is not None and self.max_length > self.settings.get("max_position_embeddings", 512):
            raise ExtractorError(f"option 'max_length': {self.model} has positions for fewer than {self.max_length}")
        return self.max_length or own

    def spec(self) -> dict[str, Json]:
        """The recipe. Reads and hashes the model's files (once per process); imports no torch."""
        return {
            "encoder": self.name,
            "version": self.version,
            "weights": {"sha256": check_pin(self.file(_WEIGHTS), self.sha256)},
            "config_sha256": hashlib.sha256(self.file(_CONFIG).read_bytes()).hexdigest(),
            "tokenizer_sha256": digest(self.file(_TOKENIZER)),
            "pooling": "mean",
            "normalise": "l2",
            "max_length": self.context_length,
            "compute_dtype": "float32",
        }

    @property
    def dim(self) -> int:
        size: int = self.settings["hidden_size"]
        return size

    def load(self, device: str, threads: int | None = None) -> TextModel:
        """Load the network, every weight of it from the file. Raises WeightsError, ExtractorError."""
        from extractors.text import sentence_tower as text_sentence_tower

        check_pin(self.file(_WEIGHTS), self.sha256)
        return text_sentence_tower.load(self, self.file(_TOKENIZER), device, threads)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return read

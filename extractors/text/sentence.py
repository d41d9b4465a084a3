"""``sentence``: a sentence encoder of the transformers library, for example all-MiniLM-L6-v2.

A vector is the mean of the last hidden states over the tokens of the text, scaled to length 1 (Reimers and Gurevych,
"Sentence-BERT", 2019). The model is a local folder or a repository of the Hugging Face hub that holds ``config.json``,
``tokenizer.json`` and ``model.safetensors``; a repository and a copy of its files are the same encoder. The papers and
the licences are in ``extractors/text/sentence_tower.py``.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from extractors.base import Execution, ExtractorError, Json, WeightsError
from extractors.hub import ModelFiles
from extractors.text.base import TextEncoder, TextModel
from extractors.weights import check_pin, digest

_CONFIG, _TOKENIZER, _WEIGHTS = "config.json", "tokenizer.json", "model.safetensors"
_LENGTH, _POOLING = "sentence_bert_config.json", "1_Pooling/config.json"


class SentenceText(TextEncoder):
    """Options of the ``sentence`` text encoder.

    Attributes
    ----------
    model
        A folder, or a repository such as ``sentence-transformers/all-MiniLM-L6-v2``.
    sha256
        Digest that ``model.safetensors`` must have.
    max_length
        Tokens of the longest text, begin and end included; longer texts are cut. None is the model's own number.
    """

    name: ClassVar[str] = "sentence"
    version: ClassVar[int] = 1

    model: Annotated[str, Field(min_length=1)]
    sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    max_length: Annotated[int, Field(ge=8, le=8192)] | None = None

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        self.files.check()
        return self

    @property
    def files(self) -> ModelFiles:
        """The files of the model."""
        return ModelFiles(self.model, (_CONFIG, _TOKENIZER, _WEIGHTS))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The model's ``config.json``, with the longest text that it takes as ``max_length``.

        Raises
        ------
        ExtractorError
            If the model does not pool its vectors by the mean.
        """
        config = self.files.read_json(_CONFIG)
        pooling = self._optional(_POOLING)
        if not pooling.get("pooling_mode_mean_tokens", True):
            raise ExtractorError(f"{self.model} is not pooled by the mean of its tokens; only that is supported")
        longest = config.get("max_position_embeddings", 512)
        return {**config, "max_length": min(self._optional(_LENGTH).get("max_seq_length") or longest, longest)}

    def _optional(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the model; a missing one is empty."""
        try:
            return self.files.read_json(name)
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
        """Return the spec. Reads and hashes the model's files (once per process); imports no torch."""
        return {
            "encoder": self.name,
            "version": self.version,
            "weights": {"sha256": check_pin(self.files.file(_WEIGHTS), self.sha256)},
            "config_sha256": digest(self.files.file(_CONFIG)),
            "tokenizer_sha256": digest(self.files.file(_TOKENIZER)),
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
        """Load the network, every weight of it from the file.

        Raises
        ------
        WeightsError
            If a file of the model is missing, is not the pinned one, or does not fit.
        ExtractorError
            If the model cannot be used with these options, or the device cannot be used.
        """
        from extractors.text import sentence_tower

        check_pin(self.files.file(_WEIGHTS), self.sha256)
        files = sentence_tower.Files(self.files.file(_CONFIG), self.files.file(_TOKENIZER), self.files.file(_WEIGHTS))
        return sentence_tower.load(files, self.context_length, self.dim, Execution(device, threads=threads))

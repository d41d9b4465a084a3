"""Models of transformers: built from their configuration, strictly loaded from their files, checked by shapes.

Code: transformers, https://github.com/huggingface/transformers, Apache-2.0 licence.

The library's own loader fills what a file does not hold with random numbers, and says so on the terminal. Here its
report is read instead: every tensor that is used must come from the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from extractors import tensors
from extractors.base import ExtractorError, WeightsError
from settings.files import check_folder
from settings.messages import first_few, one_line

REFUSALS = (RuntimeError, ValueError, TypeError, AttributeError, KeyError, AssertionError, OSError, ImportError)
"""What the library raises for a configuration, an input or a file that it does not take."""
_LOADING: dict[str, Any] = {
    "dtype": torch.float32,
    "ignore_mismatched_sizes": True,  # they are listed with everything else
    "output_loading_info": True,
}


class Architecture:
    """A model of transformers, and what its files may hold and lack.

    Parameters
    ----------
    config
        The library's configuration object.
    title
        Names the weights in messages, such as ``weights of FOLDER as vit``.
    cls
        The class of the model; None takes that which ``AutoModel`` knows for the configuration.
    used
        Prefixes of the tensors that are used, by the built model; the file must hold these.
    heads
        Prefixes of what a file may hold beside the model.
    """

    def __init__(
        self,
        config: Any,
        title: str,
        cls: Any = None,
        used: Callable[[Any], tuple[str, ...]] = lambda model: ("",),
        heads: tuple[str, ...] = (),
    ) -> None:
        self.config = config
        self.title = title
        self._cls = cls
        self._used = used
        self._heads = heads

    def untrained(self, seed: int) -> Any:
        """Build the model from a seed, on the CPU, without touching the process's random state.

        Raises
        ------
        ExtractorError
            If the library cannot build the model.
        """
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build()

    def on_meta(self) -> Any:
        """Build the model without memory for its numbers. Raises ExtractorError as ``untrained`` does."""
        with quiet(), torch.random.fork_rng(devices=[]), torch.device("meta"):
            return self._build()

    def trained(self, folder: Path, lacks: tuple[str, ...] = (), advice: str = "") -> Any:
        """Build the model and load its weights strictly.

        Parameters
        ----------
        folder
            Where the files are.
        lacks
            Parts of names that a file need not have.
        advice
            What to do if nothing but tensors with ``pooler.`` in their names is missing.

        Raises
        ------
        WeightsError
            If the weights cannot be read or do not fit.
        """
        try:
            with quiet(), torch.random.fork_rng(devices=[]):
                model, loading = self._loader().from_pretrained(
                    folder, config=self.config, local_files_only=True, use_safetensors=True, **_LOADING
                )
        except (*REFUSALS, SafetensorError) as error:
            raise WeightsError(f"{self.title} cannot be read: {one_line(error)}") from error
        self._check_fit(model, loading, lacks, advice)
        return model

    def check_files(self, files: Sequence[Path], lacks: tuple[str, ...] = (), advice: str = "") -> None:
        """Raise WeightsError, as ``trained`` would, by the names and shapes of the tensors in the files alone."""
        cls: Any = type(self.on_meta())
        state = {name: zeros for file in files for name, zeros in tensors.read_zeros(file).items()}
        with quiet(), torch.random.fork_rng(devices=[]):
            model, loading = cls.from_pretrained(None, config=self.config, state_dict=state, **_LOADING)
        self._check_fit(model, loading, lacks, advice)

    def _loader(self) -> Any:
        return transformers.AutoModel if self._cls is None else self._cls

    def _build(self) -> Any:
        make: Any = transformers.AutoModel.from_config if self._cls is None else self._cls._from_config
        try:
            return make(self.config, dtype=torch.float32)
        except REFUSALS as error:
            raise ExtractorError(f"transformers cannot build {self.config.model_type}: {one_line(error)}") from error

    def _check_fit(self, model: Any, loading: dict[str, Any], lacks: tuple[str, ...], advice: str) -> None:
        reshaped = {name: f"{name} {list(old)} instead of {list(new)}" for name, old, new in loading["mismatched_keys"]}
        unexpected = sorted(name for name in loading["unexpected_keys"] if not name.startswith(self._heads))
        missing = sorted(
            name
            for name in loading["missing_keys"]
            if name.startswith(self._used(model)) and name not in reshaped and not any(part in name for part in lacks)
        )
        if advice and missing and all("pooler." in name for name in missing) and not unexpected and not reshaped:
            raise WeightsError(f"{self.title} have no pooler ({first_few(missing)}); {advice}")
        if problems := tensors.misfits(missing, unexpected, [reshaped[name] for name in sorted(reshaped)]):
            raise WeightsError(f"{self.title} do not fit: {problems}")


def read_config(folder: Path) -> Any:
    """Read ``config.json``; no code of a repository is run.

    Raises
    ------
    ExtractorError
        If it is not the configuration of a model.
    """
    try:
        check_folder(folder)
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except REFUSALS as error:
        raise ExtractorError(
            f"{folder / 'config.json'} is not the configuration of a model: {one_line(error)}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library from reporting on a terminal what is said here in one line."""
    logging: Any = transformers.logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()

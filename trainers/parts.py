"""What each method reads from a store, in parts that can fail one by one.

``trainers.run`` reads them when a task cannot be built, to tell of all obstacles at once. Their messages are those of
the task, which fails at the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial

from stores import MissingKeyError, Store, StoreError
from stores.loading import check, load_questions, load_vectors
from trainers.coqo.config import CoqoConfig
from trainers.cra.candidates import read_paraphrases
from trainers.cra.config import CraConfig, GroundingSettings
from trainers.cra.dictionaries import load_dictionary, matching_dictionary
from trainers.cra.grounding_task import require_options
from trainers.cra.text import load_pretrained
from trainers.frozenbilm.config import FrozenBilmConfig
from trainers.frozenbilm.loading import parts_of_language_model

Part = Callable[[], object]


def parts_of_coqo(settings: CoqoConfig, store: Store) -> Iterator[Part]:
    """Yield the questions and rows of each split."""
    data = settings.data
    yield from _rows(store, settings.features, data.dataset, (data.train, data.val, *data.tests), data.allow)


def parts_of_cra(settings: CraConfig, store: Store) -> Iterator[Part]:
    """Yield what every grounding method reads, and the text encoder or its embeddings."""
    yield from _grounding(settings, store)
    data, text = settings.data, settings.text
    if text.encoder == "stored":
        yield partial(_embeddings, settings, store, (data.train, data.val, *data.tests))
    if text.encoder == "roberta":
        yield partial(load_pretrained, text.weights)


def parts_of_frozenbilm(settings: FrozenBilmConfig, store: Store) -> Iterator[Part]:
    """Yield what every grounding method reads, the language model's weights and tokeniser, and the checkpoint."""
    yield from _grounding(settings, store)
    yield from parts_of_language_model(settings)


def _grounding(settings: GroundingSettings, store: Store) -> Iterator[Part]:
    """Yield dictionaries, the questions and rows of each split, and paraphrases."""
    data = settings.data
    splits = (data.train, data.val, *data.tests)
    for name in settings.dictionaries:
        yield partial(load_dictionary, store, name, data)
    known = [
        (name, one.part)
        for name in settings.dictionaries
        if (one := matching_dictionary(store, name, data)) is not None
    ]
    yield from _rows(store, settings.features, data.dataset, splits, data.allow, known)
    for split in splits:
        yield partial(_options, store, split, data.dataset)
    if data.paraphrases is not None:
        yield partial(read_paraphrases, data.paraphrases)


def _rows(
    store: Store,
    features: Sequence[str],
    dataset: str,
    splits: Sequence[str],
    allow: Collection[str],
    dictionaries: Sequence[tuple[str, str]] = (),
) -> Iterator[Part]:
    present = []
    for name in features:
        try:
            store.spec_digest(name)
        except MissingKeyError:
            yield partial(store.spec_digest, name)
        else:
            present.append(name)

    def fit(split: str) -> None:
        check(store, present, split, dataset, dictionaries=dictionaries).require(allow)

    for split in splits:
        yield partial(fit, split)


def _options(store: Store, split: str, dataset: str) -> None:
    questions = load_questions(store, split, dataset)
    require_options(store, split, questions.ids, questions.options)


def _embeddings(settings: CraConfig, store: Store, splits: Sequence[str]) -> None:
    """Read the vectors of all texts of the splits that are there."""
    texts: set[str] = set()
    for split in splits:
        with suppress(StoreError):  # a part of its own
            questions = load_questions(store, split, settings.data.dataset)
            texts.update(questions.texts, *questions.options)
    load_vectors(store, sorted(texts), settings.text.embeddings or None)

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
from trainers.cra.config import CraConfig
from trainers.cra.dictionaries import load_dictionary, matching_dictionary
from trainers.cra.text import load_pretrained
from trainers.errors import TrainingError

Part = Callable[[], object]


def parts_of_coqo(settings: CoqoConfig, store: Store) -> Iterator[Part]:
    """Yield the questions and rows of each split."""
    data = settings.data
    yield from _rows(store, settings.features, data.dataset, (data.train, data.val, *data.tests), data.allow)


def parts_of_cra(settings: CraConfig, store: Store) -> Iterator[Part]:
    """Yield dictionaries, the questions and rows of each split, paraphrases, and the text encoder or its embeddings."""
    data, text, needed = settings.data, settings.text, settings.model.dictionaries
    splits = (data.train, data.val, *data.tests)
    for name in needed:
        yield partial(load_dictionary, store, name, data)
    known = [(name, one.part) for name in needed if (one := matching_dictionary(store, name, data)) is not None]
    yield from _rows(store, settings.features, data.dataset, splits, data.allow, known)
    for split in splits:
        yield partial(_options, store, split, data.dataset)
    if data.paraphrases is not None:
        yield partial(read_paraphrases, data.paraphrases)
    if text.encoder == "stored":
        yield partial(_embeddings, settings, store, splits)
    if text.encoder == "roberta":
        yield partial(load_pretrained, text.weights)


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
    for question, options in zip(questions.ids, questions.options, strict=True):
        if len(options) < 2:
            raise TrainingError(
                f"{store.path}: question {question!r} of split {split!r} has {len(options)} options; "
                "CRA chooses among at least 2"
            )


def _embeddings(settings: CraConfig, store: Store, splits: Sequence[str]) -> None:
    """Read the vectors of all texts of the splits that are there."""
    texts: set[str] = set()
    for split in splits:
        with suppress(StoreError):  # a part of its own
            questions = load_questions(store, split, settings.data.dataset)
            texts.update(questions.texts, *questions.options)
    load_vectors(store, sorted(texts), settings.text.embeddings or None)

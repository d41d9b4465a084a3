"""The training methods by name: their settings, what makes their task, and what draws their panel.

Importing this imports no torch: each entry imports its network only when a task is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from settings.messages import available, nearest
from trainers.config import MethodSettings
from trainers.coqo.config import CoqoConfig
from trainers.cra.config import CraConfig
from trainers.errors import TrainingError
from trainers.frozenbilm.config import FrozenBilmConfig

if TYPE_CHECKING:
    from stores import Store
    from trainers.distributed import Ranks
    from trainers.panels.finished import ShownQuestion
    from trainers.task import Task

Settings = TypeVar("Settings", bound=MethodSettings)
Drawing = tuple[bytes, str]


@dataclass(frozen=True, slots=True)
class Method(Generic[Settings]):
    """A training method.

    Attributes
    ----------
    name
        The method's name on the command line and in the files of a run.
    settings
        The class that validates its settings.
    build
        Makes its task on one rank. Raises TrainingError or StoreError if the store cannot feed it.
    draw
        Draws a question of a finished run as a PNG and as an HTML page that needs no other file.
    parts
        Returns what reads one part of the task's data each, and raises TrainingError or StoreError if that part is not
        there. If the task cannot be made, all of them are asked, so that a user learns of every obstacle at once.
    """

    name: str
    settings: type[Settings]
    build: Callable[[Settings, Store, Ranks], Task]
    draw: Callable[[ShownQuestion], Drawing]
    parts: Callable[[Settings, Store], Iterable[Callable[[], object]]] = lambda settings, store: ()


def find_method(name: str) -> Method[Any]:
    """Return the method of a name.

    Raises
    ------
    TrainingError
        If there is none.
    """
    if name not in METHODS:
        raise TrainingError(f"method {name!r}: unknown; {available(METHODS)}{nearest(name, METHODS)}")
    return METHODS[name]


def _build_coqo(settings: CoqoConfig, store: Store, ranks: Ranks) -> Task:
    from trainers.coqo.task import build

    return build(settings, store, ranks)


def _draw_coqo(question: ShownQuestion) -> Drawing:
    from trainers.panels.coqo import draw_question

    return draw_question(question)


def _build_cra(settings: CraConfig, store: Store, ranks: Ranks) -> Task:
    from trainers.cra.task import build

    return build(settings, store, ranks)


def _draw_cra(question: ShownQuestion) -> Drawing:
    from trainers.panels.cra import draw_question

    return draw_question(question)


def _build_frozenbilm(settings: FrozenBilmConfig, store: Store, ranks: Ranks) -> Task:
    from trainers.frozenbilm.task import build

    return build(settings, store, ranks)


def _parts_of_coqo(settings: CoqoConfig, store: Store) -> Iterable[Callable[[], object]]:
    from trainers.parts import parts_of_coqo

    return parts_of_coqo(settings, store)


def _parts_of_cra(settings: CraConfig, store: Store) -> Iterable[Callable[[], object]]:
    from trainers.parts import parts_of_cra

    return parts_of_cra(settings, store)


def _parts_of_frozenbilm(settings: FrozenBilmConfig, store: Store) -> Iterable[Callable[[], object]]:
    from trainers.parts import parts_of_frozenbilm

    return parts_of_frozenbilm(settings, store)


METHODS: Mapping[str, Method[Any]] = {
    "coqo": Method("coqo", CoqoConfig, _build_coqo, _draw_coqo, _parts_of_coqo),
    "cra": Method("cra", CraConfig, _build_cra, _draw_cra, _parts_of_cra),
    "frozenbilm": Method("frozenbilm", FrozenBilmConfig, _build_frozenbilm, _draw_cra, _parts_of_frozenbilm),
}
"""Every method by name."""

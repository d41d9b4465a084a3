"""Holds failures of extractors back until it is clear that the rows are at fault.

A worker has seen that its tower still computes noise (``pipeline.extract.compute``). But an extractor may fail on
whatever is not noise: a value that no half-precision number holds, a mistake in a plug-in. If it fails in the same
words on many videos in a row, and computes no row in between, none of these videos is at fault.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping

from extractors import MachineFaultError
from pipeline.extract.units import UnitFailure

MOST_ALIKE = 8
"""Videos in a row on which an extractor may fail in the same words; as many are computed together."""
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?")


class Doubts:
    """The failures of extractors that are not recorded yet, by feature."""

    def __init__(self) -> None:
        self._held: dict[str, list[UnitFailure]] = {}

    def hold(self, failure: UnitFailure) -> None:
        """Hold one failure back."""
        for feature in failure.features:
            self._held.setdefault(feature, []).append(failure)

    def judge(self, rows: Mapping[str, int]) -> Iterator[UnitFailure]:
        """Yield the failures that belong to their rows, now that some more videos are finished.

        Parameters
        ----------
        rows
            Feature name to the number of rows that these videos have.

        Raises
        ------
        MachineFaultError
            If an extractor fails on everything; the failures that are held stay unrecorded.
        """
        for feature in [name for name in self._held if rows.get(name)]:
            yield from self._released(feature)
        for feature, held in self._held.items():
            alike = Counter(_NUMBER.sub("#", failure.message) for failure in held)
            for failure in reversed(held):
                count = alike[_NUMBER.sub("#", failure.message)]
                if count >= MOST_ALIKE:
                    raise MachineFaultError(
                        f"feature {feature!r} fails in the same way on {count} videos in a row: {failure.message}"
                    )

    def settle(self) -> Iterator[UnitFailure]:
        """Yield what is still held: the run has ended, and so few failures may well be those of their rows."""
        for feature in list(self._held):
            yield from self._released(feature)

    def _released(self, feature: str) -> Iterator[UnitFailure]:
        for failure in self._held.pop(feature):
            yield UnitFailure(
                failure.unit, (feature,), failure.failure_class, failure.message, failure.source, failure.of_model
            )

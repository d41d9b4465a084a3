"""Counts the rows whose media record says that their source was damaged, cut short, or states a wrong rate.

This is damage of a video that was recorded while its row was computed; the row itself is sound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..wording import plural
from .shard import ShardReader

DAMAGED_STEPS = "damaged_steps"
"""Member of a media record: the numbers of the steps that hold damaged pictures or sound, ascending."""
TRUNCATED = "truncated"
"""Member of a media record: what the container claims and the file lacks, in words."""
COUNTED_RATE = "counted_rate"
"""Member of a media record: frames over duration, where the container states a rate that is far from it."""


class MediaDamage(BaseModel):
    """Numbers of rows and steps.

    Attributes
    ----------
    rows, steps
        Rows with damaged steps, and these steps.
    truncated
        Rows of files that are cut short.
    odd_rates
        Rows of files whose stated frame rate is far from frames over duration.
    """

    model_config = ConfigDict(frozen=True)

    rows: int = 0
    steps: int = 0
    truncated: int = 0
    odd_rates: int = 0

    def __add__(self, other: MediaDamage) -> MediaDamage:
        return MediaDamage(
            rows=self.rows + other.rows,
            steps=self.steps + other.steps,
            truncated=self.truncated + other.truncated,
            odd_rates=self.odd_rates + other.odd_rates,
        )

    def __str__(self) -> str:
        marked = f"{plural(self.rows, 'row')} of damaged media ({plural(self.steps, 'marked step')})"
        odd = f", {plural(self.odd_rates, 'row')} of files that state a wrong frame rate" if self.odd_rates else ""
        return f"{marked}, {plural(self.truncated, 'row')} of files cut short{odd}"

    @property
    def any(self) -> bool:
        """Whether anything was counted."""
        return bool(self.rows or self.truncated or self.odd_rates)


def damaged_steps(media: dict[str, Any]) -> list[int]:
    """Return the steps that a media record marks as damaged; empty if it marks none."""
    steps = media.get(DAMAGED_STEPS, ())
    return [step for step in steps if isinstance(step, int)] if isinstance(steps, list | tuple) else []


def media_damage(reader: ShardReader, rows: Iterable[int]) -> MediaDamage:
    """Count among some rows of a shard. Records are only parsed in shards that mention damage at all."""
    records = reader.column("media").tobytes()
    if not any(f'"{name}":'.encode() in records for name in (DAMAGED_STEPS, TRUNCATED, COUNTED_RATE)):
        return MediaDamage()
    total = MediaDamage()
    for row in rows:
        media = reader.media(row)
        steps = len(damaged_steps(media))
        total += MediaDamage(
            rows=int(steps > 0),
            steps=steps,
            truncated=int(bool(media.get(TRUNCATED))),
            odd_rates=int(COUNTED_RATE in media),
        )
    return total

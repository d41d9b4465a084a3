"""Carries rows over to a new spec that differs from theirs in nothing but rules which do not touch them.

A corrected rule of time, sound or damage raises its number in the spec, and with it every spec digest. Most videos are
clean and come out the same: their rows are copied instead of computed. What a row's media record says, together with a
reading of the packets without decoding (``pipeline.media.survey``), must prove it; a doubtful row is computed.

A spec also says what a network computes in, possibly by a rule for kinds of devices. If both specs prescribe, on the
device of a row's shard, the dtype in which the shard's numerics say that it was computed, the row is the same as well.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from extractors.dtypes import same_on
from pipeline.extract.features import Feature
from pipeline.extract.sources import SourceItem
from pipeline.extract.threads import map_in_threads
from pipeline.media import SEEK_FROM_S, DecodeRequest, MediaError, MediaProcess, Survey
from stores.commit import Placed, place_shard
from stores.errors import StoreDamageError
from stores.format import (
    DAMAGED_STEPS,
    TRUNCATED,
    Receipt,
    RoundingError,
    ShardReader,
    ShardWriter,
    StorePath,
    feature_directory,
    pooled_by_kind,
    read_receipt,
    read_spec,
)

CARRIED_FROM = "carried_from"
"""Member of a media record: the spec digest under which a carried row was computed."""
RULES_BEFORE = {"time": 1, "sound": 1, "damage": 1}
"""The rules of specs that name none."""
# What a clean and whole file makes no difference to.
_RULES_AND_POLICIES = ("rules", "truncated", "damage", "audio_tolerance_s")
# Decoders that conceal flag the pictures in which they did, which rule 1 did not look at. These raise errors instead.
_CONCEAL_NOTHING = frozenset({"vp8", "vp9", "av1", "gif", "theora"})


@dataclass(frozen=True, slots=True)
class OlderRow:
    """A stored row under another spec."""

    spec_digest: str
    shard: bytes
    row: int
    cache_key: bytes


@dataclass(frozen=True, slots=True)
class CarriedRow:
    """A row to be copied.

    Attributes
    ----------
    feature, key
        Where it will be found.
    older
        Where it lies.
    cache_key
        Its cache key under the new spec.
    """

    feature: str
    key: str
    older: OlderRow
    cache_key: bytes


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row that may be carried over if the file says so."""

    item: SourceItem
    feature: Feature
    row: CarriedRow


Prover = Callable[[Sequence[Candidate]], Sequence[bool]]
"""Says of each candidate whether its row is proven to be the same under the new spec."""


def differs_in_rules_alone(root: Path, spec_digest: str, feature: Feature) -> bool:
    """Return whether the spec with this digest differs from the feature's in what a prover can judge, and no more.

    That is rules and policies of decoding, and what the network computes in. A spec that is lost or damaged says
    nothing: its rows are not carried over, and nothing else depends on it.
    """
    try:
        return _bare(read_spec(root, spec_digest)) == _bare(feature.spec)
    except StoreDamageError:
        return False


def rows_of(root: Path, feature: str, spec_digest: str, index: pa.Table) -> Iterator[tuple[str, OlderRow]]:
    """Yield (key, row) of the rows that an index names, as far as their shards are there."""
    directory = feature_directory(root, feature, spec_digest)
    present = {shard for shard in index.column("shard").unique().to_pylist() if _shard_file(directory, shard).exists()}
    columns = (index.column(name).to_pylist() for name in ("key", "cache_key", "shard", "row"))
    for key, cache_key, shard, row in zip(*columns, strict=True):
        if shard in present:
            yield key.decode("utf-8"), OlderRow(spec_digest, shard, row, cache_key)


def _shard_path(root: Path, row: CarriedRow) -> StorePath:
    return _shard_file(feature_directory(root, row.feature, row.older.spec_digest), row.older.shard)


def _shard_file(directory: StorePath, shard: bytes) -> StorePath:
    return directory / f"{shard.hex()}.h5"


def _bare(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec without the rules and policies of decoding and without the compute dtype."""
    left_out = {"decode": _RULES_AND_POLICIES, "model": ("compute_dtype",)}
    bare = dict(spec)
    for part, names in left_out.items():
        if isinstance(whole := spec.get(part), dict):
            bare[part] = {name: value for name, value in whole.items() if name not in names}
    return bare


class Surveyor:
    """Proves candidates by their numerics and records and by what a decoding child reads of their packets.

    Parameters
    ----------
    root
        The store.
    media_process
        Makes the supervisor of a decoding child; one is made per thread.
    on_read
        Called with (files read, files to read).
    """

    def __init__(
        self, root: Path, media_process: Callable[[], MediaProcess], on_read: Callable[[int, int], None] | None = None
    ) -> None:
        self._root = root
        self._media_process = media_process
        self._on_read = on_read
        self._local = threading.local()

    def __call__(self, candidates: Sequence[Candidate]) -> list[bool]:
        """Return for each candidate whether its row is proven."""
        records = self._records([candidate.row for candidate in candidates])
        specs = {digest: self._spec(digest) for digest in {candidate.row.older.spec_digest for candidate in candidates}}
        answers = [
            _by_record(candidate, specs[candidate.row.older.spec_digest], *about)
            for candidate, about in zip(candidates, records, strict=True)
        ]
        doubtful: dict[tuple[str, float | None, float | None], list[int]] = {}
        for number, answer in enumerate(answers):
            if answer is None:
                item = candidates[number].item
                doubtful.setdefault((item.uri, item.start_s, item.end_s), []).append(number)
        requests = [DecodeRequest(uri, (), start_s=start, end_s=end, survey=True) for uri, start, end in doubtful]
        found = map_in_threads(self._read, requests, os.cpu_count() or 1, self._on_read)
        facts = dict(zip(doubtful, found, strict=True))
        for place, numbers in doubtful.items():
            for number in numbers:
                answers[number] = _by_facts(candidates[number], records[number][0], facts[place])
        return [bool(answer) for answer in answers]

    def _spec(self, spec_digest: str) -> dict[str, Any]:
        """Return a spec; an empty one if it cannot be read."""
        try:
            return dict(read_spec(self._root, spec_digest))
        except StoreDamageError:
            return {}

    def _records(self, rows: Sequence[CarriedRow]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return media record and numerics of each row; empty ones where its shard cannot be read.

        Shards are opened once.
        """
        records: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {}) for _ in rows]
        by_shard: dict[StorePath, list[int]] = {}
        for number, row in enumerate(rows):
            by_shard.setdefault(_shard_path(self._root, row), []).append(number)
        for path, numbers in by_shard.items():
            with suppress(StoreDamageError):
                reader = ShardReader(path, read_receipt(path.with_suffix(".json")), check_header=False)
                for number in numbers:
                    records[number] = (reader.media(rows[number].older.row), dict(reader.receipt.numerics))
                reader.close()
        return records

    def _read(self, request: DecodeRequest) -> dict[str, Any] | None:
        """Return what the packets of a file say; None for one that cannot be read."""
        if not hasattr(self._local, "media"):
            self._local.media = self._media_process()  # its child ends with this thread
        facts = None
        try:
            for event in self._local.media.decode(request):
                if isinstance(event, Survey):
                    facts = event.facts
        except MediaError:
            return None
        return facts


def _by_record(
    candidate: Candidate, older: Mapping[str, Any], record: Mapping[str, Any], numerics: Mapping[str, Any]
) -> bool | None:
    """Decide by the older spec, the media record and the numerics; None if the packets must be read."""
    item, spec = candidate.item, candidate.feature.spec
    if not record or not older or not same_on(older["model"], spec["model"], numerics):
        return False
    if older["decode"] == spec["decode"]:
        return True
    if item.is_remote or record.get(DAMAGED_STEPS) or record.get(TRUNCATED):
        return False
    rules = spec["decode"]["rules"]
    recorded = record.get("backend")
    before = recorded.get("rules", RULES_BEFORE) if isinstance(recorded, dict) else RULES_BEFORE
    if all(before.get(name) == number for name, number in rules.items()):
        return True  # only a policy differs, and it has nothing to act on
    return None if item.image_rate is None else False


def _by_facts(candidate: Candidate, record: Mapping[str, Any], facts: Mapping[str, Any] | None) -> bool:
    """Decide by what the packets say now and what the record says was seen then."""
    if facts is None or not facts["clean"] or record.get("times_from") != "packets":
        return False
    if any(facts[name] != record.get(name) for name in ("video_stream", "zero_s", "frames")):
        return False
    if candidate.feature.extractor.input == "audio":
        return _same_sound(candidate, record, facts)
    if record.get("decode") != "skip" and facts["codec"] not in _CONCEAL_NOTHING:
        return False
    return bool(facts["same_dump"]) or candidate.feature.policy.spec()["policy"] != "nextgqa32"


def _same_sound(candidate: Candidate, record: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    sound = record.get("audio")
    failed = sound.get("failed_packets", 0) if isinstance(sound, dict) else None
    late = (candidate.item.start_s or 0.0) > SEEK_FROM_S  # under rule 1, sound was decoded from the start of the file
    same_stream = facts["audio_stream"] == record.get("audio_stream")
    return failed == 0 and not late and same_stream and bool(facts["sound_is_continuous"])


def copy_rows(
    root: Path, features: Mapping[str, Feature], rows: Sequence[CarriedRow], shard_mb: float, shard_rows: int
) -> Iterator[tuple[Receipt, list[Placed]]]:
    """Copy rows into shards of their new specs; yield each finished shard with its index records.

    Values, times, masks and numerics stay; the media record gains ``carried_from``.

    Raises
    ------
    StoreDamageError
        If a row is damaged.
    """
    groups: dict[tuple[str, StorePath], list[CarriedRow]] = {}
    for row in rows:
        groups.setdefault((row.feature, _shard_path(root, row)), []).append(row)
    copies: dict[tuple[str, str], _Copy] = {}
    try:
        for (name, path), members in groups.items():
            receipt = read_receipt(path.with_suffix(".json"))
            numerics = json.dumps(receipt.numerics, sort_keys=True)
            if (name, numerics) not in copies:
                copies[name, numerics] = _Copy(ShardWriter(root, name, features[name].spec_digest, receipt.numerics))
            copy = copies[name, numerics]
            copy.take(ShardReader(path, receipt), members)
            if copy.writer.bytes >= shard_mb * 1e6 or len(copy.writer) >= shard_rows:
                yield copies.pop((name, numerics)).finish(root)
        while copies:
            yield copies.pop(next(iter(copies))).finish(root)
    finally:
        for copy in copies.values():
            copy.writer.discard()


@dataclass(slots=True)
class _Copy:
    """A shard that is being filled with rows of other shards."""

    writer: ShardWriter
    aliases: dict[str, list[str]] = field(default_factory=dict)
    rounding: dict[str, list[RoundingError]] = field(default_factory=dict)

    def take(self, reader: ShardReader, members: Sequence[CarriedRow]) -> None:
        """Copy rows of one shard; keys that share a row there share it again."""
        first: dict[tuple[int, bytes], str] = {}
        for member in members:
            number = member.older.row
            if (number, member.cache_key) in first:
                self.aliases.setdefault(first[number, member.cache_key], []).append(member.key)
                continue
            first[number, member.cache_key] = member.key
            if not reader.row_is_sound(number):
                raise StoreDamageError(f"{reader.path}: key {member.key!r} is damaged; run `reelstore repair`")
            row = reader.row(number, member.key, member.cache_key)
            self.writer.add(replace(row, media={**row.media, CARRIED_FROM: member.older.spec_digest}))
        for kind, error in reader.receipt.rounding.items():
            self.rounding.setdefault(kind, []).append(error)
        reader.close()

    def finish(self, root: Path) -> tuple[Receipt, list[Placed]]:
        """Publish the shard."""
        receipt = self.writer.finish(pooled_by_kind(self.rounding))
        return receipt, place_shard(root, receipt, self.aliases)

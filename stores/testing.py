"""A hypothesis state machine for those who build on the reader: a store compared with a dict.

Needs hypothesis (``pip install hypothesis``), which no other module of this package imports.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from .commit import Changes, Failure, commit, create_store, place_shard, write_spec
from .format import layout
from .format.manifest import load
from .format.rows import Array, Receipt, Row, row_digest
from .format.shard import ShardWriter
from .store import Store
from .upkeep.gc import collect
from .upkeep.repairing import repair
from .upkeep.verification import verify

SPEC: Mapping[str, Any] = {"name": "demo", "steps": 3, "step_shape": [4], "dtype": "float16"}
OTHER_SPEC: Mapping[str, Any] = {**SPEC, "revision": 2, "scale": 1e-05, "note": "é"}

_FEATURES = st.sampled_from(["demo", "clip"])
_SPECS = st.sampled_from([SPEC, OTHER_SPEC])
_KEYS = st.sampled_from(["a", "b", "é", "e\u0301", "../x", "🦔"])
_CONTENTS = st.dictionaries(_KEYS, st.integers(0, 2), min_size=1, max_size=4)

Contents = dict[str, dict[str, int]]
"""What a version shows: a number that determines the row, by feature and key."""
_Model = dict[tuple[str, str], dict[str, int]]
"""Rows by (feature, spec digest) and key, whether or not the spec is current."""


class Reader(Protocol):
    """What the machine needs from a reader of one version; ``Store`` has it."""

    @property
    def features(self) -> Collection[str]:
        """Names of the features of the version."""

    def keys(self, name: str) -> Sequence[str]:
        """Return the video keys of a feature, sorted as UTF-8 bytes."""

    def row(self, name: str, key: str) -> Array:
        """Return a row in the stored dtype."""

    def close(self) -> None:
        """Close the reader."""


class _Pinned(NamedTuple):
    """A version that is being read: by the reader under test, and by a store whose lease protects it from ``gc``."""

    reader: Reader
    store: Store
    contents: Contents


def make_row(key: str, content: int = 0) -> Row:
    """Return a row ``[3, 4] float16`` whose values depend on its key and content only."""
    cache_key = hashlib.sha256(f"{key}\0{content}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(cache_key[:8], "little"))
    return Row(
        key=key,
        cache_key=cache_key,
        values=generator.standard_normal((3, 4)).astype(np.float16),
        time_s=np.arange(3) / 3,
        valid=np.array([True, True, False]),
        duration_s=1.0,
    )


class StoreMachine(RuleBasedStateMachine):
    """Compare a store with a dict, through commits, failures, removals, changes of specs, ``gc`` and ``repair``.

    After every step, the latest version must show exactly the rows and failures of the dict. Versions that the machine
    has pinned must stay as they were, whatever happens later. A reader other than ``Store`` is tested by a subclass
    that overrides ``open_reader``.

    Examples
    --------
    >>> class CachingMachine(StoreMachine):
    ...     def open_reader(self, path):
    ...         return CachingStore(path)  # has features, keys, row and close
    >>> CachingMachine.TestCase.settings = hypothesis.settings(max_examples=20, stateful_step_count=25)
    >>> TestCachingStore = CachingMachine.TestCase  # pytest and unittest run it
    """

    def open_reader(self, path: Path) -> Reader:
        """Open the latest version of the store at ``path`` with the reader under test."""
        return Store.open(path, lease=False)

    @initialize()
    def begin(self) -> None:
        """Create an empty store."""
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.root = create_store(self.folder / "store")
        self.specs = {write_spec(self.root, spec): spec for spec in (SPEC, OTHER_SPEC)}
        self.rows: _Model = {}
        self.current: dict[str, str] = {}
        self.failures: dict[tuple[str, str, str], str] = {}
        self.orphans: _Model = {}
        self.pinned: list[_Pinned] = []

    def teardown(self) -> None:
        """Close all readers and remove the store."""
        if hasattr(self, "folder"):
            for pinned in self.pinned:
                pinned.reader.close()
                pinned.store.close()
            shutil.rmtree(self.folder)

    def visible(self) -> Contents:
        """Return what the latest version should show."""
        return {name: dict(self.rows.get((name, digest), {})) for name, digest in self.current.items()}

    def _write_shard(self, feature: str, spec: Mapping[str, Any], contents: Mapping[str, int]) -> Receipt:
        writer = ShardWriter(self.root, feature, write_spec(self.root, spec), {"device": "cpu"})
        for key, content in contents.items():
            writer.add(make_row(key, content))
        return writer.finish()

    @rule(feature=_FEATURES, spec=_SPECS, contents=_CONTENTS, switch=st.booleans())
    def commit_rows(self, feature: str, spec: Mapping[str, Any], contents: dict[str, int], switch: bool) -> None:
        """Commit a shard, with or without making its spec the current one."""
        receipt = self._write_shard(feature, spec, contents)
        if switch or feature not in self.current:
            self.current[feature] = receipt.spec_digest
        placed = place_shard(self.root, receipt)
        commit(self.root, Changes(placed=placed, shards=[receipt], current={feature: self.current[feature]}))
        self.rows.setdefault((feature, receipt.spec_digest), {}).update(contents)
        for key in contents:
            self.failures.pop((feature, receipt.spec_digest, key), None)

    @rule(
        feature=_FEATURES,
        spec=_SPECS,
        keys=st.sets(_KEYS, min_size=1),
        failure_class=st.sampled_from(["crash", "corrupt"]),
    )
    def fail(self, feature: str, spec: Mapping[str, Any], keys: set[str], failure_class: str) -> None:
        """Record failures of some keys."""
        digest = layout.digest(spec)
        permanent = failure_class == "corrupt"
        failures = [Failure(key, feature, digest, failure_class, permanent, "no", "/v", "c", 1) for key in sorted(keys)]
        commit(self.root, Changes(failures=failures))
        self.failures.update({(feature, digest, key): failure_class for key in keys})

    @precondition(lambda self: self.failures)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        """Drop a failure."""
        place = data.draw(st.sampled_from(sorted(self.failures)))
        commit(self.root, Changes(settled=[place]))
        del self.failures[place]

    @rule(feature=_FEATURES, keys=st.sets(_KEYS, min_size=1))
    def remove(self, feature: str, keys: set[str]) -> None:
        """Remove keys from the current spec of a feature."""
        commit(self.root, Changes(removed=[(feature, key) for key in sorted(keys)]))
        contents = self.rows.get((feature, self.current.get(feature, "")), {})
        for key in keys:
            contents.pop(key, None)

    @rule(feature=_FEATURES, spec=_SPECS)
    def switch(self, feature: str, spec: Mapping[str, Any]) -> None:
        """Make another spec the current one."""
        commit(self.root, Changes(current={feature: write_spec(self.root, spec)}))
        self.current[feature] = layout.digest(spec)
        self.rows.setdefault((feature, layout.digest(spec)), {})

    @rule(feature=_FEATURES, spec=_SPECS, keys=st.sets(_KEYS, min_size=1))
    def leave_an_orphan(self, feature: str, spec: Mapping[str, Any], keys: set[str]) -> None:
        """Finish a shard and do not commit it, as a writer that crashes."""
        receipt = self._write_shard(feature, spec, dict.fromkeys(sorted(keys), 0))
        self.orphans.setdefault((feature, receipt.spec_digest), {}).update(dict.fromkeys(keys, 0))

    @rule()
    def repair(self) -> None:
        """Repair the store, which adopts orphans."""
        repair(self.root)
        unclaimed = {place for place in self.orphans if place[0] not in self.current}
        for name, digest in sorted(unclaimed):  # from a run that died before its first commit
            self.current.setdefault(name, digest)
            self.rows[name, digest] = {}
        for place in set(self.orphans) & set(self.rows):
            orphaned = self.orphans.pop(place)
            for key in set(orphaned) - set(self.rows[place]):
                self.failures.pop((*place, key), None)
            self.rows[place] = {**orphaned, **self.rows[place]}
        assert verify(self.root, deep=True).ok

    @rule()
    def collect_with_grace(self) -> None:
        """Collect garbage; nothing is old enough."""
        outcome = collect(self.root)
        assert (outcome.files, outcome.versions) == ([], [])

    # A lease keeps the shards of a collected spec, and a repair would adopt them if the spec returned.
    @precondition(lambda self: not self.pinned or all(self.current[name] == digest for name, digest in self.rows))
    @rule()
    def collect_all(self) -> None:
        """Collect all garbage: specs that are not current, old versions, orphans."""
        collect(self.root, grace_seconds=0)
        self.rows = {place: contents for place, contents in self.rows.items() if self.current[place[0]] == place[1]}
        self.orphans = {}
        for spec in self.specs.values():
            write_spec(self.root, spec)
        assert verify(self.root, deep=True).ok

    @precondition(lambda self: len(self.pinned) < 3)
    @rule()
    def pin(self) -> None:
        """Open the latest version and keep it open."""
        store = Store.open(self.root)  # its lease comes first
        self.pinned.append(_Pinned(self.open_reader(self.root), store, self.visible()))

    @precondition(lambda self: self.pinned)
    @rule()
    def unpin(self) -> None:
        """Check the version that was pinned first, and close it."""
        pinned = self.pinned.pop(0)
        self._check_reader(pinned.reader, pinned.contents)
        self._check_store(pinned.store, pinned.contents)
        pinned.reader.close()
        pinned.store.close()

    @invariant()
    def agrees_with_the_dict(self) -> None:
        """Compare the latest version with the dict."""
        if not hasattr(self, "root"):
            return
        contents = self.visible()
        reader = self.open_reader(self.root)
        self._check_reader(reader, contents)
        reader.close()
        with Store.open(self.root, lease=False) as store:
            self._check_store(store, contents)
            records = store.failures().to_pylist()
        assert {(record["feature"], record["spec"], record["video_id"]): record["class"] for record in records} == {
            place: failure_class
            for place, failure_class in self.failures.items()
            if self.current.get(place[0], place[1]) == place[1]
        }
        for name, feature in load(self.root).features.items():
            for digest, entry in feature.specs.items():
                assert (entry.retired_at is None) == (digest == feature.current)
                assert entry.rows == len(self.rows.get((name, digest), {}))

    def _check_reader(self, reader: Reader, contents: Contents) -> None:
        assert set(reader.features) == set(contents)
        for name, rows in contents.items():
            assert list(reader.keys(name)) == sorted(rows, key=str.encode)
            for key, content in rows.items():
                values = reader.row(name, key)
                assert values.dtype == np.float16 and values.shape == (3, 4)
                assert values.tobytes() == make_row(key, content).values.tobytes()

    def _check_store(self, store: Store, contents: Contents) -> None:
        self._check_reader(store, contents)
        for name, rows in contents.items():
            assert store.features[name].rows == len(rows)
            for key, content in rows.items():
                row = make_row(key, content)
                assert store.digest(name, key) == row_digest(row.values, row.time_s, row.valid, None).hex()

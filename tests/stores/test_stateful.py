"""A store against a dict, through commits, failures, removals, spec switches, gc, repair and reopening."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stores import Store
from stores.commit import Changes, Failure, commit, create_store, place_shard, write_spec
from stores.format import layout
from stores.format.manifest import load
from stores.format.rows import row_digest
from stores.upkeep.gc import collect
from stores.upkeep.repairing import repair
from stores.upkeep.verification import verify
from tests._helpers.building import OTHER_SPEC, SPEC, row, write_shard

FEATURES = st.sampled_from(["demo", "clip"])
SPECS = st.sampled_from([SPEC, OTHER_SPEC])
KEYS = st.sampled_from(["a", "b", "é", "e\u0301", "../x", "🦔"])
CONTENTS = st.dictionaries(KEYS, st.integers(0, 2), min_size=1, max_size=4)

Model = dict[tuple[str, str], dict[str, int]]  # (feature, spec) -> key -> content


def digest(key: str, content: int) -> str:
    made = row(key, content)
    return row_digest(made.values, made.time_s, made.valid, None).hex()


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.root = create_store(self.folder / "store")
        self.specs = {write_spec(self.root, spec): spec for spec in (SPEC, OTHER_SPEC)}
        self.rows: Model = {}
        self.current: dict[str, str] = {}
        self.failures: dict[tuple[str, str, str], str] = {}
        self.orphans: Model = {}
        self.pinned: list[tuple[Store, dict[str, dict[str, int]]]] = []

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for store, _ in self.pinned:
                store.close()
            shutil.rmtree(self.folder)

    def visible(self) -> dict[str, dict[str, int]]:
        return {name: dict(self.rows.get((name, spec), {})) for name, spec in self.current.items()}

    @rule(feature=FEATURES, spec=SPECS, contents=CONTENTS, switch=st.booleans())
    def commit_rows(self, feature: str, spec: dict[str, object], contents: dict[str, int], switch: bool) -> None:
        receipt = write_shard(self.root, [row(*each) for each in contents.items()], feature, spec)
        switch = switch or feature not in self.current
        if switch:
            self.current[feature] = receipt.spec_digest
        changes = Changes(placed=place_shard(self.root, receipt), shards=[receipt])
        commit(self.root, Changes(placed=changes.placed, shards=[receipt], current={feature: self.current[feature]}))
        held = self.rows.setdefault((feature, receipt.spec_digest), {})
        held.update(contents)
        for key in contents:
            self.failures.pop((feature, receipt.spec_digest, key), None)

    @rule(feature=FEATURES, spec=SPECS, keys=st.sets(KEYS, min_size=1), kind=st.sampled_from(["crash", "corrupt"]))
    def fail(self, feature: str, spec: dict[str, object], keys: set[str], kind: str) -> None:
        digest_ = layout.digest(spec)
        failures = [Failure(key, feature, digest_, kind, kind == "corrupt", "no", "/v", "c", 1) for key in sorted(keys)]
        commit(self.root, Changes(failures=failures))
        self.failures.update({(feature, digest_, key): kind for key in keys})

    @precondition(lambda self: self.failures)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.failures)))
        commit(self.root, Changes(settled=[place]))
        del self.failures[place]

    @rule(feature=FEATURES, keys=st.sets(KEYS, min_size=1))
    def remove(self, feature: str, keys: set[str]) -> None:
        commit(self.root, Changes(removed=[(feature, key) for key in sorted(keys)]))
        held = self.rows.get((feature, self.current.get(feature, "")), {})
        for key in keys:
            held.pop(key, None)

    @rule(feature=FEATURES, spec=SPECS)
    def switch(self, feature: str, spec: dict[str, object]) -> None:
        commit(self.root, Changes(current={feature: write_spec(self.root, spec)}))
        self.current[feature] = layout.digest(spec)
        self.rows.setdefault((feature, layout.digest(spec)), {})

    @rule(feature=FEATURES, spec=SPECS, keys=st.sets(KEYS, min_size=1))
    def leave_an_orphan(self, feature: str, spec: dict[str, object], keys: set[str]) -> None:
        receipt = write_shard(self.root, [row(key) for key in sorted(keys)], feature, spec)
        self.orphans.setdefault((feature, receipt.spec_digest), {}).update(dict.fromkeys(keys, 0))

    @rule()
    def repair(self) -> None:
        repair(self.root)
        unclaimed = {place for place in self.orphans if place[0] not in self.current}
        for name, spec in sorted(unclaimed):  # of a run that died before its first commit
            self.current.setdefault(name, spec)
            self.rows[name, spec] = {}
        for place in set(self.orphans) & set(self.rows):
            orphaned = self.orphans.pop(place)
            for key in set(orphaned) - set(self.rows[place]):
                self.failures.pop((*place, key), None)
            self.rows[place] = {**orphaned, **self.rows[place]}
        assert verify(self.root, deep=True).ok

    @rule()
    def collect_with_grace(self) -> None:
        found = collect(self.root)
        assert (found.files, found.versions) == ([], [])

    # A lease keeps the shards of a collected spec, and a repair would adopt them should the spec return.
    @precondition(lambda self: not self.pinned or all(self.current[name] == spec for name, spec in self.rows))
    @rule()
    def collect_all(self) -> None:
        collect(self.root, grace_seconds=0)
        self.rows = {(name, spec): held for (name, spec), held in self.rows.items() if self.current[name] == spec}
        self.orphans = {}
        for spec in self.specs.values():
            write_spec(self.root, spec)
        assert verify(self.root, deep=True).ok

    @precondition(lambda self: len(self.pinned) < 3)
    @rule()
    def pin(self) -> None:
        self.pinned.append((Store.open(self.root), self.visible()))

    @precondition(lambda self: self.pinned)
    @rule()
    def unpin(self) -> None:
        store, held = self.pinned.pop(0)
        self.check(store, held)
        store.close()

    def check(self, store: Store, held: dict[str, dict[str, int]]) -> None:
        assert set(store.features) == set(held)
        for name, contents in held.items():
            assert store.keys(name) == sorted(contents, key=str.encode)
            assert store.features[name].rows == len(contents)
            for key, content in contents.items():
                assert store.digest(name, key) == digest(key, content)
                assert store.row(name, key).tobytes() == row(key, content).values.tobytes()

    @invariant()
    def agrees_with_the_dict(self) -> None:
        if not hasattr(self, "root"):
            return
        with Store.open(self.root, lease=False) as store:
            self.check(store, self.visible())
            told = store.failures().to_pylist()
        assert {(one["feature"], one["spec"], one["video_id"]): one["class"] for one in told} == {
            place: kind for place, kind in self.failures.items() if self.current.get(place[0], place[1]) == place[1]
        }
        for name, feature in load(self.root).features.items():
            for spec, entry in feature.specs.items():
                assert (entry.retired_at is None) == (spec == feature.current)
                assert entry.rows == len(self.rows.get((name, spec), {}))


StoreMachine.TestCase.settings = settings(
    max_examples=12,
    stateful_step_count=25,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a failing run of this length is clear enough unshrunk
)
TestStore = StoreMachine.TestCase

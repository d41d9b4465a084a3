"""A corrected rule computes only the rows that it touches.

``first_release.tar.xz`` holds 13 clips of 2 s and the store that commit aac89c3 made of them by its ``config.yaml``:
ten clean ones in six containers; ``odd_zero`` (no edit list, starts at 0.16 s), ``odd_cut`` (60 % of a Matroska file)
and ``odd_restart`` (the same transport stream twice), which that commit stored without a word.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.extract import Config, load_config
from pipeline.extract.features import ready_features
from stores import Store
from stores.describe import describe_store
from stores.format import read_spec
from stores.upkeep import verify
from tests._helpers.runs import Done, digests, extract, reasons

ARCHIVE = Path(__file__).with_name("first_release.tar.xz")
FEATURES = ("dump", "rgb", "sound")
ODD = {"odd_cut", "odd_restart", "odd_zero"}
CLEAN = {f"clean{number}" for number in range(10)}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    with Store.open(tmp_path / "store") as store:
        before = store.spec("rgb")["decode"]["libraries"]
    now = ready_features(config(tmp_path))["rgb"].spec["decode"]["libraries"]
    if before != now:
        pytest.skip(f"the archived store was made with {before}, here are {now}: every row is another")
    return tmp_path


def config(folder: Path, *overrides: str) -> Config:
    return load_config(file=folder / "config.yaml", overrides=overrides)


def run(folder: Path, *overrides: str, **options: object) -> Done:
    return extract(folder / "videos", folder / "store", config(folder, *overrides), **options)  # type: ignore[arg-type]  # options of a plan


def test_clean_rows_are_carried_over_and_odd_ones_computed(release: Path) -> None:
    before = {feature: digests(release / "store", feature) for feature in FEATURES}
    plan = run(release, plan_only=True)
    for feature in FEATURES:
        assert reasons(plan, feature) == {"carried": 10, "spec_changed": 3}
    assert plan.summary["videos"] == 3 and plan.summary["to_compute"] == 9
    done = run(release)
    assert (done.summary["carried"], done.summary["computed"], done.summary["stored"]) == (30, 6, 36)
    assert {failure["video_id"] for failure in done.summary["failures"]} == {"odd_cut"}
    for feature in FEATURES:
        after = digests(release / "store", feature)
        assert set(after) == CLEAN | ODD - {"odd_cut"}
        assert {key for key in after if after[key] == before[feature][key]} >= CLEAN
        assert all(after[key] != before[feature][key] for key in ODD - {"odd_cut"} if feature != "sound")
    assert verify(release / "store", deep=True).ok
    again = run(release)
    assert again.summary["computed"] == again.summary["carried"] == 0 and again.summary["stored"] == 36


def test_carried_rows_are_those_that_computing_gives(release: Path) -> None:
    """The proof is right: everything computed anew gives the same values, times and masks."""
    run(release)
    fresh = extract(release / "videos", release / "fresh", config(release))
    assert fresh.summary["computed"] == 36
    with Store.open(release / "store") as carried, Store.open(release / "fresh") as computed:
        for feature in FEATURES:
            assert carried.spec_digest(feature) == computed.spec_digest(feature)
            for key in sorted(CLEAN):
                assert carried.digest(feature, key) == computed.digest(feature, key), (feature, key)
                old = carried.media(feature, key)["carried_from"]
                assert "rules" not in read_spec(release / "store", old)["decode"]
            for key in ("odd_zero", "odd_restart"):
                assert "carried_from" not in carried.media(feature, key)
        assert carried.media("rgb", "odd_zero")["zero_s"] == pytest.approx(2 / 12)
        assert carried.media("rgb", "odd_restart")["clock_leaps"] >= 1
        assert carried.clip("rgb", "odd_restart")[1] == pytest.approx(4, abs=0.4)


def test_another_policy_computes_only_what_it_acts_on(release: Path) -> None:
    run(release)
    kept = run(release, "media.truncated=keep")
    # Records of the first release do not say that no picture was damaged: their packets are read once more.
    for feature in FEATURES:
        assert reasons(kept, feature)["carried"] >= 10
    assert kept.exit_code == 0 and not kept.summary["failures"]
    with Store.open(release / "store") as store:
        assert store.media("rgb", "odd_cut")["truncated"] == "9371 of 15619 bytes are there"
        assert describe_store(store)["features"]["rgb"]["media_damage"]["truncated"] == 1
        assert 1.5 < store.clip("rgb", "odd_cut")[1] < 3.5
    back = run(release)
    assert back.summary["computed"] == 0 and back.summary["failures_by_class"] == {"corrupt": 3}


def test_keys_that_share_a_row_share_the_carried_one(release: Path) -> None:
    (release / "videos" / "twin.mp4").write_bytes((release / "videos" / "clean0.mp4").read_bytes())
    done = run(release, only=frozenset({"clean0", "twin"}))
    assert done.summary["stored"] == 6
    rows = digests(release / "store")
    assert rows["twin"] == rows["clean0"]


def test_a_changed_model_carries_nothing(release: Path) -> None:
    plan = run(release, "features.rgb.grid=3", plan_only=True)
    assert reasons(plan, "rgb") == {"spec_changed": 13}
    assert reasons(plan, "dump") == {"carried": 10, "spec_changed": 3}


def test_a_lost_older_spec_costs_the_carrying_and_no_more(release: Path) -> None:
    with Store.open(release / "store") as store:
        spec = store.spec_digest("rgb")
    (release / "store" / "specs" / f"{spec}.json").unlink()
    plan = run(release, plan_only=True)
    assert reasons(plan, "rgb") == {"spec_changed": 13}
    assert reasons(plan, "dump") == {"carried": 10, "spec_changed": 3}


def test_force_computes_everything(release: Path) -> None:
    assert reasons(run(release, force=True, plan_only=True)) == {"forced": 13}


def test_a_sound_row_whose_gaps_only_the_older_rule_saw_is_computed(release: Path) -> None:
    """Fragments claim that the first AAC packet lasts 57 ms longer than it does: less than today's tolerance."""
    from pipeline.media import DecodeRequest, Survey, decode
    from tests._helpers.media import ffmpeg

    path = release / "fragments.mp4"
    source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=2"]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100:duration=2"]
    flags = ["-c:v", "libx264", "-bf", "2", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"]
    ffmpeg(*source, *sound, *flags, str(path))
    (event,) = decode(DecodeRequest(str(path), (), survey=True))
    assert isinstance(event, Survey)
    assert event.facts["clean"] and not event.facts["sound_is_continuous"]
    (whole,) = decode(DecodeRequest(str(release / "videos" / "clean0.mp4"), (), survey=True))
    assert isinstance(whole, Survey) and whole.facts["sound_is_continuous"] and whole.facts["same_dump"]
    assert np.isfinite(whole.facts["zero_s"])

"""Whole runs: what is computed, why, and what is reported about the rest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.extract.sources import SourceError
from pipeline.shared.errors import UsageError
from stores import Store
from stores.upkeep.verification import verify
from tests._helpers.runs import RGB, digests, extract, reasons, rgb_config


def test_a_second_run_computes_nothing_and_commits_nothing(videos: Path, tmp_path: Path) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    first = extract(videos, store, config)
    assert (first.exit_code, first.summary["computed"], reasons(first)) == (0, 4, {"new": 4})
    second = extract(videos, store, config)
    assert (second.exit_code, second.summary["computed"], reasons(second)) == (0, 0, {"stored": 4})
    assert second.summary["version"] == first.summary["version"]
    assert verify(store, deep=True).ok


def test_rows_are_what_the_extractor_says_of_the_frames(videos: Path, tmp_path: Path) -> None:
    """Mean colours of each frame, taken with PyAV and numpy alone."""
    import av

    extract(videos, tmp_path / "store", rgb_config(tmp_path))
    with Store.open(tmp_path / "store") as store, av.open(str(videos / "clip2.mp4")) as container:
        shown = {float(frame.pts * frame.time_base): frame for frame in container.decode(video=0)}
        for time_s, row in zip(store.times("rgb", "clip2"), store.row("rgb", "clip2"), strict=True):
            frame = shown[time_s].to_ndarray(format="rgb24")
            cells = frame.reshape(2, 32, 2, 48, 3).mean((1, 3)) / 255
            np.testing.assert_allclose(row.reshape(2, 2, 3), cells, atol=0.5 / 255 + 5e-4)


def test_touching_a_file_costs_a_hash_and_changing_it_a_row(videos: Path, tmp_path: Path) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    extract(videos, store, config)
    before = digests(store)
    os.utime(videos / "clip0.mp4", ns=(1, 1))
    touched = extract(videos, store, config)
    assert reasons(touched) == {"stored": 4}
    shutil.copy(videos / "clip1.mp4", videos / "clip0.mp4")
    twin = extract(videos, store, config)
    assert (reasons(twin), twin.summary["computed"]) == ({"stored": 3, "duplicate": 1}, 0)
    assert digests(store) == {**before, "clip0": before["clip1"]}


def test_changed_content_is_computed_again(videos: Path, tmp_path: Path, clip_bytes: tuple[bytes, ...]) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    (videos / "clip3.mp4").unlink()
    extract(videos, store, config)
    (videos / "clip0.mp4").write_bytes(clip_bytes[3])
    result = extract(videos, store, config)
    assert (reasons(result), result.summary["computed"]) == ({"stored": 2, "content_changed": 1}, 1)


def test_equal_bytes_under_two_keys_are_computed_once(videos: Path, tmp_path: Path) -> None:
    shutil.copy(videos / "clip0.mp4", videos / "twin.mp4")
    result = extract(videos, tmp_path / "store", rgb_config(tmp_path))
    assert (result.summary["videos"], result.summary["stored"]) == (4, 5)
    assert digests(tmp_path / "store")["twin"] == digests(tmp_path / "store")["clip0"]


def test_a_new_spec_computes_all_and_leaves_old_rows_readable(videos: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = extract(videos, store, rgb_config(tmp_path))
    result = extract(videos, store, rgb_config(tmp_path, "features.rgb.sampling.n=5"))
    assert reasons(result) == {"spec_changed": 4}
    with Store.open(store) as opened:
        assert opened.read("rgb", opened.keys("rgb")).shape == (4, 5, 12)
        old = f"rgb@{first.summary['specs']['rgb'][:12]}"
        assert opened.read(old, opened.keys(old)).shape == (4, 4, 12)


def test_another_feature_of_known_videos_is_counted_as_stored(videos: Path, tmp_path: Path) -> None:
    extract(videos, tmp_path / "s", rgb_config(tmp_path))
    other = rgb_config(tmp_path, text=RGB.replace("rgb: {", "small: {").replace("grid: 2", "grid: 1"))
    summary = extract(videos, tmp_path / "s", other).summary
    assert summary["stored"] == summary["computed"] == summary["wanted"] > 0


def test_missing_shards_are_noticed_and_computed_again(videos: Path, tmp_path: Path) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    extract(videos, store, config)
    before = digests(store)
    for shard in (store / "features").rglob("*.h5"):
        shard.unlink()
    result = extract(videos, store, config)
    assert (reasons(result), result.exit_code) == ({"missing_shard": 4}, 0)
    assert digests(store) == before
    assert verify(store, deep=True).ok


def test_removed_videos_stay_unless_pruned(videos: Path, tmp_path: Path) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    extract(videos, store, config)
    (videos / "clip1.mp4").unlink()
    kept = extract(videos, store, config)
    assert reasons(kept) == {"removed": 1, "stored": 3}
    assert "clip1" in digests(store)
    extract(videos, store, config, prune=True)
    assert "clip1" not in digests(store)


def test_only_limit_and_force(videos: Path, tmp_path: Path) -> None:
    config, store = rgb_config(tmp_path), tmp_path / "store"
    extract(videos, store, config, only=frozenset({"clip2"}))
    assert list(digests(store)) == ["clip2"]
    extract(videos, store, config, limit=2)
    assert list(digests(store)) == ["clip0", "clip1", "clip2"]
    extract(videos, store, config)
    forced = extract(videos, store, config, force=True, only=frozenset({"clip0"}))
    assert (reasons(forced), forced.summary["computed"]) == ({"forced": 1}, 1)
    assert verify(store, deep=True).ok
    with pytest.raises(UsageError, match="no such key"):
        extract(videos, store, config, only=frozenset({"nobody"}))


def test_clips_of_one_video_have_their_own_times(videos: Path, tmp_path: Path) -> None:
    table = tmp_path / "clips.csv"
    table.write_text("video_id,uri,start_s,end_s\nwhole,videos/clip3.mp4,,\nlate,videos/clip3.mp4,1.0,2.0\n")
    extract(table, tmp_path / "store", rgb_config(tmp_path))
    with Store.open(tmp_path / "store") as store:
        assert store.clip("rgb", "late") == (1.0, 1.0)
        assert store.times("rgb", "late").tolist() == pytest.approx([0.12, 0.36, 0.6, 0.84], abs=1e-9)
        whole = store.times("rgb", "whole")
        assert whole[-1] > 1.5


def test_several_features_share_one_decode(videos: Path, tmp_path: Path) -> None:
    text = RGB.replace("media:", "  fine: {extractor: rgb_grid, grid: 4, sampling: {policy: uniform, n: 4}}\nmedia:")
    both = extract(videos, tmp_path / "both", rgb_config(tmp_path, text=text))
    assert both.summary["frames_decoded"] == 16
    assert both.summary["computed"] == 8
    extract(videos, tmp_path / "one", rgb_config(tmp_path))
    assert digests(tmp_path / "both") == digests(tmp_path / "one")


def test_a_plan_alone_writes_nothing(videos: Path, tmp_path: Path) -> None:
    result = extract(videos, tmp_path / "store", rgb_config(tmp_path), plan_only=True)
    assert result.summary["to_compute"] == 4
    assert result.summary["bytes_to_write"] == 4 * 4 * 12 * 2
    assert not (tmp_path / "store").exists()


def test_remote_sources_are_hashed_while_they_are_copied(videos: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in videos.iterdir():
        memory.pipe(f"/remote-run/{path.name}", path.read_bytes())
    config, store = rgb_config(tmp_path, "source.protocols=[memory]"), tmp_path / "store"
    first = extract("memory://remote-run", store, config)
    assert first.exit_code == 0
    extract(videos, tmp_path / "local", config)
    assert digests(store) == digests(tmp_path / "local")
    assert reasons(extract("memory://remote-run", store, config)) == {"stored": 4}
    memory.pipe("/remote-run/clip0.mp4", (videos / "clip0.mp4").read_bytes())
    again = extract("memory://remote-run", store, config)
    assert (again.exit_code, again.summary["computed"], again.summary["frames_decoded"]) == (0, 0, 0)
    assert not list((store / "staging").iterdir())


class TestFailures:
    """Three corrupt videos at 2 a.m. do not cost the others."""

    def test_each_becomes_one_typed_row_and_the_others_are_stored(self, videos: Path, tmp_path: Path) -> None:
        config, store = rgb_config(tmp_path), tmp_path / "store"
        (videos / "text.mp4").write_text("not a video")
        (videos / "empty.mp4").write_bytes(b"")
        (videos / "cut.mp4").write_bytes((videos / "clip0.mp4").read_bytes()[:2000])
        (videos / "gone.mp4").symlink_to(videos / "nowhere.mp4")
        result = extract(videos, store, config)
        assert result.exit_code == 3
        assert set(digests(store)) == {"clip0", "clip1", "clip2", "clip3"}
        with Store.open(store) as opened:
            rows = {row["video_id"]: (row["class"], row["permanent"]) for row in opened.failures().to_pylist()}
            assert rows == {
                "text": ("corrupt", True),
                "empty": ("corrupt", True),
                "cut": ("corrupt", True),
                "gone": ("missing", False),
            }
            with pytest.raises(KeyError, match="failed as corrupt"):
                opened.row("rgb", "text")
        assert extract(videos, store, config, allow_failures=True).exit_code == 0

    def test_permanent_failures_are_skipped_until_content_changes(self, videos: Path, tmp_path: Path) -> None:
        config, store = rgb_config(tmp_path), tmp_path / "store"
        (videos / "bad.mp4").write_text("not a video")
        extract(videos, store, config)
        again = extract(videos, store, config)
        assert (again.exit_code, reasons(again)) == (3, {"failed_permanent": 1, "stored": 4})
        retried = extract(videos, store, config, retry_failed=True)
        assert reasons(retried) == {"retry": 1, "stored": 4}
        assert [failure["attempts"] for failure in retried.summary["failures"]] == [2]
        shutil.copy(videos / "clip0.mp4", videos / "bad.mp4")
        mended = extract(videos, store, config)
        assert (mended.exit_code, mended.summary["stored"]) == (0, 5)
        with Store.open(store) as opened:
            assert opened.failures().num_rows == 0

    def test_transient_failures_are_tried_three_times(self, videos: Path, tmp_path: Path) -> None:
        config, store = rgb_config(tmp_path), tmp_path / "store"
        (videos / "gone.mp4").symlink_to(videos / "nowhere.mp4")
        seen = [reasons(extract(videos, store, config)) for _ in range(5)]
        assert [count.get("new", 0) + count.get("retry", 0) for count in seen] == [5, 1, 1, 0, 0]
        (videos / "gone.mp4").unlink()
        shutil.copy(videos / "clip0.mp4", videos / "gone.mp4")
        assert extract(videos, store, config).exit_code == 0

    def test_a_file_that_keeps_changing_is_not_stored(
        self, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The stamp moves at every look, as if the file were being written."""
        from pipeline.extract import decode_unit as module

        ticks = iter(range(10**6))
        monkeypatch.setattr(module, "source_status", lambda path, _: (path.stat().st_size, f"{next(ticks)}"))
        result = extract(videos, tmp_path / "store", rgb_config(tmp_path), only=frozenset({"clip0"}))
        assert result.summary["failures_by_class"] == {"changed_during_read": 1}
        assert digests(tmp_path / "store") == {}

    def test_values_that_do_not_fit_are_a_failure_not_infinity(self, videos: Path, tmp_path: Path) -> None:
        text = RGB.replace("rgb_grid, grid: 2", "'tests._helpers.loud:Loud'")
        result = extract(videos, tmp_path / "store", rgb_config(tmp_path, text=text))
        assert result.summary["failures_by_class"] == {"model_error": 4}
        assert "use dtype float32" in result.summary["failures"][0]["message"]


def test_hostile_keys_never_become_paths(videos: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    keys = ["../../etc/x", "🎬" * 100, "/abs/olute", "a\tb\nc", ".."]
    table.write_text("".join(json.dumps({"video_id": key, "uri": "videos/clip0.mp4"}) + "\n" for key in keys))
    outside = hashlib.sha256("".join(sorted(map(str, tmp_path.iterdir()))).encode()).hexdigest()
    store = tmp_path / "videos" / "store"
    result = extract(table, store, rgb_config(tmp_path / "videos"))
    assert result.exit_code == 0
    assert sorted(digests(store)) == sorted(keys)
    assert hashlib.sha256("".join(sorted(map(str, tmp_path.iterdir()))).encode()).hexdigest() == outside
    table.write_text(json.dumps({"video_id": "k" * 600, "uri": "videos/clip0.mp4"}))
    with pytest.raises(SourceError, match="600 bytes"):
        extract(table, store, rgb_config(tmp_path))


def test_worker_count_and_grouping_do_not_change_a_row(videos: Path, tmp_path: Path) -> None:
    rows_of_runs = []
    for workers, rows in ((1, 4096), (3, 1)):
        store = tmp_path / f"store{workers}"
        config = rgb_config(tmp_path, f"run.decode_workers={workers}", f"run.shard_rows={rows}")
        extract(videos, store, config)
        rows_of_runs.append(digests(store))
    assert rows_of_runs[0] == rows_of_runs[1]


def test_relative_paths_are_refused_in_a_submitted_job(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for source, store in (("videos", str(tmp_path / "s")), (str(videos), "s")):
        with pytest.raises(UsageError, match="realpath"):
            extract(source, store, rgb_config(tmp_path), executor="local")


def test_a_store_in_an_object_store_is_refused(videos: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lives on a filesystem"):
        extract(videos, "s3://bucket/store", rgb_config(tmp_path))


def test_a_full_disk_is_noticed_before_the_run(videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.extract import preflight

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UsageError, match="free space"):
        extract(videos, tmp_path / "store", rgb_config(tmp_path))

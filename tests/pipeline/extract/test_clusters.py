"""Clusters of unequal nodes: all are used, late ones too; a faulted card or a lost node costs no row, nothing hangs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stores import Store
from stores.upkeep.verification import verify
from tests._helpers.clusters import has_rows, nodes, wait_for
from tests._helpers.runs import digests, extract, rgb_config

pytestmark = [pytest.mark.slow, pytest.mark.ray]

CARD = """
features:
  rgb: {{extractor: 'tests._helpers.cards:Card', grid: 2, {options},
         sampling: {{policy: uniform, n: 4}}, micro_batch: 4}}
media: {{deadline_s: 20}}
run: {{commit_seconds: {commit_seconds}{run}}}
"""


def videos(folder: Path, clips: tuple[bytes, ...], count: int) -> Path:
    many = folder / "many"
    many.mkdir()
    for index in range(count):
        (many / f"v{index:03d}.mp4").write_bytes(clips[index % 4] + index.to_bytes(2, "little"))
    return many


def card(folder: Path, run: str = "", commit_seconds: float = 0.5, **options: Any) -> str:
    file = folder / "card.yaml"
    listed = ", ".join(f"{name}: {value!r}" for name, value in options.items())
    file.write_text(CARD.format(options=listed, run=run, commit_seconds=commit_seconds))
    return str(file)


def check_rows(many: Path, store: Path, folder: Path, count: int) -> None:
    extract(many, folder / "local", rgb_config(folder))
    assert digests(store) == digests(folder / "local")
    assert len(digests(store)) == count
    assert verify(store, deep=True).ok
    with Store.open(store) as opened:
        assert opened.failures().num_rows == 0


def test_nodes_that_join_are_used(clip_bytes: tuple[bytes, ...], tmp_path: Path) -> None:
    """A head without CPUs; the job waits for (2 CPUs + 1 GPU), then 4 CPUs more join while it runs."""
    many, store = videos(tmp_path, clip_bytes, 80), tmp_path / "store"
    config = card(tmp_path, faulty="none", slow_s=0.1)
    with nodes((0, 0)) as cluster:
        job = cluster.start(
            str(many), "--store", str(store), "--config", config, "--allow-code", "--wait-for-gpus", "1"
        )
        wait_for(lambda: "waiting for 0 of 1 GPUs" in job.said)
        cluster.add(2, 1)
        wait_for(lambda: has_rows(store))
        cluster.add(4, 0)
        code, summary, err = job.end()
    assert code == 0, err
    assert "2 CPUs, 1 GPU: 1 decode actor, 1 model actor on cuda, 1 writer" in err
    assert "has joined: 4 CPUs, 0 GPUs" in err
    assert summary["stored"] == 80
    check_rows(many, store, tmp_path, 80)


def test_one_of_two_cards_faults_and_the_other_computes_every_row(
    clip_bytes: tuple[bytes, ...], tmp_path: Path
) -> None:
    """Two equal nodes of 4 CPUs and a GPU; every decode actor has a CPU, and no model actor waits for one.

    The store has as many shards as a local one, whatever the number of actors.
    """
    many, store = videos(tmp_path, clip_bytes, 400), tmp_path / "store"
    config = card(tmp_path, run=", shard_rows: 48", commit_seconds=600.0, after=3, marker=str(tmp_path / "faulted"))
    with nodes((4, 1), (4, 1)) as cluster:
        code, summary, err = cluster.start(str(many), "--store", str(store), "--config", config, "--allow-code").end()
    assert code == 0, err
    assert "6 decode actors, 2 model actors on cuda, 2 writers" in err
    assert "a model actor is out" in err
    assert "illegal memory access" in err
    assert (summary["stored"], summary["failed"]) == (400, 0)
    extract(many, tmp_path / "local", rgb_config(tmp_path, "run.shard_rows=48", "run.commit_seconds=600"))
    check_rows(many, store, tmp_path, 400)
    ours, theirs = ([path.stat().st_size for path in of.rglob("*.h5")] for of in (store, tmp_path / "local"))
    assert len(ours) <= 1.3 * len(theirs)
    assert sum(ours) <= 1.3 * sum(theirs)


def test_a_lost_node_costs_no_row(clip_bytes: tuple[bytes, ...], tmp_path: Path) -> None:
    """It takes frames, rows, decoders, a model and a writer with it."""
    many, store = videos(tmp_path, clip_bytes, 160), tmp_path / "store"
    config = card(tmp_path, faulty="none", slow_s=0.12)
    with nodes((0, 0), (1, 1)) as cluster:
        node = cluster.add(2, 1)
        job = cluster.start(str(many), "--store", str(store), "--config", config, "--allow-code")
        wait_for(lambda: has_rows(store))
        cluster.lose(node)
        assert job.is_running
        code, summary, err = job.end()
    assert code == 0, err
    assert (summary["stored"], summary["failed"]) == (160, 0)
    check_rows(many, store, tmp_path, 160)


def test_a_cluster_without_room_is_told_and_left(clip_bytes: tuple[bytes, ...], tmp_path: Path) -> None:
    """No CPU: at once. CPUs that another job holds: after the patience, with what cannot start and where."""
    import ray

    many, store = videos(tmp_path, clip_bytes, 4), tmp_path / "store"
    with nodes((0, 0)) as cluster:
        config = card(tmp_path, faulty="none")
        code, _, err = cluster.start(str(many), "--store", str(store), "--config", config, "--allow-code").end()
        assert code == 2
        assert "the Ray cluster has 0 CPUs" in err.splitlines()[-1]
        cluster.add(2, 0)
        ray.init(cluster.environment["RAY_ADDRESS"], log_to_driver=False)
        try:

            @ray.remote(num_cpus=2)
            class Holder:
                def there(self) -> bool:
                    return True

            holder = Holder.remote()
            assert ray.get(holder.there.remote())
            config = card(tmp_path, faulty="none", run=", patience_s: 12")
            code, _, err = cluster.start(str(many), "--store", str(store), "--config", config, "--allow-code").end()
        finally:
            ray.shutdown()
        assert code == 2
        assert "no progress for" in err.splitlines()[-1]
        assert "1 decode actor of 1 cannot start yet on" in err.splitlines()[-1]

"""A repository of a hub as a place, with the hub's side of it in memory: what is committed, and on what."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from stores.errors import SharingError
from stores.format.manifest import load
from stores.sharing import pull, push
from stores.sharing.hub import HubPlace
from tests._helpers.building import row_digests

huggingface_hub = pytest.importorskip("huggingface_hub")


class Hub:
    """What ``HubPlace`` asks of ``HfFileSystem`` and ``HfApi``: a branch of one repository."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.head = 0
        self.commits: list[tuple[str, list[str]]] = []
        self.uploaded = 0
        self._api = self

    def resolve_path(self, path: str) -> Any:
        return SimpleNamespace(repo_type="dataset", repo_id="u/n", revision="main", path_in_repo="sub")

    def invalidate_cache(self) -> None:
        pass

    def exists(self, path: str) -> bool:
        return path in self.files

    def find(self, path: str, detail: bool) -> dict[str, dict[str, int]]:
        return {name: {"size": len(data)} for name, data in self.files.items() if name.startswith(f"{path}/")}

    def open(self, path: str, mode: str, block_size: int) -> Any:
        if path not in self.files:
            raise FileNotFoundError(path)
        return io.BytesIO(self.files[path])

    def repo_info(self, repo_id: str, **more: str) -> Any:
        assert (repo_id, more) == ("u/n", {"repo_type": "dataset", "revision": "main"})
        return SimpleNamespace(sha=str(self.head))

    def preupload_lfs_files(self, additions: list[Any], **where: str) -> None:
        for addition in additions:
            large = addition.path_in_repo.endswith(".h5")
            addition._upload_mode = "lfs" if large else "regular"
            if large:
                self.uploaded += 1
                with addition.as_file() as file:
                    addition.sent = file.read()

    def create_commit(
        self, operations: list[Any], commit_message: str, parent_commit: str | None, **where: str
    ) -> None:
        if parent_commit is not None and parent_commit != str(self.head):
            request = httpx.Request("POST", "https://hub")
            response = httpx.Response(412, request=request)
            raise huggingface_hub.errors.HfHubHTTPError("A commit has happened since", response=response)
        for operation in operations:
            data = getattr(operation, "sent", None)
            self.files[f"datasets/u/n/{operation.path_in_repo}"] = operation.path_or_fileobj if data is None else data
        self.head += 1
        self.commits.append((commit_message, [operation.path_in_repo for operation in operations]))


def place(hub: Hub) -> HubPlace:
    return HubPlace(hub, "datasets/u/n/sub", "hf://datasets/u/n/sub")


def test_a_store_is_a_few_commits(made: Path, tmp_path: Path) -> None:
    hub = Hub()
    sent = push(made, load(made), place(hub), card=lambda part: "# card")
    assert hub.uploaded == len(list((made / "features").rglob("*.h5")))
    assert len(hub.commits) == 4  # files with the identity; the succession; the version; the card
    assert len(hub.commits[0][1]) == sent.files + 1
    assert hub.files["datasets/u/n/sub/README.md"] == b"# card"
    assert pull(place(hub), tmp_path / "pulled").files == sent.files
    assert row_digests(tmp_path / "pulled") == row_digests(made)
    assert push(made, load(made), place(hub)).files == 0


def test_large_stores_are_committed_in_batches(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HubPlace, "BATCH", 10)
    hub = Hub()
    sent = push(made, load(made), place(hub))
    assert [len(names) for _, names in hub.commits[: sent.files // 10]] == [10] * (sent.files // 10)


class Busy(Hub):
    """A hub where others commit right after its head was asked for: once somebody edits, or publishes the same name."""

    def __init__(self, others: int, publish: bool = False) -> None:
        super().__init__()
        self.others = others
        self.publish = publish

    def repo_info(self, repo_id: str, **more: str) -> Any:
        found = super().repo_info(repo_id, **more)
        if self.others:
            self.others -= 1
            self.head += 1
            if self.publish:
                self.late = "datasets/u/n/sub/after/x.json"
        return found

    def create_commit(self, operations: list[Any], **more: Any) -> None:
        late, self.late = self.late, ""
        if late:
            self.files[late] = b"theirs"
        super().create_commit(operations, **more)

    late = ""


def test_a_commit_that_is_no_rival_is_passed() -> None:
    hub = Busy(others=2)
    assert place(hub).create("after/x.json", b"1") is True
    assert place(hub).create("after/x.json", b"2") is False
    assert hub.files["datasets/u/n/sub/after/x.json"] == b"1"


def test_a_rival_is_seen_though_the_name_was_free_when_it_was_asked_for() -> None:
    hub = Busy(others=1, publish=True)
    assert place(hub).create("after/x.json", b"1") is False
    assert hub.files["datasets/u/n/sub/after/x.json"] == b"theirs"


def test_a_hub_that_is_never_still_is_said() -> None:
    with pytest.raises(SharingError, match="A commit has happened since"):
        place(Busy(others=99)).create("after/x.json", b"1")


def test_what_was_lost_is_sent_again(made: Path, tmp_path: Path) -> None:
    hub = Hub()
    push(made, load(made), place(hub))
    shard = next(name for name in hub.files if name.endswith(".h5"))
    del hub.files[shard]
    again = push(made, load(made), place(hub))
    assert (again.published, again.files) == (False, 1)
    assert shard in hub.files


def test_what_is_no_repository_is_said() -> None:
    class Buckets(Hub):
        def resolve_path(self, path: str) -> Any:
            return SimpleNamespace(bucket_id="u/n")

    with pytest.raises(SharingError, match="hf://datasets/USER/NAME"):
        place(Buckets())

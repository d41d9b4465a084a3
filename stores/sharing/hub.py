"""A dataset repository of the Hugging Face hub as a place: what is sent becomes one commit, not one for each file."""

from __future__ import annotations

from typing import Any

from ..errors import SharingError
from ..format import StorePath
from .places import RemotePlace

_CONFLICTS = (409, 412)
"""What the hub answers if the branch has moved since the commit that was named as its parent."""
_ATTEMPTS = 5
"""Somebody may edit the card at the same time, which is no rival."""


class HubPlace(RemotePlace):
    """A folder of a repository.

    Files that are sent are uploaded at once, and become visible with the next ``create``, ``put`` or full batch, each
    one commit. A commit of ``create`` names the commit before it, and the hub refuses it if another one came between:
    so of two who publish, one is told.
    """

    BATCH = 200
    """Files of one commit, well below what the hub takes."""

    def __init__(self, filesystem: Any, base: str, address: str) -> None:
        super().__init__(filesystem, base, address, exclusive=True)
        self._waiting: list[Any] = []
        with self._asked(""):
            self._where = filesystem.resolve_path(base)
        if not hasattr(self._where, "repo_id"):
            raise SharingError(f"{self.address}: not a repository; name one as hf://datasets/USER/NAME")
        self._api = filesystem._api

    def send(self, name: str, source: StorePath) -> None:
        from huggingface_hub import CommitOperationAdd

        with self._asked(name), source.by_descriptor() as path:
            operation = CommitOperationAdd(self._in_repository(name), path)
            self._api.preupload_lfs_files(additions=[operation], **self._repository())
            if getattr(operation, "_upload_mode", None) != "lfs":  # a small file travels in the commit itself
                operation = CommitOperationAdd(self._in_repository(name), source.read_bytes())
        self._waiting.append(operation)
        if len(self._waiting) >= self.BATCH:
            self._commit("files of a store", None)

    def put(self, name: str, data: bytes) -> None:
        self._add(name, data)
        self._commit(name, None)

    def create(self, name: str, data: bytes) -> bool:
        from huggingface_hub.errors import HfHubHTTPError

        attempts = _ATTEMPTS
        while True:
            attempts -= 1
            with self._asked(name):
                head = self._api.repo_info(self._where.repo_id, **self._kind()).sha
                if self._files.exists(self._path(name)):
                    return False
            self._add(name, data)
            try:
                self._commit(name, head)
            except SharingError as error:
                del self._waiting[-1]
                cause = error.__cause__
                conflict = isinstance(cause, HfHubHTTPError) and cause.response.status_code in _CONFLICTS
                if not (conflict and attempts):
                    raise
            else:
                return True

    def finish(self) -> None:
        if self._waiting:
            self._commit("files of a store", None)

    def _add(self, name: str, data: bytes) -> None:
        from huggingface_hub import CommitOperationAdd

        self._waiting.append(CommitOperationAdd(self._in_repository(name), data))

    def _commit(self, what: str, head: str | None) -> None:
        """Commit what waits, on the commit ``head`` if one is given."""
        with self._asked(what):
            self._api.create_commit(
                operations=list(self._waiting),
                commit_message=f"Reelstore: {what}",
                parent_commit=head,
                **self._repository(),
            )
        self._waiting.clear()
        self._files.invalidate_cache()

    def _in_repository(self, name: str) -> str:
        folder = self._where.path_in_repo.strip("/")
        return f"{folder}/{name}" if folder else name

    def _kind(self) -> dict[str, Any]:
        return {"repo_type": self._where.repo_type, "revision": self._where.revision}

    def _repository(self) -> dict[str, Any]:
        return {"repo_id": self._where.repo_id, **self._kind()}

"""Publish an old version as a new one."""

from __future__ import annotations

from ..commit import check_identity
from ..errors import StoreDamageError
from ..format.inside import Root
from ..format.manifest import Manifest, load, publish
from .verification import verify


def rollback(root: Root, version: int) -> Manifest:
    """Publish what an old version holds as the newest one, and return it; the versions between them stay.

    Rows and tables are not copied. If the newest version holds the same already, nothing is published.

    Raises
    ------
    StoreNotFoundError
        If there is no such version.
    StoreDamageError
        If files of that version are damaged, or ``gc`` has removed them.
    """
    root = check_identity(root)
    old = load(root, version)
    found = verify(root, version=version)
    if not found.ok:
        first = found.problems[0]
        raise StoreDamageError(f"{root}: version {version} is not whole any more: {first}; choose another version")

    def build(latest: Manifest) -> Manifest | None:
        same = {name: getattr(latest, name) for name in ("version", "nonce", "created_at", "command", "format_version")}
        return None if old.model_copy(update=same) == latest else old

    return publish(root, build)

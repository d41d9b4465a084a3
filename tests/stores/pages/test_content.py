"""The pages about a store: correct numbers, texts of the data set shown as text, links that lead somewhere."""

from __future__ import annotations

import json
import os
import re
import tarfile
import time
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from jobs.store import app
from stores import Store
from stores.commit import Changes, Failure, commit, create_store, write_table
from stores.describe import render_card
from stores.pages import site
from stores.pages.place import MARKER
from tests._helpers.building import NUMERICS, SPEC, commit_rows, files_under, row, store_with
from tests._helpers.dictionaries import fill
from tests._helpers.pages import Page, files_of, pages_of
from tests._helpers.question_worlds import put_questions, put_table, question
from tests._helpers.runs import make_dictionary
from tests.conftest import ROOT

HOSTILE = "\"'><script>alert('&')</script><img src=x onerror=alert(1)>"
GRAPH = {"source": "question", "subject": HOSTILE, "predicate": HOSTILE, "object": None, "negated": True}


def failure(root: Path, key: str) -> Failure:
    with Store.open(root, lease=False) as store:
        spec_digest = store.features["demo"].spec_digest
    return Failure(key, "demo", spec_digest, "corrupt", True, HOSTILE, f"/videos/{key}.mp4", "", 2)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which every text that comes from outside is hostile, with two numerics and a stale table."""
    root = create_store(tmp_path_factory.mktemp("pages") / "a store #1")
    spec = {**SPEC, "units": HOSTILE, "random_weights": True}
    commit_rows(root, [row("a"), row("b"), row(HOSTILE, media={"codec": HOSTILE, "width": 4, "height": 3})], spec=spec)
    commit_rows(root, [row("d")], spec=spec, numerics={**NUMERICS, "device": HOSTILE})
    commit(root, Changes(failures=[failure(root, "bad"), failure(root, HOSTILE)]))
    texts = {"question": HOSTILE, "options": ["no", HOSTILE], "answer": HOSTILE, "type": HOSTILE}
    asked = [question(HOSTILE, 0, **texts), question("a", 1, spans=[[0.75, 1.0]]), question("x", 2)]
    put_questions(root, "n", "val", asked)
    graph = [{"question_id": f"{HOSTILE}_0", "video_id": HOSTILE, "dataset": "n", "split": "val", "triples": [GRAPH]}]
    put_table(root, "graphs", pa.Table.from_pylist(graph), "n/val")
    put_table(root, "annotation_report", pa.table({"kind": ["error"] * 2, "code": [HOSTILE] * 2}), "n/val")
    commit(root, Changes(stale={("questions", "n/val"): (HOSTILE,)}))
    return root


@pytest.fixture(scope="module")
def pages(hostile: Path) -> dict[str, Page]:
    return pages_of(hostile)


def test_the_first_page_warns_and_counts(pages: dict[str, Page]) -> None:
    front = pages["index"]
    for warned in (
        "demo: random weights: these rows are placeholders",
        "demo: its rows were computed under 2 numerics; training refuses them",
        "2 rows failed: 2 corrupt",
        f"questions is stale: {HOSTILE}",
        "2 rows of the annotation files were refused",
        "n/val: not every question has a row of demo; at least 2 of 3 have",
    ):
        assert warned in front.text
    assert front.text.index("random weights") < front.text.index("Coverage") < front.text.index("Features demo")
    assert ["n/val", "3", "2 of 3 (66.67 %)"] in front.rows
    assert ["demo", "4 rows; not planned here"] in front.rows
    assert ["error", HOSTILE, "2"] in front.rows
    assert [f"stale: {HOSTILE}"] == [cells[2] for cells in front.rows if cells[:2] == ["questions", "3"]]
    assert ["CW", "", "2"] in front.rows and [HOSTILE, "", "1"] in front.rows


def test_features_are_told_in_words_with_their_distributions(pages: dict[str, Page]) -> None:
    told = pages["features"]
    assert f"3 × 4 float16: {HOSTILE}" in told.text and "random: the rows are placeholders" in told.text
    assert "Durations and masks of 4 of 4 rows, norms of 4. 33.33 % of these steps are padding." in told.text
    labels = [label for label in told.values("aria-label") if label and label.startswith("Histogram")]
    assert len(labels) == 3 and labels[1].startswith("Histogram of valid steps of 4 values, from 2 to 2 steps")


def test_failures_have_path_class_attempts_and_the_command(pages: dict[str, Page], hostile: Path) -> None:
    failed = pages["failures"]
    assert ["bad", "demo", "corrupt permanent", "2", HOSTILE, "/videos/bad.mp4"] in failed.rows
    assert ["demo", "corrupt", "tries again only with --retry-failed", "2"] in failed.rows
    assert f"python jobs/extract.py SOURCE --store '{hostile}' --config SETTINGS --retry-failed" in failed.text


def test_a_video_shows_its_rows_questions_and_graph(pages: dict[str, Page]) -> None:
    keys = ["a", "b", "bad", "d", "x", HOSTILE]  # sorted by bytes, all on pages of their own
    keys.sort(key=str.encode)
    numbered = {key: pages[f"video-{number:04d}"] for number, key in enumerate(keys, 1)}
    shown = numbered[HOSTILE]
    assert ["demo", "3 × 4 float16", "2 of 3", "0"] in [cells[:4] for cells in shown.rows]
    assert f"Graph of the question: {HOSTILE} → not {HOSTILE}" in shown.values("aria-label")
    assert f"picture4 × 3, {HOSTILE}" in shown.text
    assert f"demo failed as corrupt after 2 attempts: {HOSTILE}" in shown.text
    assert "2 of 3 steps of demo are valid, 0 damaged" in shown.values("aria-label")
    timeline = "Timeline of 1.0 s with 1 spans of 1 questions"  # the span starts a quarter into the clip
    assert [mark for mark in numbered["a"].attributes if mark[1] == "aria-label" and mark[2] == timeline]
    assert ("rect", "x", "25%") in numbered["a"].attributes and ("rect", "width", "25%") in numbered["a"].attributes
    assert "source/videos/bad.mp4" in numbered["bad"].text
    assert "without a row ofdemo" in numbered["x"].text and "None are about this video" in numbered["b"].text
    listing = pages["videos"]
    assert ["x", "–", "0 of 1", "1", "demo", ""] in listing.rows
    assert [HOSTILE, "1.00", "1 of 1", "1", "", "corrupt"] in listing.rows


def test_nothing_hostile_becomes_an_element(pages: dict[str, Page]) -> None:
    for name, shown in pages.items():
        assert shown.elements["script"] == 1, name
        assert not [attribute for _, attribute, _ in shown.attributes if attribute.startswith("on")], name
        assert "x" not in shown.links, name
    assert sum(HOSTILE in shown.text for shown in pages.values()) >= 6


@pytest.mark.parametrize("out", ["out", "a folder #2/the page?.html"])
def test_every_link_leads_to_a_file_or_a_place(hostile: Path, out: str) -> None:
    """On the first page, which may lie beside the folder of the others, and on all of them; nothing leads elsewhere."""
    files = files_of(hostile, out=out)
    beside = out.endswith(".html")
    shown = {name: Page(data) for name, data in files.items() if name.endswith(".html")}
    for name, page in shown.items():
        for link in page.links:
            if link.startswith("data:image/png;base64,"):
                continue
            target, _, anchor = link.partition("#")
            there = unquote(target)
            if beside and name == "index.html":
                there = (
                    there.removeprefix("the page?/") if "/" in there else there.replace("the page?.html", "index.html")
                )
            elif beside:
                there = there.replace("../the page?.html", "index.html")
            assert (there or name) in files, (name, link)
            assert not anchor or anchor in shown[there or name].values("id"), (name, link)


def test_pages_can_be_used_without_eyes_or_mouse(pages: dict[str, Page]) -> None:
    for name, shown in pages.items():
        assert shown.elements["main"] == shown.elements["header"] == shown.elements["h1"] == 1, name
        assert shown.elements["caption"] == shown.elements["table"], name
        described = {"img": "alt", "svg": "aria-label"}
        for element, attribute in described.items():
            assert shown.elements[element] == sum(
                tag == element and of == attribute and bool(value) for tag, of, value in shown.attributes
            ), (name, element)
        assert ("html", "lang", "en") in shown.attributes and shown.values("aria-current") == ["page"], name


def luminance(colour: str) -> float:
    """Return the relative luminance of ``#rgb`` or ``#rrggbb`` (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    channels = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_text_stands_out_in_light_and_in_dark() -> None:
    """By a ratio of 4.5 for text, and of 3 for what is drawn."""
    style = (ROOT / "stores/pages/templates/style.css").read_text()
    light, dark = (
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+)", block)) for block in re.findall(r":root {(.*?)}", style, re.S)
    )
    assert set(light) == set(dark)
    for colours in (light, dark):
        for back in ("page", "card", "soft-note", "soft-bad"):
            for front, least in (("ink", 4.5), ("dim", 4.5), ("link", 4.5), ("good", 4.5), ("bad", 4.5), ("fill", 3)):
                bright, dim = sorted((luminance(colours[back]), luminance(colours[front])), reverse=True)
                assert (bright + 0.05) / (dim + 0.05) >= least, (back, front)


def test_an_empty_store_has_all_pages(tmp_path: Path) -> None:
    shown = pages_of(create_store(tmp_path / "store"))
    assert set(shown) == {
        "index", "features", "videos", "questions", "dictionaries", "runs", "failures", "versions"
    }  # fmt: skip
    assert "Nothing is amiss" in shown["index"].text and "no features yet" in shown["features"].text
    assert shown["failures"].text.startswith("Failures") and "None." in shown["failures"].text


@pytest.mark.parametrize("name", ["format1", "format2", "format3"])
def test_stores_of_every_format_have_pages(tmp_path: Path, name: str) -> None:
    with tarfile.open(ROOT / f"tests/stores/golden/{name}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    shown = pages_of(tmp_path / name)
    assert shown["versions"].text.count("+00:00") >= 4 and "broken" in shown["failures"].text
    assert len(shown) > 8 and "corrupt" in shown["index"].text


def test_what_is_long_is_cut_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "FAILURES", 2)
    monkeypatch.setattr(site.videos, "LISTED", 5)
    monkeypatch.setattr(site.questions, "SHOWN", 4)
    root = store_with(tmp_path / "store", *(f"v{number}" for number in range(7)))
    commit(root, Changes(failures=[failure(root, f"bad{number}") for number in range(3)]))
    put_questions(root, "n", "train", [question("v0", number) for number in range(7)])
    put_questions(root, "n", "val", [question("v6", number) for number in range(3)])
    shown = pages_of(root, videos=2)
    assert "The first 2 of 3" in shown["failures"].text
    assert [cells[0] for cells in shown["failures"].rows if cells[2:3] == ["corrupt permanent"]] == ["bad0", "bad1"]
    assert "5 of 10 videos, evenly spaced" in shown["videos"].text and "2 of them have a page" in shown["videos"].text
    assert [cells[0] for cells in shown["videos"].rows[1:]] == ["bad0", "bad2", "v1", "v3", "v6"]
    assert "4 of 10 questions, evenly spaced" in shown["questions"].text
    assert [cells[6] for cells in shown["questions"].rows[1:]] == ["v0_0", "v0_3", "v0_6", "v6_2"]
    assert len([name for name in shown if name.startswith("video-")]) == 2
    chosen = pages_of(root, only=("v2",))
    assert "v2" in chosen["video-0001"].text and "video-0002" not in chosen
    assert "v2" in [cells[0] for cells in chosen["videos"].rows]


def test_an_older_version_shows_what_it_held(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    commit_rows(root, [row("b")])
    shown = pages_of(root, version=1)
    assert ["demo", "1 rows; not planned here"] in shown["index"].rows
    assert "demo: +1 row" in shown["versions"].text and "2 latest versions up to this one" in shown["versions"].text


def test_clusters_with_the_questions_and_frames_nearest_to_them(tmp_path: Path) -> None:
    root = fill(tmp_path / "store")
    for kind, more in (("linguistic", {}), ("visual", {"feature": "clip"})):
        assert make_dictionary(root, kind, **more).exit_code == 0
    shown = pages_of(root)["dictionaries"]
    assert "linguistic nextgqa/train" in shown.text and "visual nextgqa/train/clip" in shown.text
    largest = next(cells for cells in shown.rows if cells[2:] and "why does" in cells[2])
    assert "→ to play with" in largest[2]
    assert any(" s 0." in cells[2] for cells in shown.rows if len(cells) == 3)


def store_job(*arguments: object) -> Result:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_command_writes_one_page_and_its_folder_and_replaces_them(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a", "b")
    before = files_under(root)
    done = store_job("report", root)
    assert (done.exit_code, done.stdout.strip()) == (0, str(root / "report.html"))
    first = {path: (root / path).read_bytes() for path in files_under(root) - before}
    assert {"report.html", "report/video-0002.html", "report/style.css"} <= set(first)
    assert all(path == "report.html" or path.startswith("report/") for path in first)
    assert store_job("report", root).exit_code == 0
    assert {path: (root / path).read_bytes() for path in files_under(root) - before} == first
    assert store_job("report", root, "--videos", 1).exit_code == 0
    assert "report/video-0002.html" not in files_under(root) and "report/video-0001.html" in files_under(root)
    for name, age in ((".report.0000aaaa", 2), (".report.0000bbbb", 0)):  # of runs that were killed
        (root / name).mkdir()
        (root / name / MARKER).touch()
        os.utime(root / name / MARKER, (time.time() - age * 86_400,) * 2)
    assert store_job("report", root).exit_code == 0
    assert [path.name for path in root.glob(".report*")] == [".report.0000bbbb"]
    folder = tmp_path / "site"
    assert store_job("report", root, "--out", folder).stdout.strip() == str(folder / "index.html")
    assert store_job("verify", root, "--deep").exit_code == 0 and store_job("gc", root).exit_code == 0


def test_the_command_destroys_nothing_and_says_what_is_wrong(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    (tmp_path / "file").write_text("")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / MARKER).touch()
    (tmp_path / "link").symlink_to(tmp_path / "pages")
    before = files_under(tmp_path)
    for out, message in (
        (tmp_path / "link", "not a folder"),
        (mine, "holds something else than pages of a store"),
        (mine / "..", "holds something else than pages of a store"),
        (tmp_path / "mine.html", "holds something else than pages of a store"),
        (tmp_path / "file", "not a folder"),
        (tmp_path / "no" / "where.html", "No such file or directory"),
    ):
        refused = store_job("report", root, "--out", out)
        assert refused.exit_code == 2 and message in refused.stderr and refused.stderr.count("\n") == 1, out
    unknown = store_job("report", root, "--only", "zz")
    assert unknown.exit_code == 2 and "'zz'" in unknown.stderr
    assert store_job("report", root, "--only", "a", "--videos", 3).exit_code == 2
    assert files_under(tmp_path) == before


def test_a_plan_that_was_not_finished_is_warned_of(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a", "b")
    with Store.open(root, lease=False) as store:
        spec = store.spec_digest("demo")
        assert "2 rows of the last plan" not in render_card(store)
    plan = {"time": 1.0, "event": "plan", "version": 1, "source": "/videos"}
    plan["features"] = {"demo": {"spec": spec, "wanted": 6, "lacking": 4, "rows": 2}}
    (root / "events" / "20260101T000000-0.jsonl").write_text(json.dumps(plan) + "\n")
    front = pages_of(root)["index"]
    assert "demo: 2 of 6 wanted rows are stored (33.33 %)" in front.text
    assert ["demo", "2 of 6 (33.33 %)"] in front.rows and "100 %" not in front.text


def test_parts_of_the_questions_without_a_column_are_shown(tmp_path: Path) -> None:
    root = store_with(tmp_path / "store", "a")
    old = pa.table({"question_id": ["q1", "q2"], "video_id": ["a", None], "dataset": ["n"] * 2, "split": ["val"] * 2})
    commit(root, Changes(tables={"questions": {"": write_table(root, "questions", {"kind": "q"}, old)}}))
    shown = pages_of(root)
    assert [cells[6] for cells in shown["questions"].rows[1:]] == ["q1", "q2"]
    assert "n/val · untyped · q1" in shown["video-0001"].text and "video-0002" not in shown

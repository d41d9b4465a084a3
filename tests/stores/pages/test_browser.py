"""The pages in a real browser, at the widths of a desk and of a phone: everything is where it should be."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from stores import Store
from stores.pages import Options, write_pages
from tests._helpers.dictionaries import fill
from tests._helpers.pages import Page
from tests._helpers.question_worlds import put_questions, question
from tests._helpers.runs import make_dictionary

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="needs chromium (apt-get install chromium)"),
]
WIDTHS = (1280, 390)
LONG = "a-key-without-any-place-to-break-it-" * 8

# Loads each page in frames as wide as the screens, works it as a person would, and writes what it sees into itself.
HARNESS = """<!doctype html><meta charset="utf-8"><body><script>
const pages = PAGES, widths = WIDTHS, found = {};
const box = (element) => { const b = element.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
function look(view) {
  const all = (selector) => [...view.document.querySelectorAll(selector)];
  const root = view.document.documentElement;
  const seen = {
    scroll: root.scrollWidth, title: view.document.title,
    boxes: Object.fromEntries(["h1", "header nav", "main"].map((s) => [s, box(all(s)[0])])),
    wide: all("main *").filter((e) => !e.closest(".scroll, svg, pre, .hidden"))
      .filter((e) => e.getBoundingClientRect().right > root.clientWidth + 1).map((e) => e.outerHTML.slice(0, 120)),
    charts: all("svg.chart").map((e) => box(e)), bars: all("svg.chart rect").map((e) => box(e)),
    pictures: all("img").map((e) => [e.naturalWidth, ...box(e)]),
    unnamed: all("a, button, input").filter((e) => !e.textContent.trim() && !e.labels?.length)
      .filter((e) => !e.querySelector("img[alt]")).length,
  };
  const input = all("[data-search]")[0];
  if (input) {
    const table = all("table[data-sort]")[0], rows = () => [...table.tBodies[0].rows];
    const order = () => rows().map((r) => r.cells[0].textContent.trim());
    const press = () => { table.tHead.querySelector("button").click(); return order(); };
    seen.sorted = [order(), press(), press()];
    seen.sort = table.tHead.querySelector("[aria-sort]").getAttribute("aria-sort");
    input.value = order()[0]; input.dispatchEvent(new view.Event("input"));
    seen.shown = rows().filter((r) => r.getBoundingClientRect().height > 0).length;
    seen.told = all("[data-found]")[0].textContent;
  }
  const heat = all("[data-cosines]")[0];
  if (heat) {
    heat.scrollIntoView();
    const b = heat.getBoundingClientRect();
    heat.dispatchEvent(new view.PointerEvent("pointermove", { clientX: b.left + 2, clientY: b.top + 2 }));
    seen.cosine = all("[data-told]")[0].textContent;
  }
  return seen;
}
(async () => {
  for (const page of pages) for (const width of widths) {
    const frame = document.createElement("iframe");
    frame.style = `width:${width}px;height:900px;border:0`;
    frame.src = page;
    document.body.append(frame);
    await new Promise((done) => { frame.onload = done; });
    frame.contentDocument.querySelectorAll("img").forEach((e) => { e.loading = "eager"; });
    await Promise.all([...frame.contentDocument.images].map((e) => e.decode().catch(() => 0)));
    found[`${page} ${width}`] = look(frame.contentWindow);
    frame.remove();
  }
  document.body.innerHTML = "";
  document.body.append(Object.assign(document.createElement("pre"), { textContent: JSON.stringify(found) }));
})();
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages about a store with long texts, dictionaries and graphs."""
    root = fill(tmp_path_factory.mktemp("browser") / "store")
    texts = {"question": f"why {LONG}?", "options": [LONG, "b"], "answer": LONG, "type": "a type"}
    put_questions(root, "long", "val", [question(LONG, 0, **texts), question("train00", 1, spans=[[0.6, 0.9]])])
    for kind, more in (("linguistic", {}), ("visual", {"feature": "clip"})):
        assert make_dictionary(root, kind, **more).exit_code == 0
    with Store.open(root, lease=False) as store:
        return write_pages(store, root.parent / "site", Options(videos=30)).parent


@pytest.fixture(scope="module")
def seen(site: Path) -> dict[str, dict[str, Any]]:
    names = ["index", "features", "videos", "questions", "dictionaries", "runs", "failures", "versions", "video-0001"]
    names.append(next(path.stem for path in site.glob("video-*.html") if "train00" in Page(path.read_bytes()).text))
    pages = json.dumps([f"{name}.html" for name in names])
    harness = site / "harness.html"
    harness.write_text(HARNESS.replace("PAGES", pages).replace("WIDTHS", json.dumps(WIDTHS)))
    done = subprocess.run(
        [
            BROWSER or "", "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu",
            "--allow-file-access-from-files",
            "--window-size=1300,1000", "--virtual-time-budget=60000", "--dump-dom", harness.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    harness.unlink()
    told = re.search(r"<pre>(.*)</pre>", done.stdout, re.S)
    assert told, done.stdout[-2000:] + done.stderr[-2000:]
    found: dict[str, dict[str, Any]] = json.loads(html.unescape(told.group(1)))
    assert len(found) == len(names) * len(WIDTHS)
    return found


def test_no_page_scrolls_sideways_and_nothing_sticks_out(seen: dict[str, dict[str, Any]]) -> None:
    for name, page in seen.items():
        width = int(name.split()[1])
        assert page["scroll"] <= width, name
        assert page["wide"] == [], name
        assert page["unnamed"] == 0, name


def test_head_and_content_are_where_they_should_be(seen: dict[str, dict[str, Any]]) -> None:
    for name, page in seen.items():
        width = int(name.split()[1])
        head, content, heading = (page["boxes"][each] for each in ("header nav", "main", "h1"))
        assert 0 <= head[1] < head[3] <= content[1] < heading[1] < 400, name
        assert content[2] - content[0] == min(width, 72 * 16), name
        assert abs((content[0] + content[2]) / 2 - width / 2) < 1, name


def test_bars_lie_between_their_axes(seen: dict[str, dict[str, Any]]) -> None:
    charts = [chart for page in seen.values() for chart in page["charts"]]
    assert len(charts) >= 12 and all(right - left > 200 for left, _, right, _ in charts)
    for name, page in seen.items():
        for bar in page["bars"]:
            inside = [
                chart
                for chart in page["charts"]
                if chart[0] - 1 <= bar[0] <= bar[2] <= chart[2] + 1 and chart[1] - 1 <= bar[1] <= bar[3] <= chart[3] + 1
            ]
            assert len(inside) == 1, (name, bar)


def test_tables_are_sorted_and_searched(seen: dict[str, dict[str, Any]]) -> None:
    for width in WIDTHS:
        page = seen[f"videos.html {width}"]
        given, up, down = page["sorted"]
        assert up == given and down == given[::-1] and page["sort"] == "descending"
        assert page["shown"] == 1 and page["told"] == f"1 of {len(given)}"


def test_a_cosine_is_told_under_the_pointer(seen: dict[str, dict[str, Any]]) -> None:
    told = [page["cosine"] for page in seen.values() if "cosine" in page]
    assert told and set(told) == {"steps 0 and 0: 1.00"}

"""Links between documents hold on the site as they do on GitHub."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.manual import Repository
from docs.manual.markdown import cell, code, prose, table


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    for name, text in {
        "README.md": "[format](docs/format.md#a) ![picture](bench/a.png)\n",
        "docs/format.md": "# F\n[n](../NOTES.md#x) [facts](facts/a.md) [code](../examples/a.py) [all](../examples)\n",
        "docs/facts/a.md": "[r][r] `[no](../../no.md)`\n\n```text\n[no](../../no.md)\n```\n\n[r]: ../../README.md\n",
        "NOTES.md": "# N\n[licence](LICENSE) [elsewhere](https://a.b/c) [here](#n)\n",
        "LICENSE": "",
        "bench/a.png": "",
        "bench/b.png": "",
        "examples/a.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Repository(tmp_path)


def test_files_that_pages_lead_to_come_into_the_site(repository: Repository) -> None:
    assert repository.pages() == ["docs/facts/a.md", "docs/format.md"]
    assert repository.outside() == ["LICENSE", "NOTES.md", "README.md", "bench/a.png", "examples/a.py"]


@pytest.mark.parametrize(
    ("page", "text", "expected"),
    [
        ("docs/format.md", "[n](../NOTES.md#x)", "[n](repository/NOTES.md#x)"),
        ("docs/format.md", "[f](facts/a.md) [g](#a)", "[f](facts/a.md) [g](#a)"),
        ("docs/format.md", "see [all](../examples) of them", "see all of them"),
        ("docs/facts/a.md", "![p](../../bench/a.png)", "![p](../repository/bench/a.png)"),
        ("docs/facts/a.md", "[r]: ../../README.md", "[r]: ../repository/README.md"),
        ("README.md", "[f](docs/format.md#a)", "[f](../format.md#a)"),
        ("bench/RESULTS.md", "[f](../docs/format.md) [p](a.png)", "[f](../../format.md) [p](a.png)"),
        ("docs/format.md", "`[n](../NOTES.md)`", "`[n](../NOTES.md)`"),
        (
            "docs/format.md",
            "```sh\n[n](../NOTES.md)\n<!-- kept -->\n```\n",
            "```sh\n[n](../NOTES.md)\n<!-- kept -->\n```\n",
        ),
        ("docs/format.md", "a\n<!-- not run: b -->\n```sh\nc\n```\n", "a\n```sh\nc\n```\n"),
        ("docs/format.md", "times[0][1] and [x] [y]", "times[0]\\[1\\] and [x] \\[y\\]"),
        ("docs/format.md", "[x][y]\n\n[y]: #z", "[x][y]\n\n[y]: #z"),
        ("docs/format.md", "| `a\\|b` | c \\| d |", "| `a|b` | c \\| d |"),
        (
            "docs/format.md",
            "[![p](../bench/a.png)](../NOTES.md)",
            "[![p](repository/bench/a.png)](repository/NOTES.md)",
        ),
    ],
)
def test_links_are_those_of_the_site(repository: Repository, page: str, text: str, expected: str) -> None:
    assert repository.for_site(page, text) == expected


def test_docstrings_become_markdown() -> None:
    assert prose("Set ``a_b`` to *x* or <y>, see :class:`~m.C`.") == "Set `a_b` to \\*x\\* or \\<y>, see `m.C`."
    assert code("a`b") == "``a`b``"
    assert cell("a | `b|c`\n\nd") == "a \\| `b|c` d"
    assert table(("x", "y"), [("1", "2")]) == "| x | y |\n| --- | --- |\n| 1 | 2 |\n"

"""The page, in a browser; and the Markdown."""

from html.parser import HTMLParser

import browser
import pytest
from msgspec.structs import replace

from edgedet.artifact import Ancestor
from edgedet.report import render

CELLS = """[...document.querySelector("table").tBodies[0].rows].map((row) => row.cells[0].textContent)"""


@pytest.fixture(scope="module")
def text(report):
    return render.html(report)


def column(heading: str) -> str:
    return f"""[...document.querySelectorAll("th button")].find((b) => b.textContent === "{heading}")"""


class Outside(HTMLParser):
    """Addresses that a browser fetches by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action") and value]


def test_the_page_fetches_nothing_and_shows_what_it_is_given_as_text(text):
    assert [each for each in Outside(text).found if each != "data:,"] == []
    assert "A &lt;CPU&gt; &amp; more" in text
    assert "A <CPU>" not in text
    assert "https://example.org/figures" in text  # as words: who published what
    for heading in ("Benchmark cpu.jsonl", "ROC", "Robustness, split val", "Reliability", "Latency, model only", "Lineage",
                    "Audit of the data", "Environment"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text
    assert "Not in this report" not in text


@pytest.mark.skipif(browser.installed() is None, reason="no Chromium is installed: apt-get install chromium")
def test_in_a_browser_it_sorts_follows_dark_and_light_and_prints(text, tmp_path):
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    with browser.page(tmp_path / "profile") as page:
        page.show_as(scheme="light")
        page.open(tmp_path / "report.html")
        assert page.ask(CELLS) == ["teacher", "child", "resnet50"]
        page.ask(f"{column('p50 ms')}.click()")
        assert page.ask(CELLS) == ["child", "teacher", "resnet50"]  # what has no figure is last
        page.ask(f"{column('p50 ms')}.click()")
        assert page.ask(CELLS) == ["teacher", "child", "resnet50"]
        assert page.ask("""document.querySelector("th[aria-sort]").ariaSort""") == "descending"
        page.ask(f"{column('model')}.click()")
        assert page.ask(CELLS) == ["child", "resnet50", "teacher"]

        background = "getComputedStyle(document.body).backgroundColor"
        line = """getComputedStyle(document.querySelector("svg text")).fill"""
        light = page.ask(background), page.ask(line)
        page.show_as(scheme="dark")
        dark = page.ask(background), page.ask(line)
        assert light[0] == "rgb(255, 255, 255)"
        assert light[0] != dark[0]
        assert light[1] != dark[1]
        page.ask("""document.getElementById("theme").click()""")
        assert page.ask(background) == light[0]
        page.ask("""document.getElementById("theme").click()""")
        page.show_as(scheme="dark", media="print")
        assert page.ask(background) == light[0]
        assert page.ask("""getComputedStyle(document.getElementById("theme")).display""") == "none"
        assert page.pdf().startswith(b"%PDF")

        assert page.ask("document.documentElement.scrollWidth <= innerWidth")
        assert page.requests == [(tmp_path / "report.html").as_uri()]
        assert page.complaints == []


def test_markdown_has_the_same_tables(report):
    text = render.markdown(report)
    assert text.startswith("# results\n")
    rows = [line.split(" | ")[0].strip("| ") for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["model", "---", "teacher", "child", "resnet50", "artifact", "---", "teacher", "child"]
    assert "- export teacher → child" in text
    assert "- audited: biased: file size alone has AUC 0.93" in text
    assert "## Not in this report" not in text
    assert "## Not in this report\n\n- no audit" in render.markdown(replace(report, missing=("no audit: ...",)))


def test_lineages_are_one_tree_with_those_that_are_elsewhere(report):
    teacher, child = report.subjects
    gone = Ancestor(digest="9" * 64, stage="prune", kind="checkpoint", name="pruned")
    grandchild = replace(child, name="grandchild", digest="7" * 64, lineage=(*child.lineage, gone))
    assert [(depth, line.split(",")[0], name) for depth, line, name in render.families([teacher, child, grandchild])] == [
        (0, "export: teacher", "teacher"),
        (1, "export: child", "child"),
        (1, "prune: pruned", ""),
        (2, "export: grandchild", "grandchild"),
    ]

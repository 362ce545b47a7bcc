"""Plots are read as what they are: SVG text with the figures in it."""

import re
from xml.etree import ElementTree

import pytest

from edgedet.report import plots, svg
from edgedet.report.plots import _front, _thinned

DRAWN = ("pareto", "heatmap", "roc", "reliability", "latencies", "robustness")


@pytest.fixture(scope="module")
def drawn(report):
    given = {
        "pareto": report.runs[0].rows,
        "heatmap": report.sweeps,
        "roc": report.subjects,
        "reliability": report.subjects,
        "latencies": report.latencies,
        "robustness": report.sweeps,
    }
    return {name: getattr(plots, name)(given[name], name) for name in DRAWN}


def test_every_plot_is_one_svg_in_the_colours_of_the_page(drawn):
    for name, text in drawn.items():
        ElementTree.fromstring(text)
        assert "var(--ink)" in text
        assert not [colour for colour in (svg.INK, svg.FAINT, svg.PAPER, *svg.SERIES) if colour in text]
        ids = re.findall(r'\bid="([^"]+)"', text)
        assert all(each.startswith(f"{name}-") for each in ids)
        assert set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text)) <= set(ids)
        assert not re.findall(r"<(?:image|script|metadata)|data:", text)


def test_what_they_show_is_in_their_text(drawn):
    for name in DRAWN[2:5]:
        assert "child" in drawn[name]
        assert "teacher" in drawn[name]
    assert "diffusion" in drawn["heatmap"]
    assert "JPEG quality" in drawn["robustness"]
    assert "resize-0.5-bilinear" in drawn["robustness"]  # one level is no curve


def test_nothing_to_draw_is_no_plot():
    for name in DRAWN:
        assert getattr(plots, name)([], name) is None


def test_the_front_holds_those_that_no_other_beats():
    assert _front([(4, 97), (1, 90), (2, 89), (3, 95), (3, 96), (9, 97)]) == [(1, 90), (3, 96), (4, 97)]


def test_a_long_curve_keeps_its_ends_and_its_order():
    line = [(10 ** (-4 + 4 * step / 5000), step / 5000) for step in range(5001)]
    short = _thinned(line)
    assert (short[0], short[-1]) == (line[0], line[-1])
    assert 200 < len(short) <= 302
    assert short == sorted(short)

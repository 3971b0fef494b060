"""Histograms: bars as high as their counts, lines where limits are."""

import re

import pytest

from dinoforge.pages.histograms import Histogram, histogram


def bars(drawn, kind):
    pattern = rf'<rect class="{kind}" x="(.*?)" y="(.*?)" width=".*?" height="(.*?)"'
    rectangles = re.findall(pattern, drawn)
    return [tuple(map(float, numbers)) for numbers in rectangles]


def test_bars_are_as_high_as_their_counts_and_marked_parts_lie_below():
    drawn = histogram(Histogram(title="t", low=0, high=4, counts=[1, 4, 0, 2], marked=[0, 2, 0, 2]))
    (first, _, low), (second, _, rest) = bars(drawn, "left")
    (_, _, part), (last, _, high) = bars(drawn, "gone")
    assert rest == part == high == pytest.approx(2 * low)
    assert second - first == pytest.approx((last - first) / 3)


def test_a_single_image_is_seen_beside_a_million():
    drawn = histogram(Histogram(title="t", low=0, high=1, counts=[1_000_000, 1]))
    assert min(height for _, _, height in bars(drawn, "left")) >= 1


def test_limits_inside_the_range_are_lines_with_labels():
    limits = [("keep < 3", 3.0), ("beyond", 9.0)]
    drawn = histogram(Histogram(title="<t>", low=0, high=4, counts=[1, 1], limits=limits))
    assert "keep &lt; 3" in drawn
    assert drawn.count('class="rule"') == 1
    assert "&lt;t&gt;: 2 images, from 0 to 4; keep &lt; 3; beyond" in drawn


def test_labels_of_powers_are_what_they_stand_for():
    drawn = histogram(Histogram(title="t", low=0, high=4, counts=[1], is_log=True))
    assert re.findall(r"<text[^>]*>(.*?)</text>", drawn) == ["1", "2", "4", "8", "16"]

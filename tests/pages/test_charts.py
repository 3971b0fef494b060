"""Charts as inline SVG: whatever the values are, what is drawn is on the paper and well-formed."""

import json
import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dinoforge.pages.charts import (
    IntervalPlot,
    IntervalRow,
    LineChart,
    Scale,
    Series,
    element,
    interval_plot,
    line_chart,
    round_ticks,
    share_bar,
)

NAN, INF = math.nan, math.inf

NUMBERS = st.floats(-1e30, 1e30) | st.sampled_from([NAN, INF, -INF, 0.0, 1e-30])


def chart(*ys, **more):
    series = [Series(f"s{n}", list(range(len(y))), y) for n, y in enumerate(ys)]
    return line_chart(LineChart(title="loss", series=series, **more))


def parsed(markup):
    return ET.fromstring(str(markup))


def drawn(markup, name):
    """Elements of the drawing itself, without the swatches of the legend."""
    (svg,) = (e for e in parsed(markup).iter("svg") if e.get("class") != "swatch")
    return [e for e in svg.iter(name) if e.get("class", "").startswith(("line c", "dot c"))]


def coordinates(path):
    return [tuple(map(float, point.split())) for point in re.split("[ML]", path.get("d"))[1:]]


def test_a_line_goes_through_its_values_and_rises_where_they_do():
    (path,) = drawn(chart([1.0, 2.0, 4.0]), "path")
    points = coordinates(path)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[0][1] > points[1][1] > points[2][1], "y grows downwards in SVG"
    assert path.get("d").count("M") == 1


def test_values_that_are_not_finite_interrupt_the_line():
    markup = chart([1, 2, NAN, 3, INF, 4, 5])
    (path,) = drawn(markup, "path")
    assert path.get("d").count("M") == 2
    assert len(coordinates(path)) == 4
    (dot,) = drawn(markup, "circle")  # 3 stands alone: a stroke through it would be invisible
    before, after = coordinates(path)[1:3]
    assert float(dot.get("cx")) == pytest.approx((before[0] + after[0]) / 2, abs=25)
    assert before[0] < float(dot.get("cx")) < after[0]
    assert "nan" not in markup
    assert "inf" not in markup


@pytest.mark.parametrize("y", [[2.5], [NAN, 2.5], [NAN, 2.5, NAN]])
def test_one_value_is_a_dot(y):
    markup = chart(y)
    assert len(drawn(markup, "circle")) == 1
    assert drawn(markup, "path") == []


@pytest.mark.parametrize("ys", [[], [[]], [[NAN, NAN]]])
def test_a_chart_without_values_is_reported(ys):
    markup = chart(*ys)
    assert drawn(markup, "path") == drawn(markup, "circle") == []
    assert "no values" in markup


@pytest.mark.parametrize("value", [3.0, 0.03, -1e-7, 4e9])
def test_a_constant_is_flat_in_the_middle(value):
    (path,) = drawn(chart([value, value, value]), "path")
    heights = {y for _, y in coordinates(path)}
    assert len(heights) == 1
    assert 60 < heights.pop() < 120


def test_levels_are_inside_the_axis():
    markup = chart([1.0, 2.0], levels=[("ln K", 6.9)])
    assert "ln K is 6.9" in markup
    (level,) = (e for e in parsed(markup).iter("line") if e.get("class") == "level")
    assert 8 <= float(level.get("y1")) < 60


def test_the_script_of_the_page_gets_the_values_of_every_series():
    markup = line_chart(
        LineChart(
            title="loss",
            x_name="step",
            series=[Series("a", [0, 10], [1.0, NAN]), Series("b", [10, 20], [2.0, 3.0])],
        )
    )
    (svg,) = (e for e in parsed(markup).iter("svg") if e.get("data-chart"))
    data = json.loads(svg.get("data-chart"))
    assert data["label"] == ["step 0", "step 10", "step 20"]
    assert data["y"] == [["1", "–", "–"], ["–", "2", "3"]]


def test_words_of_a_chart_are_text_and_never_markup():
    evil = "<script>alert('\"&')</script>"
    charts = [
        line_chart(LineChart(title=evil, unit=evil, series=[Series(evil, [0, 1], [0, 1])])),
        line_chart(LineChart(title=evil, series=[], levels=[(evil, 1.0)], x_name=evil)),
        interval_plot(IntervalPlot(title=evil, unit=evil, rows=[IntervalRow(label=evil, value=1)])),
    ]
    for markup in charts:
        assert "<script" not in markup
        assert evil in "".join(parsed(markup).itertext())


def test_a_long_label_is_cut_where_it_is_drawn_and_whole_where_it_is_reported():
    label = "a model of a very long name, class token and patch mean"
    markup = interval_plot(IntervalPlot(title="t", rows=[IntervalRow(label=label, value=1.0)]))
    assert label in next(parsed(markup).iter("title")).text
    (text,) = (e for e in parsed(markup).iter("text") if "label" in e.get("class"))
    assert text.text == "a model of a v…and patch mean"
    # At its end; 6.3 pixels a letter.
    assert float(text.get("x")) >= 6.3 * len(text.text)
    (dot,) = drawn(markup, "circle")
    assert float(text.get("x")) < float(dot.get("cx")) < 340


def test_a_band_surrounds_its_line_and_stops_where_there_is_no_interval():
    band = [(0.0, 2.0), (1.0, 3.0), None, (2.0, 4.0), (math.nan, 9.0)]
    series = Series("a", [0, 10, 20, 30, 40], [1, 2, 3, 3, 3], band)
    markup = line_chart(LineChart(title="t", series=[series]))
    (path,) = (e for e in parsed(markup).iter("path") if e.get("class") == "band c0")
    first, second = (points.split("L") for points in path.get("d")[1:-1].split("ZM"))
    x, low, high = zip(
        *(map(float, (*first[at].split(), first[-1 - at].split()[1])) for at in (0, 1)), strict=True
    )
    assert x[0] < x[1]
    (line,) = drawn(markup, "path")
    middle = [y for _, y in coordinates(line)[:2]]
    # Pixels grow downward.
    assert [(a + b) / 2 for a, b in zip(low, high, strict=True)] == pytest.approx(middle, abs=0.1)
    assert len(second) == 2  # one step alone: low and high


def test_seeds_are_small_dots_and_a_level_is_a_line_across_the_rows():
    rows = [
        IntervalRow(label="a", value=2.0, dots=[1.0, 3.0]),
        IntervalRow(label="b", value=1.0, is_hollow=True),
    ]
    markup = interval_plot(IntervalPlot(title="t", rows=rows, levels=[("the baseline", 2.0)]))
    circles = [(e.get("class"), float(e.get("cx"))) for e in parsed(markup).iter("circle")]
    assert [kind for kind, _ in circles] == ["dot c0", "seed", "seed", "ring c0"]
    mean, one, other, ring = (at for _, at in circles)
    assert one < mean < other
    assert ring == one
    (level,) = (e for e in parsed(markup).iter("line") if e.get("class") == "level")
    assert float(level.get("x1")) == float(level.get("x2")) == mean
    titles = [title.text for title in parsed(markup).iter("title")]
    assert titles == ["t: a 2; b 1; the baseline is 2", "a 2", "b 1"]


@given(st.lists(NUMBERS, max_size=8), st.lists(NUMBERS, max_size=8))
def test_any_values_give_well_formed_charts_inside_their_paper(first, second):
    markup = chart(first, second)
    for path in drawn(markup, "path"):
        assert all(0 <= x <= 340 and 0 <= y <= 190 for x, y in coordinates(path))
    num_finite = sum(map(math.isfinite, [*first, *second]))
    strokes = sum(len(coordinates(path)) for path in drawn(markup, "path"))
    assert strokes + len(drawn(markup, "circle")) == num_finite


@given(
    st.lists(st.tuples(NUMBERS, st.none() | st.tuples(NUMBERS, NUMBERS)), max_size=6), st.booleans()
)
def test_any_intervals_give_well_formed_plots(rows, zero):
    made = [IntervalRow(label="row", value=v, interval=i) for v, i in rows]
    markup = interval_plot(IntervalPlot(title="differences", rows=made, zero=zero))
    numbers = [
        float(e.get(name))
        for e in parsed(markup).iter()
        for name in ("x1", "x2", "cx")
        if e.get(name)
    ]
    assert all(0 <= number <= 340 for number in numbers)
    assert len(drawn(markup, "circle")) == sum(math.isfinite(v) for v, _ in rows)
    whole = [i for _, i in rows if i is not None and all(map(math.isfinite, i))]
    assert len(drawn(markup, "line")) == len(whole)


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_every_count_above_zero_has_its_visible_part_of_the_bar(left, gone, rest):
    bar = ET.fromstring(str(share_bar(left, gone, left + gone + rest)))
    first, second = bar.iter("rect")
    starts, widths = zip(
        *((float(r.get("x")), float(r.get("width"))) for r in (first, second)), strict=True
    )
    assert [width >= 2.99 for width in widths] == [left > 0, gone > 0]
    assert starts[1] == pytest.approx(widths[0], abs=0.01)
    assert sum(widths) <= 1000.01
    total = left + gone + rest
    if total:
        wanted = [1000 * part / total for part in (left, gone)]
        assert widths == pytest.approx(wanted, abs=3.02)


@given(st.floats(-1e15, 1e15), st.floats(1e-6, 1e15), st.integers(2, 8))
def test_ticks_are_round_few_and_inside_the_range(low, span, about):
    high = low + max(span, 1e-9 * abs(low))
    ticks = round_ticks(low, high, about)
    slack = 1e-6 * (high - low) + 1e-15 * max(abs(low), abs(high))
    assert all(low - slack <= tick <= high + slack for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 2.6 * about + 2


def test_ticks_are_written_as_people_do():
    assert round_ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_ticks(-3, 12, 4) == [0, 5, 10]
    assert round_ticks(0.01, 0.05, 4) == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert round_ticks(7, 7) == [7]
    assert round_ticks(NAN, 7) == [0.0]


def test_a_scale_maps_ends_to_ends_and_an_empty_range_to_the_middle():
    scale = Scale(2.0, 4.0, 100.0, 0.0)
    assert [scale(value) for value in (2, 3, 4)] == [100, 50, 0]
    assert Scale(2.0, 2.0, 0.0, 100.0)(2) == 50


def test_attributes_are_named_escaped_and_short():
    made = element("rect", class_='a"b', aria_hidden="true", x=1.0, y=0.126, id=None)
    assert made == '<rect class="a&#34;b" aria-hidden="true" x="1" y="0.13"></rect>'

"""Self-contained HTML pages: templates, charts as inline SVG, pictures as data URIs.

A page needs no network and no other file, follows the light or dark setting of the reader, fits a
phone, and prints. Its callers choose the content.
"""

from dinoforge.pages.explain import ExplainFacts, ShownImage, explain_page
from dinoforge.pages.interval_plot import IntervalPlot, IntervalRow, interval_plot
from dinoforge.pages.line_chart import LineChart, Series, line_chart
from dinoforge.pages.render import render
from dinoforge.pages.svg import share_bar
from dinoforge.pages.thumbnails import Thumbnail, pixel_map, thumbnail

__all__ = [
    "ExplainFacts",
    "IntervalPlot",
    "IntervalRow",
    "LineChart",
    "Series",
    "ShownImage",
    "Thumbnail",
    "explain_page",
    "interval_plot",
    "line_chart",
    "pixel_map",
    "render",
    "share_bar",
    "thumbnail",
]

"""The page of ``dinoforge classes``: correlations, and per encoder a map and a dendrogram."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.clusters.class_structure import link
from dinoforge.evaluation.class_structure.correlation import Score
from dinoforge.evaluation.class_structure.drawing import ClassStyle, draw_map, draw_tree
from dinoforge.pages.charts import IntervalPlot, IntervalRow, interval_plot
from dinoforge.pages.formatting import significant
from dinoforge.pages.render import render

__all__ = ["ClassPage", "EncoderMap", "as_page"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"
_PAIRS = 10  # most similar ones that are listed
_LAYOUTS = {"pca": "first two principal components", "tsne": "t-SNE"}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EncoderMap:
    """What one encoder makes of the classes."""

    name: str
    encoder: str
    scores: Mapping[str, Score]
    points_C2: Floats
    distances_CC: Floats


@dataclass(frozen=True, kw_only=True)
class ClassPage:
    """What the page shows; ``groups`` are names and positions of classes."""

    MOST_GROUPS: ClassVar[int] = 6  # as many colors

    maps: Sequence[EncoderMap]
    differences: Sequence[tuple[str, str, float, tuple[float, float]]]
    names: Sequence[str]
    groups: Sequence[tuple[str, Sequence[int]]]
    taxonomy_CC: Floats
    layout: str
    num_images: int
    settings: Mapping[str, Any]


class _Pair(NamedTuple):
    classes: tuple[str, str]
    cosine: float
    in_taxonomy: float


def as_page(page: ClassPage) -> str:
    """Render the page; equal content gives equal bytes."""
    groups = np.zeros(len(page.names), np.int64)
    for number, (_, members) in enumerate(page.groups):
        groups[list(members)] = number
    style = ClassStyle(page.names, groups)
    drawings = [
        {
            "name": one.name,
            "map": draw_map(one.points_C2, style, f"classes by {one.name}"),
            "tree": draw_tree(
                link(one.distances_CC), style, one.distances_CC, f"dendrogram by {one.name}"
            ),
            "pairs": _nearest(one.distances_CC, page),
        }
        for one in page.maps
    ]
    return render(
        "classes.html",
        folder=_TEMPLATES,
        page=page,
        drawings=drawings,
        plots=[_plot(page, metric) for metric in page.maps[0].scores],
        layout=_LAYOUTS[page.layout],
        mean_distance=float(page.taxonomy_CC[np.triu_indices(len(page.names), 1)].mean()),
        number=significant,
    )


def _plot(page: ClassPage, metric: str) -> str:
    rows = [
        IntervalRow(
            label=one.name, value=score.value, interval=score.interval, color=0 if at == 0 else 5
        )
        for at, one in enumerate(page.maps)
        for score in [one.scores[metric]]
    ]
    return interval_plot(IntervalPlot(title=metric, rows=rows, zero=True))


def _nearest(distances_CC: Floats, page: ClassPage) -> list[_Pair]:
    a_P, b_P = np.triu_indices(len(distances_CC), 1)
    nearest = np.argsort(distances_CC[a_P, b_P], kind="stable")[:_PAIRS]
    return [
        _Pair((page.names[a], page.names[b]), 1 - float(distances_CC[a, b]), page.taxonomy_CC[a, b])
        for a, b in zip(a_P[nearest], b_P[nearest], strict=True)
    ]

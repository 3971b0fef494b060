"""The map and the dendrogram of classes as inline SVG, drawn for a width of 340 pixels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram, to_tree

from dinoforge.pages.charts import Scale, element

__all__ = ["ClassStyle", "draw_map", "draw_tree"]

_SIDE, _MARGIN = 340, 10
_LABELED = 30  # classes of a map with their names
_LEAVES = 40  # of a dendrogram
_ROW, _RIGHT, _LETTER, _LETTERS = 15, 334, 6.3, 24

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassStyle:
    """Names of classes as shown, and the number of the group (the color) of each."""

    names: Sequence[str]
    groups: NDArray[np.int64]


def draw_map(points_C2: Floats, style: ClassStyle, title: str) -> Markup:
    """Draw a dot per class; few classes have their names beside them, all show them on hover."""
    low, high = points_C2.min(axis=0), points_C2.max(axis=0)
    right = _SIDE - (70 if len(points_C2) <= _LABELED else _MARGIN)
    x = Scale(low[0], high[0], _MARGIN, right)
    y = Scale(low[1], high[1], _SIDE - _MARGIN, _MARGIN)
    radius = 4.0 if len(points_C2) <= _LABELED else 2.4
    parts = []
    for (at_x, at_y), name, group in zip(points_C2, style.names, style.groups, strict=True):
        dot = {"cx": x(at_x), "cy": y(at_y), "r": radius, "class_": f"dot c{group}"}
        parts.append(element("circle", element("title", name), **dot))
    if len(points_C2) <= _LABELED:
        places = [(x(at_x) + 7, y(at_y) + 4) for at_x, at_y in points_C2]
        for (left, base), name in zip(_apart(places), style.names, strict=True):
            parts.append(element("text", name, class_="label", x=left, y=base))
    return _picture(title, _SIDE, parts)


def _apart(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Move labels down where they would cover another one."""
    apart = list(places)
    for at in sorted(range(len(apart)), key=lambda at: places[at][1]):
        left, base = places[at]
        for other in sorted(apart, key=lambda place: place[1]):
            if other != places[at] and abs(other[0] - left) < 60 and 0 <= base - other[1] < 11:
                base = other[1] + 11
        apart[at] = (left, base)
    return apart


def draw_tree(tree: Floats, style: ClassStyle, distances_CC: Floats, title: str) -> Markup:
    """Draw the dendrogram; beyond 40 classes its last 40 clusters, by their central classes."""
    drawn = dendrogram(tree, no_plot=True, truncate_mode="lastp", p=_LEAVES)
    nodes = to_tree(tree, rd=True)[1]
    leaves = [_leaf(nodes[leaf].pre_order(), style, distances_CC) for leaf in drawn["leaves"]]
    left = 22 + _LETTER * max(len(label) for label, _ in leaves)
    top = max(max(heights) for heights in drawn["dcoord"])
    x = Scale(0, top, left, _RIGHT)
    parts = []
    for positions, heights in zip(drawn["icoord"], drawn["dcoord"], strict=True):
        corners = [
            f"{x(height):.1f} {position / 10 * _ROW:.1f}"
            for position, height in zip(positions, heights, strict=True)
        ]
        parts.append(element("path", class_="branch", d="M" + "L".join(corners)))
    for number, (label, group) in enumerate(leaves):
        at = (number + 0.5) * _ROW
        parts.append(element("text", label, class_="label end", x=left - 14, y=at + 4))
        parts.append(element("circle", class_=f"dot c{group}", cx=left - 6, cy=at, r=3.5))
    return _picture(title, len(leaves) * _ROW, parts)


def _leaf(members: Sequence[int], style: ClassStyle, distances_CC: Floats) -> tuple[str, int]:
    """Name a cluster after the class in its center, color it as most of its classes."""
    block = distances_CC[np.ix_(members, members)]
    label = style.names[members[int(block.sum(axis=1).argmin())]]
    more = f" +{len(members) - 1}" if len(members) > 1 else ""
    if len(label) + len(more) > _LETTERS:
        label = label[: _LETTERS - len(more) - 1].rstrip() + "…"
    return label + more, int(np.bincount(style.groups[list(members)]).argmax())


def _picture(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    head = element("title", title)
    return element("svg", head, *parts, class_="chart", viewBox=f"0 0 {_SIDE} {height}", role="img")

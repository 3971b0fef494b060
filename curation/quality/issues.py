"""Issues of images by the names that cleanvision gave them, as limits on what is measured.

The limits are starting points for a look at the pictures; they drop nothing. What drops images is
the filter of the recipe.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.curation.config import FilterConfig

__all__ = ["ISSUES", "MEASURED", "Issue", "filter_limits"]


@dataclass(frozen=True)
class Issue:
    """Images whose measure is beyond a limit."""

    name: str
    measure: str  # name in `MEASURED`, or of a score of pixels
    is_above: bool  # else below
    limit: float
    what: str

    def has(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return which values are beyond the limit; a missing one is not."""
        return values > self.limit if self.is_above else values < self.limit

    def badness(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return numbers that are the larger the worse."""
        return values if self.is_above else -values


# Measure -> what it is; of every image.
MEASURED: Mapping[str, str] = {
    "aspect": "longer side / shorter side",
    "side": "shorter side, pixels",
    "scale": "square root of width x height, by the median",
    "std": "standard deviation of the gray values",
    "quality": "JPEG quality",
    "bytes": "size of the file, KiB",
}

ISSUES = (
    Issue("dark", "dark", is_above=True, limit=0.68, what="the brightest percent is dark"),
    Issue("light", "light", is_above=True, limit=0.7, what="the darkest 5 percent are bright"),
    Issue("blurry", "blur", is_above=True, limit=1.5, what="no fine details"),
    Issue("low_information", "entropy", is_above=False, limit=3.0, what="few gray values"),
    Issue("grayscale", "color", is_above=False, limit=0.02, what="no color"),
    Issue("odd_aspect_ratio", "aspect", is_above=True, limit=1 / 0.35, what="long and narrow"),
    Issue("odd_size", "odd", is_above=True, limit=np.log2(10), what="10 times the median, or 1/10"),
)

_SYMBOLS: Mapping[type[ast.cmpop], str] = {
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def filter_limits(policy: FilterConfig) -> dict[str, list[tuple[str, float]]]:
    """Return the limits that the filter sets on each measure: what is kept, and the number.

    Of a condition, its comparisons of a column with a number, wherever they stand in it.
    """
    limits: dict[str, list[tuple[str, float]]] = {
        "side": [(f">= {policy.min_side}", policy.min_side)],
        "std": [(f">= {policy.min_std:g}", policy.min_std)],
    }
    if policy.max_aspect:
        limits["aspect"] = [(f"<= {policy.max_aspect:g}", policy.max_aspect)]
    tree = ast.parse(policy.where.strip() or "0", mode="eval")
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, op, right in zip(sides, node.ops, node.comparators, strict=False):
                for name, symbol, value in _comparison(left, op, right):
                    limits.setdefault(name, []).append((f"{symbol} {value:g}", value))
    return limits


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> list[tuple[str, str, float]]:
    symbol = _SYMBOLS.get(type(op))
    if symbol is None:
        return []
    if isinstance(left, ast.Name) and (value := _number(right)) is not None:
        return [(left.id, symbol, value)]
    if isinstance(right, ast.Name) and (value := _number(left)) is not None:
        return [(right.id, _TURNED.get(symbol, symbol), value)]
    return []


def _number(node: ast.expr) -> float | None:
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return None
    return float(value) if isinstance(value, int | float) else None

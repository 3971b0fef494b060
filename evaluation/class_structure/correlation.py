"""How far distances between classes in features follow those of a taxonomy.

Shapes: C classes, P pairs of classes, R resamples.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet
from scipy.spatial.distance import squareform

from dinoforge.clusters.class_structure import link
from dinoforge.intervals import bootstrap_counts
from dinoforge.randomness import uniforms

__all__ = ["METRICS", "Score", "percentiles", "score_structure"]

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], float]  # of how often each class is drawn, [C]


@dataclass(frozen=True)
class Score:
    """A correlation, its values in the resamples of classes, and the p-value of Mantel's test."""

    value: float
    resampled: Floats  # NaN where it is undefined: all classes that were drawn are equally far
    p_value: float

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval."""
        return percentiles(self.resampled)


def percentiles(resampled: Floats) -> tuple[float, float]:
    """Return the 2.5th and the 97.5th percentile of the values that are defined."""
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(low), float(high)


def score_structure(
    distances_CC: Floats, taxonomy_CC: Floats, *, resamples: int, permutations: int, seed: int
) -> dict[str, Score]:
    """Correlate distances of features with those of a taxonomy, over all pairs of classes.

    ``spearman``: rank correlation of the distances. ``cophenetic``: Pearson's correlation of the
    taxonomy with the distances along the dendrogram of the features (average linkage; Sokal and
    Rohlf 1962). Resamples draw classes with replacement; pairs of a class with itself do not count.
    The p-value is one-sided: the share of permutations of the classes with at least this
    correlation (Mantel 1967), the observed one included.
    """
    counts_RC = np.array(list(bootstrap_counts(len(distances_CC), resamples, seed, "classes")))
    scores = {}
    for name, make in METRICS.items():
        statistic = make(distances_CC, taxonomy_CC)
        value = statistic(np.ones(len(distances_CC), np.int64))
        resampled = [statistic(counts_C) for counts_C in counts_RC]
        matrices = _MATRICES[name](distances_CC, taxonomy_CC)
        p_value = _mantel(*matrices, permutations=permutations, seed=seed)
        scores[name] = Score(value, np.array(resampled), p_value)
    return scores


def _spearman(a_CC: Floats, b_CC: Floats) -> Statistic:
    codes = [_codes(_condensed(matrix_CC)) for matrix_CC in (a_CC, b_CC)]

    def of_counts(counts_C: NDArray[np.int64]) -> float:
        weights_P = _condensed(np.outer(counts_C, counts_C).astype(np.float64))
        a_P, b_P = (_ranks(codes_P, weights_P) for codes_P in codes)
        return _pearson(a_P, b_P, weights_P)

    return of_counts


def _cophenetic(a_CC: Floats, b_CC: Floats) -> Statistic:
    def of_counts(counts_C: NDArray[np.int64]) -> float:
        rows = np.repeat(np.arange(len(counts_C)), counts_C)
        block = np.ix_(rows, rows)
        along = cophenet(link(a_CC[block]))
        differ = _condensed((rows[:, None] != rows).astype(np.float64))
        return _pearson(along, _condensed(b_CC[block]), differ)

    return of_counts


METRICS: dict[str, Callable[[Floats, Floats], Statistic]] = {
    "spearman": _spearman,
    "cophenetic": _cophenetic,
}


def _ranked(matrix_CC: Floats) -> Floats:
    codes_P = _codes(_condensed(matrix_CC))
    ranked: Floats = squareform(_ranks(codes_P, np.ones(len(codes_P))))
    return ranked


# What Mantel's test permutes: matrices whose Pearson correlation is the statistic.
_MATRICES: dict[str, Callable[[Floats, Floats], tuple[Floats, Floats]]] = {
    "spearman": lambda a_CC, b_CC: (_ranked(a_CC), _ranked(b_CC)),
    "cophenetic": lambda a_CC, b_CC: (squareform(cophenet(link(a_CC))), b_CC),
}


def _condensed(matrix_CC: Floats) -> Floats:
    values: Floats = squareform(matrix_CC, checks=False)  # above the diagonal, row by row
    return values


def _codes(values_P: Floats) -> NDArray[np.int64]:
    """Return the number of each value among the distinct ones, ascending."""
    codes: NDArray[np.int64] = np.unique(values_P, return_inverse=True)[1]
    return codes


def _ranks(codes_P: NDArray[np.int64], weights_P: Floats) -> Floats:
    """Return mid-ranks of values of which each occurs as often as its weight."""
    totals = np.bincount(codes_P, weights_P)
    ranks: Floats = (np.cumsum(totals) - totals / 2)[codes_P]
    return ranks


def _pearson(a_P: Floats, b_P: Floats, weights_P: Floats) -> float:
    total = weights_P.sum()
    if not total:
        return float("nan")
    a_P, b_P = (values_P - weights_P @ values_P / total for values_P in (a_P, b_P))
    spread = np.sqrt((weights_P @ a_P**2) * (weights_P @ b_P**2))
    # Of equal values, rounding may leave a tiny spread.
    return float(weights_P @ (a_P * b_P) / spread) if spread > 1e-9 * total else float("nan")


def _mantel(a_CC: Floats, b_CC: Floats, *, permutations: int, seed: int) -> float:
    a_CC = a_CC - _condensed(a_CC).mean()
    np.fill_diagonal(a_CC, 0.0)
    observed = np.vdot(a_CC, b_CC)
    reached = 1
    for number in range(permutations):
        draws_C = uniforms(seed, "classes/mantel", np.array([number]), count=len(a_CC))[0]
        order = np.argsort(draws_C, kind="stable")
        reached += np.vdot(a_CC, b_CC[np.ix_(order, order)]) >= observed * (1 - 1e-12)
    return reached / (permutations + 1)

"""Exact search for retrieval protocols: whole rankings, and classes of instances by k-NN.

Shapes: q queries, n database images, D dimensions, k neighbors.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.metrics.copies import met_pairs, micro_average_precision
from dinoforge.evaluation.metrics.ranking import Judgment, Ranks, rank_positives
from dinoforge.neighbors.search import Neighbors

__all__ = ["InstanceSettings", "choose_instance_settings", "classify_instances", "rank_database"]

_PRODUCT_BYTES = 1 << 27  # of one block: some queries times the whole database, in float64


def rank_database(
    queries: NDArray[Any], database: NDArray[Any], judgments: Iterable[Judgment]
) -> Iterator[Ranks]:
    """Rank the positives of every query by cosine; yields blocks of queries, in order.

    Cosines are computed in float64 and rounded to 12 digits: untrained networks have cosines that
    differ by less than float32 resolves, and copies of an image stay equal.

    Parameters
    ----------
    queries, database : ndarray
        Features ``[q, D]`` and ``[n, D]``, normalized here; a zero row has cosine 0 to all.
    judgments : iterable of Judgment
        One per query.

    Raises
    ------
    UsageError
        If a feature is not finite.
    """
    rows_nD, asked_qD = (_unit(rows) for rows in (database, queries))
    step = max(1, _PRODUCT_BYTES // (8 * max(1, len(rows_nD))))
    left = iter(judgments)
    for start in range(0, len(asked_qD), step):
        block_bD = asked_qD[start : start + step]
        cosines_bn = np.round(block_bD @ rows_nD.T, 12)
        yield rank_positives(cosines_bn, list(islice(left, len(block_bD))))


def _unit(rows: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(rows, np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    return wide / np.where(norms > 0, norms, 1.0)[:, None]


def classify_instances(
    neighbors: Neighbors, labels: NDArray[np.int64], *, scale: float, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Predict the class of every query with a confidence (the k-NN of the Met benchmark).

    A class scores exp(scale * its best similarity among the neighbors); all other classes of the
    database score 1, and the confidence is the share of the winner. Equal scores take the smaller
    class.

    Parameters
    ----------
    neighbors : Neighbors
        Neighbors in the database, ``[q, k]``.
    labels : ndarray
        Class of every database image, ``[n]``.
    scale : float
        Factor before the exponential.
    num_classes : int
        Classes in the database.

    Returns
    -------
    tuple of ndarray
        Classes ``[q]`` (-1 without a neighbor) and confidences ``[q]`` in [0, 1].
    """
    predicted = np.full(len(neighbors.ids), -1, np.int64)
    confidences = np.zeros(len(neighbors.ids))
    for query, (ids, scores) in enumerate(zip(neighbors.ids, neighbors.scores, strict=True)):
        if not (ids >= 0).any():
            continue
        classes, at = np.unique(labels[ids[ids >= 0]], return_inverse=True)
        best = np.zeros(len(classes))  # as published: similarities below 0 count as 0
        np.maximum.at(best, at, scores[ids >= 0].astype(np.float64))
        weights = np.exp(scale * (best - best.max()))
        rest = (num_classes - len(classes)) * np.exp(-scale * best.max())
        winner = int(weights.argmax())
        predicted[query] = classes[winner]
        confidences[query] = weights[winner] / (weights.sum() + rest)
    return predicted, confidences


class InstanceSettings(NamedTuple):
    """Settings of `classify_instances`, and the GAP that they were chosen by."""

    k: int
    scale: float
    gap: float


def choose_instance_settings(
    neighbors: Neighbors,
    labels: NDArray[np.int64],
    query_labels: NDArray[np.int64],
    *,
    grid: tuple[Sequence[int], Sequence[float]],
    num_classes: int,
) -> InstanceSettings:
    """Choose k and scale by GAP on validation queries, as the Met benchmark does.

    ``neighbors`` are of the validation queries, at least the largest k of them; ``query_labels``
    are -1 for distractors. ``grid`` has the values of k and of scale; of equal scores the first
    pair is taken. Records of a test with these settings are `val`-selected.
    """
    best = InstanceSettings(0, 0.0, -1.0)
    for k, scale in product(*grid):
        nearest = Neighbors(neighbors.ids[:, :k], neighbors.scores[:, :k])
        predicted, confidences = classify_instances(
            nearest, labels, scale=scale, num_classes=num_classes
        )
        gap = micro_average_precision(met_pairs(query_labels, predicted, confidences))
        if gap > best.gap:
            best = InstanceSettings(k, scale, gap)
    return best

"""Metrics of copy detection and of recognition with distractors: micro-AP, recall at P90, GAP.

All pairs of all queries are one list, sorted by score, so scores must be comparable between
queries. Equal scores count in the worst order: wrong pairs first. The value of one query is
undefined; instead every metric takes ``counts``, how often a resample drew each query.

Shapes: P pairs, Q queries, k pairs per query.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError

__all__ = [
    "OperatingPoint",
    "ScoredPairs",
    "found_within",
    "met_pairs",
    "micro_average_precision",
    "pack_pairs",
    "pairs_of_lists",
    "pairs_of_objects",
    "recall_at_precision",
    "sort_pairs",
    "unpack_pairs",
]

Rows = NDArray[np.int64]
Counts = NDArray[Any] | None

DISTRACTOR = -1  # label of a query that shows nothing that the database has


@dataclass(frozen=True)
class ScoredPairs:
    """Retrieved pairs of all queries, best first; see `sort_pairs`."""

    query: Rows  # [P]
    is_match: NDArray[np.bool_]  # [P]
    score: NDArray[np.float64]  # [P]
    num_true: Rows  # [Q]: true pairs of every query, retrieved or not
    # The most pairs per query, and of all queries: micro-AP depends on them, so records name them.
    # 0: no limit.
    list_length: int
    max_pairs: int = 0


class OperatingPoint(NamedTuple):
    """The best recall at a precision, and the lowest score that reaches it."""

    recall: float  # 0.0 if no threshold has the precision
    threshold: float  # infinite if no threshold has the precision


def sort_pairs(
    query: Rows,
    is_match: NDArray[np.bool_],
    score: NDArray[Any],
    num_true: Rows,
    *,
    list_length: int = 0,
) -> ScoredPairs:
    """Sort pairs by score, equal scores with wrong pairs first.

    Raises
    ------
    UsageError
        If a score is not finite.
    """
    score = np.asarray(score, np.float64)
    if not np.isfinite(score).all():
        at = int(np.flatnonzero(~np.isfinite(score))[0])
        raise UsageError(
            what=f"{int((~np.isfinite(score)).sum())} pairs have scores that are not finite",
            where=f"query {int(query[at])}",
            do="check the model: its features contain NaN or infinity",
        )
    order = np.lexsort((is_match, -score))
    return ScoredPairs(query[order], is_match[order], score[order], num_true, list_length)


def pairs_of_lists(
    ids_Qk: Rows,
    scores_Qk: NDArray[Any],
    matches: Sequence[Rows],
    *,
    list_length: int,
    max_pairs: int = 0,
) -> ScoredPairs:
    """Make the pairs of the lists of all queries.

    Parameters
    ----------
    ids_Qk, scores_Qk : ndarray
        Retrieved images and their scores, best first, as `top_k` returns them; id -1: none.
    matches : sequence of ndarray
        The true images of every query, empty for a query without a copy.
    list_length : int
        Pairs per query that count; at most k.
    max_pairs : int
        Keep only this many pairs, those of the highest scores: 500,000 in DISC21's challenge; 0:
        all.
    """
    assert 1 <= list_length <= ids_Qk.shape[1], f"lists of {ids_Qk.shape[1]}, not {list_length}"
    ids, scores = ids_Qk[:, :list_length], scores_Qk[:, :list_length]
    is_match = np.stack([np.isin(row, true) for row, true in zip(ids, matches, strict=True)])
    filled = ids >= 0
    query = np.repeat(np.arange(len(ids)), list_length).reshape(ids.shape)
    num_true = np.array([len(true) for true in matches], np.int64)
    pairs = sort_pairs(
        query[filled], is_match[filled], scores[filled], num_true, list_length=list_length
    )
    best = slice(max_pairs or None)
    return replace(
        pairs,
        query=pairs.query[best],
        is_match=pairs.is_match[best],
        score=pairs.score[best],
        max_pairs=max_pairs,
    )


def pack_pairs(pairs: ScoredPairs) -> NDArray[np.float64]:
    """Arrange pairs by query, ``[Q, 1 + L, 2]``, L being the most pairs of a query.

    First the number of true pairs (and 0), then score and 1 for a match or 0, best first; NaN fills
    up.
    """
    order = np.argsort(pairs.query, kind="stable")  # keeps the order by score
    query = pairs.query[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    packed = np.full((len(pairs.num_true), 2 + place.max(initial=-1), 2), np.nan)
    packed[:, 0, 0], packed[:, 0, 1] = pairs.num_true, 0
    packed[query, 1 + place, 0] = pairs.score[order]
    packed[query, 1 + place, 1] = pairs.is_match[order]
    return packed


def unpack_pairs(packed: NDArray[np.float64]) -> ScoredPairs:
    """Inverse of `pack_pairs`, except for the lengths of lists."""
    query, place = np.nonzero(np.isfinite(packed[:, 1:, 0]))
    scores, is_match = packed[query, 1 + place].T
    num_true = packed[:, 0, 0].astype(np.int64)
    return sort_pairs(query, is_match > 0, scores, num_true)


def micro_average_precision(pairs: ScoredPairs, counts: Counts = None) -> float:
    """Return the micro-AP of DISC21 (Douze et al. 2021, section 4.2); NaN without a true pair.

    The mean, over all true pairs, of the precision at their place in the one list; 0 for a true
    pair that was not retrieved.
    """
    is_match, _ = _drawn(pairs, counts)
    num_true = _num_true(pairs, counts)
    if not num_true:
        return float("nan")
    at = np.flatnonzero(is_match)
    return float((np.arange(1, len(at) + 1) / (at + 1)).sum() / num_true)


def recall_at_precision(
    pairs: ScoredPairs, precision: float = 0.9, counts: Counts = None
) -> OperatingPoint:
    """Return the largest recall whose precision is at least ``precision``, and its threshold."""
    is_match, score = _drawn(pairs, counts)
    num_true = _num_true(pairs, counts)
    hits = np.cumsum(is_match)
    good = np.flatnonzero(hits / np.arange(1, len(hits) + 1) >= precision)
    if not num_true or not len(good) or not hits[good[-1]]:
        return OperatingPoint(0.0 if num_true else float("nan"), float("inf"))
    most = int(hits[good[-1]])
    first = int(good[np.searchsorted(hits[good], most)])
    return OperatingPoint(most / num_true, float(score[first]))


def found_within(pairs: ScoredPairs, k: int) -> Rows:
    """Count the true pairs of every query among its first k, ``[Q]``; equal scores count before.

    Their sum is a share of that of ``num_true``: recall@1 for k = 1, in Met the accuracy.
    """
    order = np.argsort(pairs.query, kind="stable")  # keeps the order by score
    query = pairs.query[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    hits = order[(rank < k) & pairs.is_match[order]]
    retrieved: Rows = np.bincount(pairs.query[hits], minlength=len(pairs.num_true))
    return retrieved


def met_pairs(labels: Rows, predicted: Rows, confidences: NDArray[Any]) -> ScoredPairs:
    """Make one pair per query of its predicted class; label -1: a distractor, always wrong.

    Their micro-AP is the GAP of the Met benchmark (Ypsilantis et al. 2021, section 4).
    """
    is_object = labels != DISTRACTOR
    is_match = is_object & (predicted == labels)
    query = np.arange(len(labels))
    return sort_pairs(query, is_match, confidences, is_object.astype(np.int64), list_length=1)


def pairs_of_objects(pairs: ScoredPairs) -> ScoredPairs:
    """Leave out the pairs of queries that show nothing of the database: GAP- is their micro-AP."""
    keep = pairs.num_true[pairs.query] > 0
    return replace(
        pairs, query=pairs.query[keep], is_match=pairs.is_match[keep], score=pairs.score[keep]
    )


def _drawn(pairs: ScoredPairs, counts: Counts) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Repeat every pair as often as its query was drawn; the order stays sorted."""
    if counts is None:
        return pairs.is_match, pairs.score
    times = np.asarray(counts)[pairs.query]
    return np.repeat(pairs.is_match, times), np.repeat(pairs.score, times)


def _num_true(pairs: ScoredPairs, counts: Counts) -> int:
    return int((pairs.num_true * (1 if counts is None else np.asarray(counts))).sum())

"""Metrics of ranked lists: Oxford and Paris, Holidays and Copydays, UKBench, categories.

Every metric has one value per query, NaN for a query without positives, which their mean leaves out
(`combining.as_known`), so a bootstrap resamples queries. Ranks count from 0, after junk images are
removed; equal similarities rank by index.

Shapes: q queries, n images in the database.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError

__all__ = [
    "Difficulty",
    "Judgment",
    "Ranks",
    "average_precisions",
    "chance_average_precisions",
    "hits_at",
    "judge",
    "judge_by_class",
    "leave_one_out",
    "ns_scores",
    "precisions_at",
    "rank_positives",
    "refuse_non_finite",
]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

Difficulty = Literal["easy", "medium", "hard"]


class Judgment(NamedTuple):
    """What the database holds for one query; images in neither list are wrong."""

    positives: Rows  # indices in the database
    junk: Rows  # removed before ranks are counted; the query's own image, for example


@dataclass(frozen=True)
class Ranks:
    """Ranks of the positives of every query."""

    positions: tuple[Rows, ...]  # per query, ascending, from 0, without junk
    num_positives: Rows  # [q]
    num_ranked: Rows  # [q]: images of the list, junk removed

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.positions)


def judge(easy: Rows, hard: Rows, junk: Rows, difficulty: Difficulty) -> Judgment:
    """Apply the revisited protocol (Radenovic et al. 2018, section 3.3) to one query.

    Easy: easy images are positives, hard ones are junk, too. Medium: easy and hard ones are
    positives. Hard: hard ones are positives, easy ones are junk, too.
    """
    if difficulty == "medium":
        return Judgment(np.concatenate([easy, hard]), junk)
    positives, ignored = (easy, hard) if difficulty == "easy" else (hard, easy)
    return Judgment(positives, np.concatenate([junk, ignored]))


def leave_one_out(labels: Rows, queries: Rows | None = None) -> Iterator[Judgment]:
    """Judge a database whose images are its own queries, by class.

    The image itself is junk: it leaves the list by its index, wherever copies of it push it.
    ``labels`` are ``[n]``, -1: no class, so no positives; ``queries`` are indices, default all.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels)
    stops = np.searchsorted(labels[order], labels, side="right")
    for query in range(len(labels)) if queries is None else queries:
        own = order[starts[query] : stops[query]] if labels[query] >= 0 else order[:0]
        yield Judgment(own[own != query], np.array([query]))


def judge_by_class(labels: Rows, query_labels: Rows) -> Iterator[Judgment]:
    """Judge a database by class: ``[n]``, of queries that are not part of it, ``[q]``."""
    nothing = np.zeros(0, np.int64)
    rows_of = {label: np.flatnonzero(labels == label) for label in np.unique(query_labels)}
    for label in query_labels:
        yield Judgment(rows_of[label] if label >= 0 else nothing, nothing)


def rank_positives(similarities_qn: NDArray[Any], judgments: Iterable[Judgment]) -> Ranks:
    """Rank the positives of every query by descending similarity.

    Raises
    ------
    UsageError
        If a similarity is not finite: NaN would be sorted to one end.
    """
    refuse_non_finite(similarities_qn)
    positions, counts, lengths = [], [], []
    for similarities, (positives, junk) in zip(similarities_qn, judgments, strict=True):
        place = np.empty(len(similarities), np.int64)
        place[np.argsort(-similarities, kind="stable")] = np.arange(len(similarities))
        ranks, ignored = np.sort(place[positives]), np.sort(place[junk])
        positions.append(ranks - np.searchsorted(ignored, ranks))
        counts.append(len(positives))
        lengths.append(len(similarities) - len(junk))
    return Ranks(tuple(positions), np.array(counts, np.int64), np.array(lengths, np.int64))


def refuse_non_finite(similarities_qn: NDArray[Any]) -> None:
    """Refuse similarities, ``[q, ...]``, that are NaN or infinite."""
    bad = ~np.isfinite(similarities_qn).reshape(len(similarities_qn), -1).all(axis=1)
    if bad.any():
        raise UsageError(
            what=f"{int(bad.sum())} of {len(bad)} queries have similarities that are not finite",
            where=f"query {int(bad.argmax())}",
            do="check the model: its features contain NaN or infinity",
        )


def average_precisions(
    ranks: Ranks, *, rule: Literal["trapezoid", "step"], depth: int | None = None
) -> Floats:
    """Return the average precision of every query, ``[q]``.

    Parameters
    ----------
    ranks : Ranks
        As `rank_positives` returns them.
    rule : str
        ``trapezoid``: area under the precision-recall points joined by lines; of Oxford, Paris,
        Holidays and Copydays. ``step``: mean of the precisions at the positives, as in
        scikit-learn and AmsterTime.
    depth : int, optional
        Positives below this many images of the list count as not retrieved; the published Copydays
        code searches 20. Default: the whole list.
    """
    values = np.full(len(ranks), np.nan)
    for query, (positions, num) in enumerate(
        zip(ranks.positions, ranks.num_positives, strict=True)
    ):
        if not num:
            continue
        at = positions if depth is None else positions[positions < depth]
        before = np.arange(len(at))
        precisions = (before + 1) / (at + 1)
        if rule == "trapezoid":
            # Precision just before a positive; 1 at the top of the list.
            left = np.where(at > 0, before / np.maximum(at, 1), 1.0)
            precisions = (precisions + left) / 2
        values[query] = precisions.sum() / num
    return values


def precisions_at(ranks: Ranks, k: int) -> Floats:
    """Return mP@k of the revisited protocol per query, ``[q]``.

    Divided by k, or by the rank of the last positive if that is smaller: a query with two positives
    at the top has 1.0 at any k.
    """
    values = np.full(len(ranks), np.nan)
    for query, positions in enumerate(ranks.positions):
        if len(positions):
            most = min(k, int(positions[-1]) + 1)
            values[query] = (positions < most).sum() / most
    return values


def hits_at(ranks: Ranks, k: int) -> Floats:
    """Return 1.0 for every query with a positive among the first k images, else 0.0, ``[q]``."""
    return np.array([float(at[0] < k) if len(at) else np.nan for at in ranks.positions], np.float64)


def ns_scores(neighbors_q4: Rows, groups_n: Rows, queries_q: Rows | None = None) -> Floats:
    """Return UKBench's N-S score per query, 0 to 4 (Nister and Stewenius 2006, section 6).

    The number of images of the query's group of four among its four nearest, itself included: a
    mean of 1.0 means that every query retrieved only itself.

    Parameters
    ----------
    neighbors_q4 : ndarray
        Indices of the four nearest images, the query included, ``[q, 4]``; -1: none.
    groups_n : ndarray
        Group of every image, ``[n]``.
    queries_q : ndarray, optional
        Index of every query; default: all images in order.
    """
    own = groups_n if queries_q is None else groups_n[queries_q]
    same = (groups_n[neighbors_q4] == own[:, None]) & (neighbors_q4 >= 0)
    return same.sum(axis=1).astype(np.float64)


def chance_average_precisions(num_positives_q: Rows, num_ranked_q: Rows) -> Floats:
    """Return the expected ``step`` average precision of a random order per query, ``[q]``.

    ``num_ranked_q`` counts the images of the list, junk removed. A good model near this value
    usually means wrong labels.
    """
    lengths, at = np.unique(num_ranked_q, return_inverse=True)
    harmonic = np.array([(1 / np.arange(1, n + 1)).sum() for n in lengths.tolist()])[at]
    others = np.maximum(num_ranked_q - 1, 1)
    share = (num_positives_q - 1) / others
    values = (harmonic + share * (num_ranked_q - harmonic)) / num_ranked_q
    return np.where(num_positives_q > 0, values, np.nan)

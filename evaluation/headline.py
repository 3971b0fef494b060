"""Of what headlines speak, where much was measured: the number of neighbors, the one score."""

from collections.abc import Iterable, Sequence

from dinoforge.records import Record

__all__ = ["headline_k", "headline_record", "is_knn"]

_K = 20  # what DINOv2 reports (section 7.1)


def headline_k(ks: Iterable[int | None]) -> int | None:
    """Choose the k nearest to 20, of two the smaller; None where nothing has a k."""
    measured = [k for k in ks if k is not None]
    return min(measured, key=lambda k: (abs(k - _K), k), default=None)


def is_knn(record: Record) -> bool:
    """Tell whether a record is an accuracy of k-NN."""
    return record.benchmark.startswith("knn") and record.metric == "accuracy"


def headline_record(records: Sequence[Record]) -> Record | None:
    """Pick the k-NN accuracy of ``trained`` at that k, by its best kind of features."""
    knn = [record for record in records if record.model == "trained" and is_knn(record)]
    k = headline_k(record.settings.get("k") for record in knn)
    at_k = [record for record in knn if record.settings.get("k") == k]
    return max(at_k, key=lambda record: record.value, default=None)

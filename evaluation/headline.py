"""The number of neighbors of which headlines speak, where several were measured."""

from collections.abc import Iterable

__all__ = ["headline_k"]

_K = 20  # what DINOv2 reports (section 7.1)


def headline_k(ks: Iterable[int | None]) -> int | None:
    """Choose the k nearest to 20, of two the smaller; None where nothing has a k."""
    measured = [k for k in ks if k is not None]
    return min(measured, key=lambda k: (abs(k - _K), k), default=None)

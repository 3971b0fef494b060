"""A picture of the evidence: two pictures, their matches, and one laid over the other."""

import numpy as np
from numpy.typing import NDArray

from dinoforge.verification.compare import Comparison, compare_pictures
from dinoforge.verification.features import LocalFeatures, extract_features, mirrored, opencv

__all__ = ["draw_evidence"]

_LINES = 40  # the most matches that are drawn
_GAP = 8  # pixels between the pictures
_SQUARE = 24  # pixels of the checkerboard of the two pictures
_COLORS = ((230, 85, 13), (49, 130, 189), (49, 163, 84), (117, 107, 177))
_PAPER = 255


def draw_evidence(
    a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], Comparison]:
    """Compare two RGB pictures ``[H, W, 3]`` and draw how they fit together.

    From left to right: a (mirrored, if that is how they fit), b, joined by lines at the places that
    agree; and b with a laid over every other square of a checkerboard, where lines that go on from
    square to square show that they fit. uint8 ``[h, w, 3]``, about 220 pixels high.
    """
    features = extract_features(a), extract_features(b)
    comparison = compare_pictures(*features)
    first = mirrored(features[0]) if comparison.mirrored else features[0]
    return _draw(first, features[1], comparison), comparison


def _draw(a: LocalFeatures, b: LocalFeatures, comparison: Comparison) -> NDArray[np.uint8]:
    cv2 = opencv()
    pictures = [a.gray, b.gray]
    if comparison.overlap_b:
        pictures.append(_overlaid(a.gray, b.gray, comparison))
    height = max(len(picture) for picture in pictures)
    starts = np.cumsum([0, *(picture.shape[1] + _GAP for picture in pictures)])
    page = np.full((height, int(starts[-1]) - _GAP, 3), _PAPER, np.uint8)
    for picture, start in zip(pictures, starts.tolist(), strict=False):
        page[: len(picture), start : start + picture.shape[1]] = picture[:, :, None]
    ends = a.points[comparison.matches[:, 0], :2], b.points[comparison.matches[:, 1], :2]
    chosen = np.linspace(0, len(ends[0]) - 1, min(_LINES, len(ends[0]))).astype(int)
    for number, row in enumerate(chosen.tolist()):
        (left, y), (x, y_right) = (np.rint(points[row]).astype(int).tolist() for points in ends)
        color = _COLORS[number % len(_COLORS)]
        cv2.line(page, (left, y), (x + int(starts[1]), y_right), color, 1, cv2.LINE_AA)
    return page


def _overlaid(
    a: NDArray[np.uint8], b: NDArray[np.uint8], comparison: Comparison
) -> NDArray[np.uint8]:
    """Return b with a in every other square, where a covers it."""
    cv2 = opencv()
    c, t = comparison.transform
    matrix = np.array([[c.real, -c.imag, t.real], [c.imag, c.real, t.imag]])
    size = (b.shape[1], b.shape[0])
    moved = cv2.warpAffine(a, matrix, size, flags=cv2.INTER_LINEAR)
    covered = cv2.warpAffine(np.full_like(a, 255), matrix, size, flags=cv2.INTER_NEAREST) > 0
    rows, columns = np.indices(b.shape) // _SQUARE
    return np.where(covered & ((rows + columns) % 2 == 1), moved, b)

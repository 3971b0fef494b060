"""Correlation of the finest details of two aligned pictures.

Look-alikes agree in coarse details; in the finest band only copies do. Both pictures are drawn in
the frame of the coarser one, cut to the overlap. Normalized correlation in windows tolerates local
changes of brightness and contrast.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.verification.features import opencv

__all__ = ["Alignment", "align", "fine_correlation"]

_SIDE = 128  # the overlap is drawn in at most its square, pixels
_FINE, _COARSE = 0.7, 2.0  # standard deviations of the Gaussians whose difference is the band
_WINDOW = 17
_NOISE = 0.1  # gray levels squared: flatter windows do not correlate
_EDGE = 2  # pixels at the border of the overlap that do not count
_MIN_SIDE = 12  # pixels of an overlap that has any detail

_Gray = NDArray[np.uint8]
_Floats = NDArray[np.float32]


class Alignment:
    """Two pictures drawn in one frame, and where both are.

    ``a`` and ``b`` are uint8 ``[h, w]``, ``inside`` the same with 1 where both pictures are.
    """

    def __init__(self, a: _Gray, b: _Gray, inside: _Gray) -> None:
        self.a, self.b, self.inside = a, b, inside


def fine_correlation(a: _Gray, b: _Gray, c: complex, t: complex) -> tuple[float, float, float]:
    """Correlate the finest details where the pictures overlap, if a point z of a is c z + t in b.

    Returns the correlation, -1 to 1, and the shares of the areas of a and b that overlap.
    """
    corners = overlap(a.shape, b.shape, c, t)
    area = _area(corners)
    share_a = min(1.0, area / ((a.shape[0] - 1) * (a.shape[1] - 1)))
    share_b = min(1.0, area * abs(c) ** 2 / ((b.shape[0] - 1) * (b.shape[1] - 1)))
    aligned = align(a, b, c, t, side=_SIDE) if area > 0 else None
    if aligned is None:
        return 0.0, share_a, share_b
    return _correlation(aligned), share_a, share_b


def overlap(a: tuple[int, ...], b: tuple[int, ...], c: complex, t: complex) -> _Floats:
    """Return the corners, float32 ``[*, 2]``, of the part of a that b shows, in pixels of a."""
    cv2 = opencv()
    inside_b = (_corners(b) - t) / c
    polygon = np.stack([inside_b.real, inside_b.imag], axis=1).astype(np.float32)
    own = _corners(a)
    frame = np.stack([own.real, own.imag], axis=1).astype(np.float32)
    _, common = cv2.intersectConvexConvex(frame, polygon)
    return np.zeros((0, 2), np.float32) if common is None else common.reshape(-1, 2)


def align(a: _Gray, b: _Gray, c: complex, t: complex, *, side: int) -> Alignment | None:
    """Draw both pictures in the frame of the coarser, cut to the overlap, in ``side``^2 pixels.

    None if the overlap is too narrow to show anything.
    """
    cv2 = opencv()
    corners = overlap(a.shape, b.shape, c, t)
    if len(corners) < 3:
        return None
    in_a = corners[:, 0] + 1j * corners[:, 1].astype(np.float64)
    # From the frame to a and to b; where |c| < 1, b is the coarser.
    to_a, to_b = ((1 + 0j, 0j), (c, t)) if abs(c) >= 1 else ((1 / c, -t / c), (1 + 0j, 0j))
    at = in_a if abs(c) >= 1 else c * in_a + t
    left, top = at.real.min(), at.imag.min()
    width, height = at.real.max() - left, at.imag.max() - top
    shrink = max(1.0, math.sqrt(width * height) / side)
    size = int(width / shrink) + 1, int(height / shrink) + 1
    if min(size) < _MIN_SIDE:
        return None
    origin = complex(left, top)
    drawn = [
        _draw(picture, scale * shrink, scale * origin + shift, size)
        for picture, (scale, shift) in ((a, to_a), (b, to_b))
    ]
    polygon = np.rint(np.stack([at.real - left, at.imag - top], axis=1) / shrink).astype(np.int32)
    inside = np.zeros(size[::-1], np.uint8)
    cv2.fillConvexPoly(inside, polygon, 1)
    return Alignment(drawn[0], drawn[1], inside)


def _draw(picture: _Gray, scale: complex, shift: complex, size: tuple[int, int]) -> _Gray:
    """Draw the pixel ``scale * z + shift`` of a picture at z."""
    cv2 = opencv()
    shrink = abs(scale)
    if shrink > 1.05:  # as an average over the pixels would
        picture = cv2.GaussianBlur(picture, (0, 0), 0.5 * math.sqrt(shrink**2 - 1))
    matrix = np.array(
        [[scale.real, -scale.imag, shift.real], [scale.imag, scale.real, shift.imag]], np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    drawn: _Gray = cv2.warpAffine(
        picture, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return drawn


def _correlation(aligned: Alignment) -> float:
    cv2 = opencv()
    inside = cv2.erode(
        aligned.inside,
        np.ones((2 * _EDGE + 1, 2 * _EDGE + 1), np.uint8),
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    if not inside.any():
        return 0.0
    weight = inside.astype(np.float32)
    x, y = (_band(picture) * weight for picture in (aligned.a, aligned.b))
    xx, yy, xy, count = (_box_sums(part) for part in (x * x, y * y, x * y, weight))
    at = (inside > 0) & (count > 0.5)
    # Sums that run along a row can end slightly below zero.
    xx, yy = (np.maximum(part[at], 0) / count[at] for part in (xx, yy))
    xy = xy[at] / count[at]
    local = xy / np.sqrt((xx + _NOISE) * (yy + _NOISE))
    weights = np.sqrt(np.sqrt(xx * yy)).astype(np.float64)
    total = float(weights.sum())
    return float((weights * local).sum()) / total if total > 0 else 0.0


def _band(picture: _Gray) -> _Floats:
    cv2 = opencv()
    wide = picture.astype(np.float32)
    band: _Floats = cv2.GaussianBlur(wide, (0, 0), _FINE) - cv2.GaussianBlur(wide, (0, 0), _COARSE)
    return band


def _box_sums(values: _Floats) -> _Floats:
    cv2 = opencv()
    sums: _Floats = cv2.boxFilter(
        values, -1, (_WINDOW, _WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return sums


def _corners(shape: tuple[int, ...]) -> NDArray[np.complex128]:
    height, width = shape[0] - 1, shape[1] - 1
    return np.array([0, width, width + 1j * height, 1j * height], np.complex128)


def _area(corners: NDArray[Any]) -> float:
    if len(corners) < 3:
        return 0.0
    x, y = corners.astype(np.float64).T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2

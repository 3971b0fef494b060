"""Compare two pictures: matches of local features, one similarity transform, the finest details.

Keypoints propose how picture b shows picture a: scaled, rotated, shifted, perhaps mirrored. Whether
it really does, the finest details decide: look-alikes (another shirt on the same floor) agree in
everything coarser. Each match alone gives a transform, as in Lowe 2004, section 7.

Points are complex numbers x + iy in pixels of the gray pictures; a transform is w = c z + t.
Shapes: n, m keypoints of a and b; k matches; p hypotheses.
"""

import cmath
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.verification.correlation import fine_correlation
from dinoforge.verification.features import LocalFeatures, mirrored_descriptors, mirrored_points

__all__ = ["Comparison", "compare_pictures", "is_copy"]

_RATIO, _MUTUAL_RATIO = 0.75, 0.9  # of the distances to the nearest and the second nearest
_MATCHES = 80  # the most that are used
_FIRST_TOLERANCE = 10.0  # pixels; a transform from a single match is rough
_LOG_SCALE = 0.6  # agreement of the scale of a match with that of a hypothesis
_REFINED = 5  # hypotheses
_FITTED_MATCHES = 3  # that agree before a fit; fewer are chance
_TOLERANCES = (6.0, 4.0, 4.0)  # pixels, of the rounds of least squares
_PLACE = 3.0  # pixels: closer keypoints are one place
_CHECKED_PLACES = 4  # of which the details are compared
_CLEAR_PLACES, _CLEAR_CORRELATION = 12, 0.6  # no need to try the other sense
# Fewer places need more correlation: floor boards and white corners agree by chance.
_FEW_PLACES, _MORE_CORRELATION = 12, 0.1

_Complex = NDArray[np.complex128]


@dataclass(frozen=True)
class Comparison:
    """How picture b shows picture a.

    Attributes
    ----------
    places : int
        Distinct places at which keypoints agree with the transform, in the picture with fewer.
    correlation : float
        Of the finest details on the overlap, -1 to 1; 0 if places are too few to look.
    overlap_a, overlap_b : float
        Share of the area of either picture that the other shows, 0 to 1.
    scale, angle : float
        Of the transform from a to b: pixels of b per pixel of a, radians.
    shift_x, shift_y : float
        Pixels of b.
    mirrored : bool
        Whether a is mirrored (left and right swapped) first.
    matches : ndarray
        int64 ``[k, 2]``: rows of the keypoints of a and of b that agree.
    """

    places: int
    correlation: float
    overlap_a: float
    overlap_b: float
    scale: float
    angle: float
    shift_x: float
    shift_y: float
    mirrored: bool
    matches: NDArray[np.int64]

    @property
    def transform(self) -> tuple[complex, complex]:
        """The numbers c and t: a point z of a (mirrored, if so) is at c z + t in b."""
        return cmath.rect(self.scale, self.angle), complex(self.shift_x, self.shift_y)


def compare_pictures(a: LocalFeatures, b: LocalFeatures) -> Comparison:
    """Compare two pictures, b with a and with the mirror image of a; return the better sense."""
    plain = _compare(a, b, is_mirrored=False)
    if plain.places >= _CLEAR_PLACES and plain.correlation > _CLEAR_CORRELATION:
        return plain
    return max(plain, _compare(a, b, is_mirrored=True), key=_evidence)


def is_copy(
    comparison: Any, *, min_places: int = 6, min_correlation: float = 0.55, min_overlap: float = 0.5
) -> Any:
    """Decide whether two pictures are copies of each other.

    ``comparison`` is a `Comparison`, or anything with columns ``places``, ``correlation``,
    ``overlap_a`` and ``overlap_b`` (a pandas table); returns a bool or a column of them. The
    overlap must cover ``min_overlap`` of at least one of the two pictures: a picture inside
    another is covered, not the other. Below 12 places, the correlation must be 0.1 higher.
    """
    overlap = np.maximum(comparison.overlap_a, comparison.overlap_b)
    is_weak = comparison.places < _FEW_PLACES
    return (
        (comparison.places >= min_places)
        & (comparison.correlation > min_correlation + _MORE_CORRELATION * is_weak)
        & (overlap > min_overlap)
    )


def _evidence(comparison: Comparison) -> tuple[bool, float, int]:
    return bool(is_copy(comparison)), comparison.correlation, comparison.places


def _compare(a: LocalFeatures, b: LocalFeatures, *, is_mirrored: bool) -> Comparison:
    points, descriptors = a.points, a.descriptors
    if is_mirrored:
        points, descriptors = mirrored_points(a), mirrored_descriptors(descriptors)
    rows_a, rows_b = _match(descriptors, b.descriptors)
    fit = _fit(points[rows_a], b.points[rows_b]) if len(rows_a) >= 2 else None
    if fit is None:
        none = np.zeros((0, 2), np.int64)
        return Comparison(0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, is_mirrored, none)
    c, t, places, agree = fit
    correlation = overlap_a = overlap_b = 0.0
    if places >= _CHECKED_PLACES:
        gray = np.ascontiguousarray(a.gray[:, ::-1]) if is_mirrored else a.gray
        correlation, overlap_a, overlap_b = fine_correlation(gray, b.gray, c, t)
    return Comparison(
        places,
        correlation,
        overlap_a,
        overlap_b,
        abs(c),
        cmath.phase(c),
        t.real,
        t.imag,
        is_mirrored,
        np.stack([rows_a[agree], rows_b[agree]], axis=1),
    )


def _match(
    a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows of a and of b whose descriptors match, the most distinctive first."""
    if len(a) < 2 or len(b) < 2:
        none = np.zeros(0, np.int64)
        return none, none
    # |a|^2 + |b|^2 - 2 a b as one product, of whole numbers below 2^24, so exact.
    left, right = (np.ones((len(side), side.shape[1] + 2), np.float32) for side in (a, b))
    left[:, :-2], right[:, :-2] = a, b
    norms_a, norms_b = (np.einsum("nd,nd->n", x[:, :-2], x[:, :-2]) for x in (left, right))
    left[:, -2], right[:, -1] = norms_a, norms_b
    right[:, :-2] *= -2
    squares = left @ right.T
    rows = np.arange(len(a))
    nearest = squares.argmin(axis=1)
    first = squares[rows, nearest]
    is_mutual = first <= squares.min(axis=0)[nearest]
    squares[rows, nearest] = np.inf
    ratio = np.sqrt(first / np.maximum(squares.min(axis=1), 1))
    kept = np.flatnonzero((is_mutual & (ratio < _MUTUAL_RATIO)) | (ratio < _RATIO))
    kept = kept[np.argsort(ratio[kept], kind="stable")[:_MATCHES]]
    return kept, nearest[kept]


def _fit(
    a: NDArray[np.float32], b: NDArray[np.float32]
) -> tuple[complex, complex, int, NDArray[np.bool_]] | None:
    """Find the transform with which most matched keypoints agree.

    Returns c, t, the number of distinct places and which matches agree.
    """
    z, w = (points[:, 0] + 1j * points[:, 1].astype(np.float64) for points in (a, b))
    log_scale = np.log(b[:, 2].astype(np.float64) / a[:, 2])
    c = np.exp(log_scale + 1j * (b[:, 3].astype(np.float64) - a[:, 3]))
    t = w - c * z
    agree = _are_close(c, t, z, w, _FIRST_TOLERANCE)
    agree &= np.abs(log_scale - log_scale[:, None]) < _LOG_SCALE
    counts = agree.sum(axis=1)
    best = np.argsort(-counts, kind="stable")[:_REFINED]
    if counts[best[0]] < _FITTED_MATCHES:
        return None
    c, t, agree = c[best], t[best], agree[best]
    for tolerance in _TOLERANCES:
        c, t = _least_squares(agree, z, w, c, t)
        agree = _are_close(c, t, z, w, tolerance)
        agree &= np.abs(log_scale - np.log(np.abs(c))[:, None]) < _LOG_SCALE
    cells = [_cells(points) for points in (z, w)]
    places = [min(len(set(side[row].tolist())) for side in cells) for row in agree]
    winner = int(np.argmax(places))
    if places[winner] < 2:
        return None
    return complex(c[winner]), complex(t[winner]), places[winner], agree[winner]


def _are_close(
    c: _Complex, t: _Complex, z: _Complex, w: _Complex, tolerance: float
) -> NDArray[np.bool_]:
    """Say which matches are within ``tolerance`` pixels of the coarser picture, ``[p, k]``."""
    away = c[:, None] * z + (t[:, None] - w)
    bound = tolerance**2 * np.maximum(c.real**2 + c.imag**2, 1)
    return away.real**2 + away.imag**2 < bound[:, None]


def _least_squares(
    agree: NDArray[np.bool_], z: _Complex, w: _Complex, c: _Complex, t: _Complex
) -> tuple[_Complex, _Complex]:
    """Fit every hypothesis to the matches that agree with it; keep it where they are one place."""
    weights = agree.astype(np.float64)
    total = np.maximum(weights.sum(axis=1), 1)
    mean_z, mean_w = weights @ z / total, weights @ w / total
    away_z, away_w = z - mean_z[:, None], w - mean_w[:, None]
    spread = (weights * (away_z.real**2 + away_z.imag**2)).sum(axis=1)
    fitted = (weights * away_z.conj() * away_w).sum(axis=1) / np.maximum(spread, 1e-9)
    usable = (spread > total) & (np.abs(fitted) > 1e-3)
    c = np.where(usable, fitted, c)
    return c, np.where(usable, mean_w - c * mean_z, t)


def _cells(points: _Complex) -> NDArray[np.int64]:
    """Return the number of the cell of each point."""
    across, down = (np.floor(part / _PLACE).astype(np.int64) for part in (points.real, points.imag))
    return across * 1024 + down

"""Signs of collapse in features, without labels.

Read several together: features that are constant up to noise show in `feature_std` and not in
RankMe; features on a line show in RankMe and not in `feature_std`.

Shapes: n images, D dimensions, q views.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "alpha_req",
    "covariance_spectrum",
    "effective_rank",
    "feature_std",
    "lidar",
    "mean_cosine",
    "participation_ratio",
    "rankme",
    "signs_of_collapse",
    "uniformity",
]

Floats = NDArray[np.float64]

_ROWS_AT_ONCE = 512


def signs_of_collapse(rows: NDArray[np.float32]) -> dict[str, float]:
    """Compute every metric that needs one view per image; NaN if it is undefined.

    ``rows`` are the network's outputs ``[n, D]``, n at least 2, not normalized.
    """
    raw = np.asarray(rows, np.float64)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    unit = raw / np.where(norms > 0, norms, 1.0)
    spectrum = covariance_spectrum(raw)
    return {
        "rankme": rankme(raw),
        "feature_std": feature_std(unit),
        "uniformity": uniformity(unit),
        "mean_cosine": mean_cosine(unit),
        "effective_rank": effective_rank(spectrum),
        "participation_ratio": participation_ratio(spectrum),
        "alpha_req": alpha_req(spectrum, 1, min(len(spectrum), len(raw) - 1) // 2),
    }


def rankme(rows_nD: Floats) -> float:
    """Exponential of the entropy of the singular values, not centered (Garrido et al. 2023, eq. 2).

    D for features that fill all dimensions evenly, 1 for features on a line.
    """
    # The triangle of a QR decomposition has the same singular values and D rows.
    triangle = np.linalg.qr(rows_nD, mode="r")
    sigma = np.linalg.svd(triangle, compute_uv=False)
    total = sigma.sum()
    if total == 0:
        return math.nan
    shares = sigma / total + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))


def covariance_spectrum(rows_nD: Floats) -> Floats:
    """Eigenvalues of the covariance (divided by n), descending, none below 0."""
    centered = rows_nD - rows_nD.mean(axis=0)
    values = np.linalg.eigvalsh(centered.T @ centered / len(rows_nD))
    return values[::-1].clip(0.0)


def effective_rank(spectrum: Floats) -> float:
    """Exponential of the entropy of a spectrum (Roy and Vetterli 2007)."""
    if spectrum.sum() == 0:
        return math.nan
    shares = spectrum[spectrum > 0] / spectrum.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def participation_ratio(spectrum: Floats) -> float:
    """Squared sum over sum of squares: the number of directions that carry the variance."""
    squares = float(np.square(spectrum).sum())
    return float(spectrum.sum()) ** 2 / squares if squares else math.nan


def alpha_req(spectrum: Floats, first: int, last: int) -> float:
    """Slope at which log eigenvalue falls with log index (Agrawal et al. 2022); near 1 is good.

    Least squares over the indices ``first`` .. ``last``, inclusive, counted from 1; the paper
    leaves the range open.
    """
    values = spectrum[first - 1 : last]
    if len(values) < 2 or (values <= 0).any():
        return math.nan
    logs = np.log(np.arange(first, last + 1))
    centered = logs - logs.mean()
    return float(-(centered * np.log(values)).sum() / np.square(centered).sum())


def feature_std(unit_nD: Floats) -> float:
    """Mean standard deviation of the dimensions of unit rows, times the root of D.

    About 1 for features spread over the sphere, 0 for a single point.
    """
    return float(unit_nD.std(axis=0, ddof=1).mean() * math.sqrt(unit_nD.shape[1]))


def uniformity(unit_nD: Floats, t: float = 2.0) -> float:
    """Log of the mean of exp(-t * squared distance) over pairs of unit rows (Wang and Isola 2020).

    0 for a single point, near -2 t for a sphere of many dimensions.
    """
    total = 0.0
    squares = np.square(unit_nD).sum(axis=1)
    for start in range(0, len(unit_nD), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        distances = squares[part, None] + squares - 2 * unit_nD[part] @ unit_nD.T
        kernel = np.exp(-t * distances.clip(0.0))
        rows = np.arange(len(kernel))
        kernel[rows, rows + start] = 0.0  # not a pair
        total += float(kernel.sum())
    return math.log(total / (len(unit_nD) * (len(unit_nD) - 1)))


def mean_cosine(unit_nD: Floats) -> float:
    """Mean inner product over pairs of unit rows; 1 for a single point."""
    n = len(unit_nD)
    total = unit_nD.sum(axis=0)
    squares = float(np.square(unit_nD).sum())
    return (float(total @ total) - squares) / (n * (n - 1))


def lidar(views_nqD: Floats, *, delta: float = 1e-4, eps: float = 1e-8) -> float:
    """LiDAR: effective rank of variation between images (Thilak et al. 2023, eq. 4).

    Exponential of the entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2, where Sb is the covariance
    of the n image means and Sw that within the q views of an image, plus ``delta`` on the
    diagonal. Needs n > D. Not part of the suite, which has one view per image.
    """
    n, q, dim = views_nqD.shape
    means_nD = views_nqD.mean(axis=1)
    between = means_nD - means_nD.mean(axis=0)
    within = (views_nqD - means_nD[:, None]).reshape(-1, dim)
    sb = between.T @ between / (n - 1)
    sw = within.T @ within / (n * (q - 1)) + delta * np.eye(dim)
    values, vectors = np.linalg.eigh(sw)
    whitener = (vectors / np.sqrt(values)) @ vectors.T
    spectrum = np.linalg.eigvalsh(whitener @ sb @ whitener).clip(0.0)
    shares = spectrum / spectrum.sum() + eps
    return float(np.exp(-(shares * np.log(shares)).sum()))

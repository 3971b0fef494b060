"""Principal components of dense features as colors, the same for a set of images.

In two stages, as in the figures of DINOv2 (Oquab et al. 2023, section 7.6): the first component of
all patches separates the objects from the background, and the first three components of what is
left are red, green and blue. The sign of a component is arbitrary, so it is fixed by a rule.
Without a threshold there is no first stage: all patches are colored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dinoforge.demo.views.regions import Features

__all__ = ["ColorModel", "color_features"]


@dataclass(frozen=True)
class ColorModel:
    """Directions and ranges, fitted to some images, that color any image of the same network."""

    mean: NDArray[np.float64]  # [D], of all patches
    direction: NDArray[np.float64]  # [D], high on the foreground
    low: float  # of that direction over all patches
    high: float
    threshold: float | None  # share of the range above which a patch is foreground; None: all are
    center: NDArray[np.float64]  # [D], of the foreground
    components: NDArray[np.float64]  # [3, D]
    bottom: NDArray[np.float64]  # [3], of the components over the foreground
    top: NDArray[np.float64]  # [3]
    explained: NDArray[np.float64]  # [3], share of the variance of the foreground in a component

    def foreground(self, features: Features) -> NDArray[np.bool_]:
        """Return which patches ``[...]`` of ``[..., D]`` are foreground."""
        if self.threshold is None:
            return np.ones(features.shape[:-1], bool)
        along = (features - self.mean) @ self.direction
        return (along - self.low) / max(self.high - self.low, 1e-12) > self.threshold

    def color(self, features_XYD: Features) -> NDArray[np.float64]:
        """Return colors ``[X, Y, 3]`` from 0 to 1; the background is 0."""
        along = (features_XYD - self.center) @ self.components.T
        colors = (along - self.bottom) / np.maximum(self.top - self.bottom, 1e-12)
        return np.clip(colors, 0, 1) * self.foreground(features_XYD)[..., None]


def color_features(
    images: Sequence[Features],
    *,
    threshold: float | None = 0.5,
    foreground: Sequence[NDArray[np.bool_]] | None = None,
) -> ColorModel:
    """Fit colors to dense features ``[X, Y, D]`` of one image or several, of any sizes.

    Which end of the first component is foreground: the one on which the patches of ``foreground``,
    ``[X, Y]`` per image, are higher than the others; without them, the one on which the borders of
    the images are lower than their insides. Of the other components, the loading of the largest
    magnitude is positive. With a ``threshold`` of None every patch is foreground.

    Raises
    ------
    ValueError
        If fewer than three patches are foreground.
    """
    patches = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    patches = patches.astype(np.float64)
    inside = [_inside(image) for image in images] if foreground is None else foreground
    is_inside = np.concatenate([mask.ravel() for mask in inside]).astype(bool)
    mean = patches.mean(axis=0)
    direction = _components(patches - mean, 1)[0][0]
    along = (patches - mean) @ direction
    has_inside = 0 < is_inside.mean() < 1  # images two patches high have none
    if has_inside and along[is_inside].mean() < along[~is_inside].mean():
        direction, along = -direction, -along
    low, high = float(along.min()), float(along.max())
    kept = patches
    if threshold is not None:
        kept = patches[(along - low) / max(high - low, 1e-12) > threshold]
    if len(kept) < 3:
        raise ValueError(f"{len(kept)} patches above a threshold of {threshold}, at least 3 needed")
    center = kept.mean(axis=0)
    components, explained = _components(kept - center, 3)
    largest = np.abs(components).argmax(axis=1)
    components *= np.sign(components[np.arange(len(components)), largest])[:, None]
    projected = (kept - center) @ components.T
    bottom, top = projected.min(axis=0), projected.max(axis=0)
    ranges = (bottom, top, explained)
    return ColorModel(mean, direction, low, high, threshold, center, components, *ranges)


def _inside(features_XYD: Features) -> NDArray[np.bool_]:
    """Return which patches are further than an eighth of the sides from the border."""
    rows, columns = features_XYD.shape[:2]
    mask = np.zeros((rows, columns), bool)
    top, left = max(rows // 8, 1), max(columns // 8, 1)
    mask[top:-top, left:-left] = True
    return mask


def _components(
    centered_nD: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the first principal directions ``[count, D]`` and their shares of the variance."""
    values, directions = np.linalg.eigh(centered_nD.T @ centered_nD)
    shares = values.clip(0) / max(values.clip(0).sum(), np.finfo(np.float64).tiny)
    first = np.ascontiguousarray(directions[:, ::-1][:, :count].T)
    return first, shares[::-1][:count]

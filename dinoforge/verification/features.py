"""Local features of a picture and of its mirror image: SIFT on a gray picture of fixed size.

SIFT: Lowe 2004. Root-normalized descriptors (divided by their sum, square root): Arandjelovic and
Zisserman 2012, section 3. Their Euclidean distance is the Hellinger distance of the histograms.

Shapes: n keypoints, at most `MAX_POINTS`; h, w of the gray picture; H, W of the picture itself.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.packages import import_extra

__all__ = [
    "MAX_POINTS",
    "SHORT_SIDE",
    "LocalFeatures",
    "extract_features",
    "features_version",
    "is_decisive",
    "is_verifiable",
    "mirrored",
    "mirrored_descriptors",
    "mirrored_points",
    "opencv",
    "pack_features",
    "unpack_features",
]

SHORT_SIDE, LONG_SIDE = 200, 480  # pixels of the gray picture
MAX_POINTS = 300
_CONTRAST, _EDGE = 0.01, 12.0  # thresholds of SIFT; lower contrast than usual: blurred copies
_VERSION = "2"

# A root-normalized descriptor has norm 1 and components up to about 0.3: of 512 levels, 256 are
# enough. Products of two are whole numbers below 2^24, so float32 computes them exactly.
LEVELS = 512

# Below these, a picture cannot be verified; measured in docs/decisions/0020-verification.md.
MIN_POINTS = 12
DECISIVE_POINTS = 30  # with fewer, some copies are not recognized
MIN_SHORT_SIDE = 48  # pixels of the picture itself

_CELLS, _DIRECTIONS = 4, 8  # of a descriptor: 4 x 4 cells with 8 directions


@dataclass(frozen=True)
class LocalFeatures:
    """Keypoints of one picture, the strongest first, and the gray picture that they were found in.

    Attributes
    ----------
    points : ndarray
        float32 ``[n, 4]``: x, y, size in pixels of ``gray``, angle in radians (from x toward y).
    descriptors : ndarray
        uint8 ``[n, 128]``, root-normalized SIFT times 512.
    gray : ndarray
        uint8 ``[h, w]``: short side 200 pixels, long side at most 480.
    height, width : int
        Pixels of the picture itself.
    """

    points: NDArray[np.float32]
    descriptors: NDArray[np.uint8]
    gray: NDArray[np.uint8]
    height: int
    width: int


def extract_features(pixels: NDArray[np.uint8]) -> LocalFeatures:
    """Find the keypoints of an RGB picture, uint8 ``[H, W, 3]``.

    A picture that is too small to be verified has none, and no gray picture.

    Raises
    ------
    UsageError
        If OpenCV is not installed.
    """
    height, width = pixels.shape[:2]
    no_points, no_descriptors = np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8)
    if min(height, width) < MIN_SHORT_SIDE:
        return LocalFeatures(no_points, no_descriptors, np.zeros((0, 0), np.uint8), height, width)
    gray = _gray_picture(pixels)
    keypoints, values = _detector().detectAndCompute(gray, None)
    if not keypoints:
        return LocalFeatures(no_points, no_descriptors, gray, height, width)
    points = np.array(
        [(*point.pt, point.size, math.radians(point.angle)) for point in keypoints], np.float32
    )
    strength = np.array([point.response for point in keypoints], np.float32)
    # By strength, then by place: whole pictures of one texture have many equal strengths.
    order = np.lexsort((points[:, 3], points[:, 0], points[:, 1], -strength))[:MAX_POINTS]
    return LocalFeatures(
        np.ascontiguousarray(points[order]), _root_normalized(values[order]), gray, height, width
    )


def mirrored(features: LocalFeatures) -> LocalFeatures:
    """Return the features of the mirror image (left and right swapped), without computing any."""
    return replace(
        features,
        points=mirrored_points(features),
        descriptors=mirrored_descriptors(features.descriptors),
        gray=np.ascontiguousarray(features.gray[:, ::-1]),
    )


def mirrored_points(features: LocalFeatures) -> NDArray[np.float32]:
    """Return the keypoints ``[n, 4]`` of the mirror image."""
    points = features.points.copy()
    points[:, 0] = features.gray.shape[1] - 1 - points[:, 0]
    points[:, 3] = np.float32(math.pi) - points[:, 3]
    return points


def mirrored_descriptors(descriptors: NDArray[Any]) -> NDArray[Any]:
    """Return the descriptors ``[n, 128]`` that the mirrored picture has at the same keypoints."""
    return descriptors.take(_mirror_order(), axis=1)


def is_verifiable(features: LocalFeatures) -> bool:
    """Say whether a picture has enough detail to be verified: keypoints, and pixels of its own."""
    is_large = min(features.height, features.width) >= MIN_SHORT_SIDE
    return is_large and len(features.points) >= MIN_POINTS


def is_decisive(features: LocalFeatures) -> bool:
    """Say whether a verifiable picture has so much detail that its copies are recognized."""
    return is_verifiable(features) and len(features.points) >= DECISIVE_POINTS


def features_version() -> str:
    """Name everything that features depend on: parameters and the version of OpenCV."""
    parameters = (SHORT_SIDE, LONG_SIDE, MIN_SHORT_SIDE, MAX_POINTS, _CONTRAST, _EDGE, LEVELS)
    return f"{_VERSION} {' '.join(map(str, parameters))} opencv {opencv().__version__}"


def pack_features(features: Sequence[LocalFeatures]) -> dict[str, NDArray[Any]]:
    """Join the features of many pictures into a few arrays, to be stored as ``.npy`` files.

    ``points``, ``descriptors`` and ``gray`` hold those of all pictures one after the other;
    ``shapes``, int32 ``[pictures, 4]``, the height and width of each gray picture and of each
    picture; ``point_offsets`` and ``gray_offsets``, int64 ``[pictures + 1]``, where each begins.
    """
    empty = LocalFeatures(
        np.zeros((0, 4), np.float32), np.zeros((0, 128), np.uint8), np.zeros((0, 0), np.uint8), 0, 0
    )
    parts = [empty, *features]
    shapes = [(*part.gray.shape, part.height, part.width) for part in features]
    return {
        "points": np.concatenate([part.points for part in parts]),
        "descriptors": np.concatenate([part.descriptors for part in parts]),
        "gray": np.concatenate([part.gray.reshape(-1) for part in parts]),
        "shapes": np.array(shapes, np.int32).reshape(-1, 4),
        "point_offsets": np.cumsum([len(part.points) for part in parts], dtype=np.int64),
        "gray_offsets": np.cumsum([part.gray.size for part in parts], dtype=np.int64),
    }


def unpack_features(arrays: Mapping[str, NDArray[Any]], row: int) -> LocalFeatures:
    """Return the features of one picture of `pack_features`, as views of the arrays."""
    points = slice(*arrays["point_offsets"][row : row + 2])
    gray = slice(*arrays["gray_offsets"][row : row + 2])
    gray_height, gray_width, height, width = map(int, arrays["shapes"][row])
    return LocalFeatures(
        arrays["points"][points],
        arrays["descriptors"][points],
        arrays["gray"][gray].reshape(gray_height, gray_width),
        height,
        width,
    )


@lru_cache(maxsize=1)
def opencv() -> Any:
    """Import OpenCV and give it one thread: a partition has one core."""
    cv2 = import_extra(
        "cv2",
        extra="verify",
        where="verification of duplicates",
        note=", or set duplicates.verify.mode=none",
    )
    cv2.setNumThreads(1)
    return cv2


@lru_cache(maxsize=1)
def _detector() -> Any:
    cv2 = opencv()
    # The last: otherwise places are off by a quarter of a pixel.
    return cv2.SIFT_create(MAX_POINTS, 3, _CONTRAST, _EDGE, 1.6, cv2.CV_8U, True)


def _gray_picture(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    cv2 = opencv()
    height, width = pixels.shape[:2]
    scale = min(SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    size = tuple(max(8, round(scale * side)) for side in (width, height))
    gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    if size == (width, height):
        return gray
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized: NDArray[np.uint8] = cv2.resize(gray, size, interpolation=method)
    return resized


def _root_normalized(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    wide = values.astype(np.float32)
    wide /= np.maximum(wide.sum(axis=1, keepdims=True), 1)
    return np.minimum(np.rint(LEVELS * np.sqrt(wide)), 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _mirror_order() -> NDArray[np.int64]:
    """Order of the components after mirroring: rows of cells reversed, direction o to -o."""
    at = np.arange(_CELLS * _CELLS * _DIRECTIONS).reshape(_CELLS, _CELLS, _DIRECTIONS)
    return at[::-1, :, -np.arange(_DIRECTIONS) % _DIRECTIONS].reshape(-1)

"""Region and boundary scores of masks, J and F, as DAVIS computes them (Perazzi et al. 2016).

Equal to the published scorer (davis2017-evaluation) to rounding, except that the bins of the decay
do not overflow in sequences of more than 255 frames. Units to resample are sequences: `pool` the
objects of the drawn ones.

Shapes: T frames, X rows, Y columns; leading axes (objects, frames) are free.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError

__all__ = ["VOID", "ObjectScores", "boundary_f", "decay", "jaccard", "pool", "score_sequence"]

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Mask = NDArray[Any]  # nonzero: inside

VOID = 255  # label of pixels without an annotation
BOUNDARY_TOLERANCE = 0.008  # of the diagonal; rounded up to whole pixels
_GROUP = 4  # pairs of masks that share a byte per pixel


@dataclass(frozen=True)
class ObjectScores:
    """J and F of one object in every frame that counts, ``[T]``."""

    j: Floats
    f: Floats


def jaccard(truth: Mask, predicted: Mask, void: Mask | None = None) -> Floats:
    """Compute intersection over union of masks ``[..., X, Y]``: ``[...]``, 1 if both are empty.

    Pixels of ``void`` are in neither set. Leading axes broadcast.
    """
    truth, predicted = _inside(truth, predicted, void)
    pairs = np.broadcast_arrays(truth, predicted)
    shape = pairs[0].shape[:-2]
    common, total = np.array([_areas(*(m[at] for m in pairs)) for at in np.ndindex(shape)]).T
    union = total - common
    return np.where(union == 0, 1.0, common / np.maximum(union, 1)).reshape(shape)


def _inside(truth: Mask, predicted: Mask, void: Mask | None) -> tuple[Bools, Bools]:
    truth, predicted = np.asarray(truth, np.bool_), np.asarray(predicted, np.bool_)
    if void is None:
        return truth, predicted
    valid = ~np.asarray(void, np.bool_)
    return truth & valid, predicted & valid


def _areas(truth_XY: Bools, predicted_XY: Bools) -> tuple[int, int]:
    """Count the pixels in both masks, and the sum of the two counts; one frame fits the cache."""
    total = np.count_nonzero(truth_XY) + np.count_nonzero(predicted_XY)
    return int(np.count_nonzero(truth_XY & predicted_XY)), int(total)


def boundary_f(
    truth: Mask, predicted: Mask, void: Mask | None = None, *, tolerance: float = BOUNDARY_TOLERANCE
) -> Floats:
    """Compute the F-measure between the boundaries of masks ``[..., X, Y]``: ``[...]``.

    Precision is the share of predicted boundary pixels within reach of a true one, recall the share
    of true ones within reach of a predicted one. The reach is ``tolerance`` times the diagonal,
    rounded up to whole pixels. 1 if neither mask has a boundary (masks that fill the image have
    none), 0 if one has none. Pixels of ``void`` are outside of both masks.
    """
    truth, predicted = _inside(truth, predicted, void)
    shape, size = truth.shape[:-2], truth.shape[-2:]
    reach = math.ceil(tolerance * math.hypot(*size))
    truth, predicted = (masks.reshape(-1, *size) for masks in (truth, predicted))
    parts = (slice(at, at + _GROUP) for at in range(0, len(truth), _GROUP))
    return np.concatenate(
        [_boundary_f(truth[part], predicted[part], reach) for part in parts]
    ).reshape(shape)


def _boundary_f(truth_TXY: Bools, predicted_TXY: Bools, reach: int) -> Floats:
    """Compute F of up to `_GROUP` pairs at once, two bits of one byte per pixel for each."""
    # All boundaries are inside the masks or one pixel before them.
    outer_XY: Bools = np.any(truth_TXY, axis=0) | np.any(predicted_TXY, axis=0)
    rows = np.flatnonzero(np.any(outer_XY, axis=1))
    if not len(rows):
        return np.ones(len(truth_TXY))
    columns = np.flatnonzero(np.any(outer_XY[rows[0] : rows[-1] + 1], axis=0))
    crop = tuple(slice(max(at[0] - 1, 0), at[-1] + 2) for at in (rows, columns))
    planes = np.zeros_like(outer_XY[crop], np.uint8)
    bits = [(np.uint8(1 << 2 * pair), np.uint8(2 << 2 * pair)) for pair in range(len(truth_TXY))]
    # Products, not shifts: NumPy does not vectorize shifts of bytes (20 times slower).
    for pair, (true, predicted) in enumerate(bits):
        planes |= truth_TXY[pair][crop].view(np.uint8) * true
        planes |= predicted_TXY[pair][crop].view(np.uint8) * predicted
    edges = _boundaries(planes, reach)
    near = _dilate(edges, reach)
    marked = np.flatnonzero(edges != 0)
    edges, near = edges.ravel()[marked], near.ravel()[marked]
    # The bit of a prediction: it is near a true one; a true one is near it.
    precise, recalled = edges & near * np.uint8(2), edges * np.uint8(2) & near
    scores = []
    for true, predicted in bits:
        num_true, num_predicted = (
            np.count_nonzero(edges & true),
            np.count_nonzero(edges & predicted),
        )
        if not num_true or not num_predicted:
            scores.append(float(num_true == num_predicted))
            continue
        precision = np.count_nonzero(precise & predicted) / num_predicted
        recall = np.count_nonzero(recalled & predicted) / num_true
        total = precision + recall
        scores.append(2 * precision * recall / total if total else 0.0)
    return np.array(scores)


def _boundaries(planes_XY: NDArray[np.uint8], margin: int) -> NDArray[np.uint8]:
    """Mark pixels that differ from the next one to the right, below, or diagonally below.

    Beyond the last row and column nothing is compared. Returns ``[X, Y + margin]``; the margin is
    empty.
    """
    rows, columns = planes_XY.shape
    edges = np.zeros((rows, columns + margin), np.uint8)
    inner = planes_XY[:-1, :-1]
    differs = (inner ^ planes_XY[:-1, 1:]) | (inner ^ planes_XY[1:, :-1])
    edges[:-1, : columns - 1] = differs | (inner ^ planes_XY[1:, 1:])
    edges[-1, : columns - 1] = planes_XY[-1, :-1] ^ planes_XY[-1, 1:]
    edges[:-1, columns - 1] = planes_XY[:-1, -1] ^ planes_XY[1:, -1]
    return edges


def _dilate(edges: NDArray[np.uint8], reach: int) -> NDArray[np.uint8]:
    """Dilate every bit by a disk; ``edges`` has an empty margin of ``reach`` columns on the right.

    A disk is a stack of horizontal runs. Because of the margin, shifts of the flat array never
    reach the next row's pixels, and each is one pass over contiguous bytes.
    """
    stride = edges.shape[1]
    half_widths = [math.isqrt(reach**2 - dy**2) for dy in range(reach + 1)]
    flat = edges.ravel()
    run, result = flat.copy(), np.zeros_like(flat)
    for half_width in range(reach + 1):
        if half_width:
            run[half_width:] |= flat[:-half_width]
            run[:-half_width] |= flat[half_width:]
        for dy in (dy for dy, width in enumerate(half_widths) if width == half_width):
            shift = dy * stride
            result[shift:] |= run[: len(run) - shift]
            result[: len(run) - shift] |= run[shift:]
    return result.reshape(edges.shape)


def score_sequence(
    truth_TXY: NDArray[np.integer], predicted_TXY: NDArray[np.integer], *, name: str = "sequence"
) -> list[ObjectScores]:
    """Score the objects of a sequence, labels 1 .. the largest of the first frame.

    0 is the background, and so is 255, as in the published scorer. The first frame, whose labels
    are given, and the last one do not count. Labels that appear later are no objects.

    Raises
    ------
    UsageError
        If the masks of sequence ``name`` differ in shape, or it has fewer than 3 frames.
    """
    if truth_TXY.shape != predicted_TXY.shape:
        sizes = [" x ".join(map(str, labels.shape)) for labels in (predicted_TXY, truth_TXY)]
        raise UsageError(
            what=f"predicted masks of {sizes[0]} (frames x rows x columns), true of {sizes[1]}",
            where=name,
            do="predict every frame in the size of its annotation",
        )
    if len(truth_TXY) < 3:
        raise UsageError(
            what=f"{len(truth_TXY)} frames, of which the first and the last do not count",
            where=name,
            do="give sequences of at least 3 frames",
        )
    first = truth_TXY[0]
    num_objects = int(first.max(initial=0, where=first != VOID))
    truth_TXY, predicted_TXY = truth_TXY[1:-1], predicted_TXY[1:-1]
    scores = []
    for label in range(1, num_objects + 1):
        masks = truth_TXY == label, predicted_TXY == label
        scores.append(ObjectScores(jaccard(*masks), boundary_f(*masks)))
    return scores


def decay(values_T: Floats) -> float:
    """Return how much the last quarter of a sequence is below the first one.

    The four bins share their borders, as published.
    """
    ends = (np.round(np.linspace(1, len(values_T), 5) + 1e-10) - 1).astype(int)
    first, last = values_T[: ends[1] + 1], values_T[ends[3] :]
    return float(first.mean() - last.mean())


def pool(objects: Iterable[ObjectScores]) -> Mapping[str, float]:
    """Average over objects: each weighs the same, in whichever sequence it is.

    ``J`` and ``F`` are means over frames, ``_recall`` is the share of frames above 0.5, ``_decay``
    as in `decay`; ``J&F`` is the mean of ``J`` and ``F``. NaN without objects.
    """
    scores = list(objects)
    numbers: dict[str, float] = {}
    for metric, series in (("J", [s.j for s in scores]), ("F", [s.f for s in scores])):
        numbers[metric] = _mean([float(values.mean()) for values in series])
        numbers[f"{metric}_recall"] = _mean([float((values > 0.5).mean()) for values in series])
        numbers[f"{metric}_decay"] = _mean([decay(values) for values in series])
    return {"J&F": (numbers["J"] + numbers["F"]) / 2, **numbers}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan

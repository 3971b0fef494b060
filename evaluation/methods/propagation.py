"""Propagate the labels of a video's first frame by the similarity of patches.

The protocol of DINO on DAVIS (Caron et al. 2021, section 4.2.2; Jabri et al. 2020), without
training. Each patch takes the labels of the most similar patches among the first frame and the last
few, in a window around its place.

No ``[N, N]`` affinity is built: targets are cut into tiles, each compared with what its windows
reach. Memory grows with frames x patches and with one tile x its window.

Shapes: X rows and Y columns of patches, D width, C labels, S sources of a tile, K of them kept.
"""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.evaluation.methods.grids import resize_nearest
from dinoforge.evaluation.metrics.masks import VOID
from dinoforge.evaluation.settings import PropagationConfig

__all__ = ["label_map", "propagate", "soft_labels", "vanished_objects"]

_TILE = 12  # side of a tile of targets, patches; at 60 x 107 patches 8 and 16 are slower


def soft_labels(labels_XY: NDArray[np.integer], rows: int, columns: int) -> Tensor:
    """Sample an annotation at the centers of patches: one-hot, float32 ``[rows, columns, C]``.

    C is the largest label of the annotation, plus one for the background, which pixels without an
    annotation (255) belong to.
    """
    labels_XY = np.where(labels_XY == VOID, 0, labels_XY).astype(np.int64)
    small = torch.from_numpy(resize_nearest(labels_XY, rows, columns))
    return F.one_hot(small, int(labels_XY.max(initial=0)) + 1).float()


def vanished_objects(labels_XY: NDArray[np.integer], first_XYC: Tensor) -> list[int]:
    """List the objects of an annotation that no patch of `soft_labels` has: never predicted."""
    sampled = first_XYC.amax((0, 1)).nonzero()[:, 0].tolist()
    return sorted(set(np.unique(labels_XY).tolist()) - {0, VOID, *sampled})


def propagate(
    features: Iterable[Tensor], first_XYC: Tensor, config: PropagationConfig
) -> Iterator[Tensor]:
    """Yield the soft labels ``[X, Y, C]`` of the second frame, the third, and so on.

    ``features`` are patch features ``[X, Y, D]`` of all frames in order, any scale; ``first_XYC``
    the labels of the first frame. Soft labels are propagated further, not their maxima. Patches
    that tie with the last of ``top_k`` are used, too.
    """
    frames = iter(features)
    first_XYD = F.normalize(next(frames).float(), dim=-1)
    assert first_XYC.shape[:2] == first_XYD.shape[:2], "labels and features on one grid of patches"
    first = first_XYD, first_XYC.to(first_XYD)
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=config.last_frames)
    for frame in frames:
        target_XYD = F.normalize(frame.float(), dim=-1)
        labels_XYC = _propagate_once(target_XYD, [first, *recent], config)
        recent.append((target_XYD, labels_XYC))
        yield labels_XYC


def _propagate_once(
    target_XYD: Tensor, sources: list[tuple[Tensor, Tensor]], config: PropagationConfig
) -> Tensor:
    rows, columns, _ = target_XYD.shape
    labels_XYC = target_XYD.new_empty(rows, columns, sources[0][1].shape[-1])
    reach = config.window or max(rows, columns)
    for top in range(0, rows, _TILE):
        for left in range(0, columns, _TILE):
            tile = slice(top, min(top + _TILE, rows)), slice(left, min(left + _TILE, columns))
            near = tuple(slice(max(part.start - reach, 0), part.stop + reach) for part in tile)
            features_SD = torch.cat([features[near].flatten(0, 1) for features, _ in sources])
            labels_SC = torch.cat([labels[near].flatten(0, 1) for _, labels in sources])
            # Sources last and contiguous: `topk` along another axis takes 3 times as long.
            cosines_TS = target_XYD[tile].flatten(0, 1) @ features_SD.T
            if config.window:
                outside = _outside(tile, near, (rows, columns), reach).to(cosines_TS.device)
                cosines_TS.unflatten(1, (len(sources), -1)).masked_fill_(outside, -torch.inf)
            mixed_TC = _mix(cosines_TS, labels_SC, config)
            labels_XYC[tile] = mixed_TC.unflatten(0, labels_XYC[tile].shape[:2])
    return labels_XYC


def _outside(
    tile: tuple[slice, slice], near: tuple[slice, ...], size: tuple[int, int], reach: int
) -> Tensor:
    """Mark the pairs that are too far apart: targets x 1 x sources of one frame."""
    far = []
    for targets, sources, end in zip(tile, near, size, strict=True):
        at = torch.arange(targets.start, targets.stop)
        source_at = torch.arange(sources.start, min(sources.stop, end))
        far.append((at[:, None] - source_at).abs() > reach)
    rows, columns = far
    return (rows[:, None, :, None] | columns[None, :, None, :]).flatten(2).flatten(0, 1)[:, None]


def _mix(cosines_TS: Tensor, labels_SC: Tensor, config: PropagationConfig) -> Tensor:
    """Average the labels of the most similar sources of every target."""
    top_k = min(config.top_k, cosines_TS.shape[1])
    cosines_TK, kept_TK = cosines_TS.topk(top_k, dim=1)
    weights_TK = (cosines_TK / config.temperature).softmax(dim=1)
    mixed_TC = (weights_TK[:, None] @ labels_SC[kept_TK])[:, 0]
    last_T1 = cosines_TK[:, -1:]
    (tied,) = ((cosines_TS >= last_T1).sum(dim=1) > top_k).nonzero(as_tuple=True)
    if len(tied):
        rows = cosines_TS[tied]
        rows = rows.masked_fill(rows < last_T1[tied], -torch.inf)
        mixed_TC[tied] = (rows / config.temperature).softmax(dim=1) @ labels_SC
    return mixed_TC


def label_map(soft_XYC: Tensor, patch_size: int, height: int, width: int) -> NDArray[np.uint8]:
    """Decide the label of every pixel: uint8 ``[height, width]``.

    Bilinear upsampling to the size of the network's input, every label stretched to [0, 1], the
    largest one, nearest to the size of the annotation.
    """
    soft_1CXY = soft_XYC.permute(2, 0, 1)[None]
    soft_CXY = F.interpolate(soft_1CXY, scale_factor=float(patch_size), mode="bilinear")[0]
    low, high = soft_CXY.amin((1, 2), keepdim=True), soft_CXY.amax((1, 2), keepdim=True)
    # A constant label stays as it is, where the published code divides 0 by 0.
    stretched = torch.where(high > low, (soft_CXY - low) / (high - low), soft_CXY)
    labels = stretched.argmax(dim=0).cpu().numpy().astype(np.uint8)
    return resize_nearest(labels, height, width)

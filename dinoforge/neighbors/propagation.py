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

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["propagate"]

_TILE = 12  # side of a tile of targets, patches; at 60 x 107 patches 8 and 16 are slower


def propagate(
    features: Iterable[Tensor],
    first_XYC: Tensor,
    *,
    last_frames: int = 7,
    window: int = 12,
    top_k: int = 5,
    temperature: float = 0.1,
) -> Iterator[Tensor]:
    """Yield the soft labels ``[X, Y, C]`` of the second frame, the third, and so on.

    ``features`` are patch features ``[X, Y, D]`` of all frames in order, any scale; ``first_XYC``
    the labels of the first frame. Soft labels are propagated further, not their maxima.

    Sources are the first frame and the ``last_frames`` latest ones, at most ``window`` patches
    away (0: anywhere). The ``top_k`` most similar, of all frames together, and those that tie with
    the last of them, have weights ``exp(cosine / temperature)``. Defaults are DINO's.
    """
    frames = iter(features)
    first_XYD = F.normalize(next(frames).float(), dim=-1)
    assert first_XYC.shape[:2] == first_XYD.shape[:2], "labels and features on one grid of patches"
    first = first_XYD, first_XYC.to(first_XYD)
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=last_frames)
    for frame in frames:
        target_XYD = F.normalize(frame.float(), dim=-1)
        labels_XYC = _propagate_once(target_XYD, [first, *recent], window, (top_k, temperature))
        recent.append((target_XYD, labels_XYC))
        yield labels_XYC


def _propagate_once(
    target_XYD: Tensor,
    sources: list[tuple[Tensor, Tensor]],
    window: int,
    weighting: tuple[int, float],
) -> Tensor:
    rows, columns, _ = target_XYD.shape
    labels_XYC = target_XYD.new_empty(rows, columns, sources[0][1].shape[-1])
    reach = window or max(rows, columns)
    for top in range(0, rows, _TILE):
        for left in range(0, columns, _TILE):
            tile = slice(top, min(top + _TILE, rows)), slice(left, min(left + _TILE, columns))
            near = tuple(slice(max(part.start - reach, 0), part.stop + reach) for part in tile)
            features_SD = torch.cat([features[near].flatten(0, 1) for features, _ in sources])
            labels_SC = torch.cat([labels[near].flatten(0, 1) for _, labels in sources])
            # Sources last and contiguous: `topk` along another axis takes 3 times as long.
            cosines_TS = target_XYD[tile].flatten(0, 1) @ features_SD.T
            if window:
                outside = _outside(tile, near, (rows, columns), reach).to(cosines_TS.device)
                cosines_TS.unflatten(1, (len(sources), -1)).masked_fill_(outside, -torch.inf)
            mixed_TC = _mix(cosines_TS, labels_SC, *weighting)
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


def _mix(cosines_TS: Tensor, labels_SC: Tensor, top_k: int, temperature: float) -> Tensor:
    """Average the labels of the most similar sources of every target."""
    top_k = min(top_k, cosines_TS.shape[1])
    cosines_TK, kept_TK = cosines_TS.topk(top_k, dim=1)
    weights_TK = (cosines_TK / temperature).softmax(dim=1)
    mixed_TC = (weights_TK[:, None] @ labels_SC[kept_TK])[:, 0]
    last_T1 = cosines_TK[:, -1:]
    (tied,) = ((cosines_TS >= last_T1).sum(dim=1) > top_k).nonzero(as_tuple=True)
    if len(tied):
        rows = cosines_TS[tied]
        rows = rows.masked_fill(rows < last_T1[tied], -torch.inf)
        mixed_TC[tied] = (rows / temperature).softmax(dim=1) @ labels_SC
    return mixed_TC

"""Tokens of every patch: what dense protocols ask of a ViT, how it is extracted, how it is read.

Shapes: n images, X x Y patches per image, N = X * Y, D dimensions, H heads.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.methods.grids import frame_size
from dinoforge.evaluation.metrics.depth import kitti_benchmark_crop
from dinoforge.images import Undecodable, resize
from dinoforge.sources.image_set import ImageSet

if TYPE_CHECKING:
    from dinoforge.encoders.checkpoint import CheckpointEncoder

__all__ = ["GRIDS", "Stacked", "TokenRequest", "Tokens", "describe_tokens", "merge_requests"]

GRIDS = "grids"  # name of the array [n, 2] of patches per image, high and wide


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """Arrays of tokens that a protocol needs, and the size at which images enter the network.

    Names of arrays, B being the index of a block: ``patches-B`` (final LayerNorm applied) and
    ``raw-B``, ``[N, D]`` per image; ``cls-B`` and ``raw_cls-B``, ``[D]`` per image; of the last
    block ``keys``, ``[N, D]``, and ``attention`` of the class token, ``[N, H]``.
    """

    arrays: tuple[str, ...]
    # stretch: to `size`; short: the shorter side to `side`, the other in proportion, both whole
    # patches (`frame_size`); pad: as they are, padded with the mean color to whole patches
    fit: Literal["stretch", "short", "pad"] = "stretch"
    size: tuple[int, int] = (0, 0)  # height and width
    side: int = 0
    kitti_crop: bool = False  # the 352 x 1216 pixels of KITTI's benchmark first

    def as_json(self) -> dict[str, Any]:
        """JSON object of the request."""
        return asdict(self) | {"arrays": sorted(self.arrays), "size": list(self.size)}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "TokenRequest":
        """Inverse of `as_json`."""
        return cls(**{**row, "arrays": tuple(row["arrays"]), "size": tuple(row["size"])})

    def is_part_of(self, other: "TokenRequest") -> bool:
        """Whether ``other`` gives at least these arrays, of images of the same size."""
        return merge_requests([self, other]) == [other]


def merge_requests(requests: Sequence[TokenRequest]) -> list[TokenRequest]:
    """Ask once for all arrays that are wanted at the same size."""
    merged: dict[tuple[Any, ...], set[str]] = {}
    for request in requests:
        key = (request.fit, request.size, request.side, request.kitti_crop)
        merged.setdefault(key, set()).update(request.arrays)
    return [
        TokenRequest(
            arrays=tuple(sorted(arrays)), fit=fit, size=size, side=side, kitti_crop=kitti_crop
        )
        for (fit, size, side, kitti_crop), arrays in merged.items()
    ]


def describe_tokens(
    encoder: "CheckpointEncoder", images: ImageSet, request: TokenRequest, storage: str
) -> dict[str, NDArray[Any]]:
    """Extract the arrays of a request, those of all images joined along the first axis.

    Adds `GRIDS`; an image that does not decode has a grid of 0 x 0.
    """
    grids = np.zeros((len(images), 2), np.int64)
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in request.arrays}
    for index, pixels in _fitted(images, request, encoder.patch_size):
        grids[index] = [-(-side // encoder.patch_size) for side in pixels.shape[:2]]  # padded
        outputs = encoder.encode_patches(pixels, request.arrays)
        for name, array in outputs.items():
            rows[name].append(array.astype(storage))
    joined = {
        name: np.concatenate(parts) if parts else np.zeros((0, 0), storage)
        for name, parts in rows.items()
    }
    return {GRIDS: grids, **joined}


def _fitted(
    images: ImageSet, request: TokenRequest, patch: int
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    for index in range(len(images)):
        try:
            image = images.decode(index)
        except Undecodable:
            continue
        height, width = image.shape[:2]
        if request.kitti_crop:
            image = image[kitti_benchmark_crop(height, width, str(index))]
        if request.fit == "stretch":
            image = resize(image, request.size[1], request.size[0])
        elif request.fit == "short":
            height, width = frame_size(image.shape[0], image.shape[1], patch, short=request.side)
            image = resize(image, width, height)
        yield index, image


class Tokens:
    """Arrays of tokens on disk, by image; memory is that of what is asked for.

    ``parts`` are those of the partitions in order, each with the joined arrays of its images.
    """

    def __init__(self, parts: Sequence[dict[str, NDArray[Any]]]) -> None:
        self._parts = parts
        self.grids: NDArray[np.int64] = np.concatenate([part[GRIDS] for part in parts])
        self._part_of = np.repeat(np.arange(len(parts)), [len(part[GRIDS]) for part in parts])
        counts = [part[GRIDS].prod(axis=1) for part in parts]
        # Where the patches of an image start in its partition, and which image of it that is.
        self._starts = np.concatenate([np.cumsum(count) - count for count in counts])
        self._within = np.concatenate(
            [np.cumsum(count > 0) - (count > 0) for count in counts]  # only those that decode
        )

    def __len__(self) -> int:
        """Count the images."""
        return len(self.grids)

    def image(self, name: str, index: int) -> NDArray[Any]:
        """Return an array of one image, ``[X, Y, D]``; of class tokens ``[D]``."""
        array = self._parts[self._part_of[index]][name]
        if "cls" in name:
            return array[self._within[index]]
        rows, columns = self.grids[index]
        start = self._starts[index]
        return array[start : start + rows * columns].reshape(rows, columns, -1)

    def stacked(self, name: str, images: NDArray[np.int64]) -> "Stacked":
        """Return an array of some images on grids of one size, to be read by rows."""
        return Stacked(self, name, images)


class Stacked:
    """One array of images with equal grids, ``[n, X, Y, D]`` or ``[n, D]``, read when indexed."""

    def __init__(self, tokens: Tokens, name: str, images: NDArray[np.int64]) -> None:
        self._tokens, self._name, self._images = tokens, name, images
        self.shape: tuple[int, ...] = (len(images), *tokens.image(name, int(images[0])).shape)

    def __len__(self) -> int:
        """Count the images."""
        return len(self._images)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """Return the arrays of some rows, copied into memory."""
        chosen = self._images[rows]
        if np.ndim(chosen) == 0:
            return self._tokens.image(self._name, int(chosen))
        return np.stack([self._tokens.image(self._name, index) for index in chosen.tolist()])

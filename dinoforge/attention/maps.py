"""From an image of any size to the attention of the class token on its patches.

Shapes: H heads, X rows and Y columns of patches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dinoforge.config.ranges import Device, NonNegativeInt, Range, Workers
from dinoforge.device import resolve_device
from dinoforge.encoders.encoder import Image
from dinoforge.encoders.network import normalized
from dinoforge.encoders.stream import Work, encode_images, num_workers
from dinoforge.exports.source import Source
from dinoforge.images import DecodePolicy, Undecodable, resize

__all__ = [
    "AttentionConfig",
    "AttentionMaps",
    "Decoder",
    "Mapped",
    "UnfitImage",
    "fit_image",
    "map_each",
]

# The cost of attention grows with the square: a panorama as it is would take hours.
_MOST_PATCHES = 2**16


Decoder = Callable[[], Image]


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """What ``dinoforge attention`` checks as a recipe is checked."""

    size: NonNegativeInt = 480  # pixels of the shorter side; 0: as it is
    threshold: Annotated[float, Range(0, 1, exclude=(1,))] = 0.0  # share of the mass; 0: no masks
    smooth: bool = False
    array: bool = False  # keep the attention as ``attention.npy``, too
    device: Device = "cpu"
    workers: Workers = "auto"
    decode: DecodePolicy = field(default_factory=DecodePolicy)


class UnfitImage(Exception):  # noqa: N818 - a fact about an image, as `Undecodable`
    """An image whose size allows no map; the text has its size and the reason."""


class Mapped(NamedTuple):
    """What the network was given, uint8 ``[h, w, 3]``, and its attention, float32 ``[H, X, Y]``."""

    image: Image
    attention: NDArray[np.float32]


Numbered = tuple[int, Mapped]


def fit_image(image: Image, size: int, patch: int) -> Image:
    """Resize the shorter side to ``size`` pixels (0: keep it), crop to whole patches.

    Bicubic and antialiased; cropped at right and bottom, as DINO's visualize_attention.py does.

    Raises
    ------
    UnfitImage
        If the image is smaller than a patch, or has more than 65,536 patches.
    """
    height, width = image.shape[:2]
    scale = size / min(height, width) if size else 1.0
    new_height, new_width = (round(side * scale) for side in (height, width))
    rows, columns = new_height // patch, new_width // patch
    is_resized = (new_height, new_width) != (height, width)
    pixels = f"{new_height} x {new_width} pixels" + " after resizing" * is_resized
    if not rows * columns:
        raise UnfitImage(f"{pixels}, smaller than a patch of {patch} x {patch}")
    if rows * columns > _MOST_PATCHES:
        raise UnfitImage(f"{pixels}, more than {_MOST_PATCHES:,} patches")
    if is_resized:
        image = resize(image, new_width, new_height)
    return image[: rows * patch, : columns * patch]


class AttentionMaps:
    """The attention of the last block of a ViT: row of the class token, columns of the patches.

    Softmax over all tokens in float32; the columns of the class token and of registers are left
    out, so that a map sums to less than 1.
    """

    def __init__(self, source: Source, device: str) -> None:
        resolve_device(device)
        self._device = device
        self._model = source.backbone.model.to(device)
        self._mean, self._std = torch.tensor(source.mean), torch.tensor(source.std)
        self.patch_size = source.config.patch_size

    def of(self, image: Image) -> Mapped:
        """Map one image ``[h, w, 3]`` of whole patches."""
        pixels_1XY3 = torch.from_numpy(np.ascontiguousarray(image))[None]
        batch_13XY = normalized(pixels_1XY3, self._mean, self._std).to(self._device)
        with torch.inference_mode():
            attention_1HN = self._model.last_block(batch_13XY)["attention"]
        rows, columns = (side // self.patch_size for side in image.shape[:2])
        return Mapped(image, attention_1HN[0].unflatten(1, (rows, columns)).cpu().numpy())

    def of_each(self, groups: Iterable[Sequence[Any]]) -> Iterator[list[Numbered]]:
        """Map groups of numbered images, as `encode_images` gives them."""
        for group in groups:
            yield [(number, self.of(image)) for number, image in group]


def map_each(
    items: Iterable[tuple[int, Decoder]],
    maps: AttentionMaps,
    config: AttentionConfig,
    problems: dict[int, str],
) -> Iterator[Numbered | None]:
    """Map numbered images in order, on threads; None: it has no map, ``problems`` gets the reason.

    What the maps are does not depend on the number of threads.
    """

    def load(item: tuple[int, Decoder]) -> list[Any]:  # of a number and an image
        number, decode = item
        try:
            return [(number, fit_image(decode(), config.size, maps.patch_size))]
        except (Undecodable, UnfitImage) as bad:
            problems[number] = str(bad)
            return []

    work: Work[Any] = Work(lambda image: image, maps.of_each, on_threads=config.device == "cpu")
    workers = num_workers(config.workers)
    for one in encode_images(work, items, load, workers=workers, at_once=1):
        yield one.vectors[0] if one.vectors else None

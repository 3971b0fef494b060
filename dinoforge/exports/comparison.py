"""Compare an exported backbone, run by its library, with ours on eight images in float32.

Deep networks amplify the rounding of float32: two correct implementations may differ by more than
any fixed tolerance. Where the tolerance is exceeded, the features in float64 decide.

Shapes: B images, N patches, D width, X and Y pixels.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dinoforge.encoders.network import Transform
from dinoforge.exports.source import Source
from dinoforge.models.vit import VisionTransformer

__all__ = ["TOLERANCE", "Difference", "Tokens", "compare", "sizes"]

TOLERANCE = 1e-5  # of the root mean square of our output
_ROUNDINGS = 3  # an export may be this much further from the features in float64 than ours
# At another size than the native one, so that a batch size fixed by an export is noticed.
_SMALL_BATCH = 3


class Tokens(NamedTuple):
    """Outputs of the final LayerNorm, float32 or float64."""

    cls_BD: Tensor
    patches_BND: Tensor


@dataclass(frozen=True)
class Difference:
    """Largest difference of one output over all images of one size."""

    height: int  # pixels
    width: int
    output: str  # class_token or patch_tokens
    largest: float
    relative: float  # to the root mean square of our output
    rounding: float | None  # of our float32, relative; None: the tolerance is kept
    expected: bool  # the size is native, or the library resamples positions as the backbone does
    equal: bool  # up to the tolerance or to rounding


def sizes(side: int, patch: int) -> list[tuple[int, int]]:
    """Return height and width of the images to compare: native, and one taller and narrower."""
    return [(side, side), (side + patch, max(side // patch // 2, 1) * patch)]


@torch.inference_mode()
def compare(
    source: Source,
    load: Callable[[bool], Callable[[Tensor], Tokens]],
    images: list[NDArray[np.uint8]],
    *,
    every_size: bool,
) -> list[Difference]:
    """Compare class and patch tokens at both `sizes`, in batches of eight and of three.

    ``load`` gets True for the native size and returns the exported network; ``every_size`` states
    that it has to agree at other sizes, too.
    """
    config = source.config
    native, other = sizes(config.image_size, config.patch_size)
    differences = []
    for (height, width), batch in ((native, len(images)), (other, _SMALL_BATCH)):
        square = Transform(max(height, width), source.mean, source.std).batch(images, len(images))
        pixels = square[:, :, :height, :width].contiguous().split(batch)
        is_native = (height, width) == native
        network, expected = load(is_native), is_native or every_size
        exported = _joined([network(some) for some in pixels])
        reference = _joined([_run(source.backbone.model, some) for some in pixels])
        exact: Tokens | None = None
        for at, output in enumerate(("class_token", "patch_tokens")):
            assert reference[at].shape == exported[at].shape, output
            scale = float(reference[at].square().mean().sqrt())
            largest = _distance(exported[at], reference[at])
            rounding, equal = None, largest <= TOLERANCE * scale
            if expected and not equal:
                if exact is None:
                    double = copy.deepcopy(source.backbone.model).double()
                    exact = _joined([_run(double, some.double()) for some in pixels])
                rounding = _distance(reference[at], exact[at])
                equal = _distance(exported[at], exact[at]) <= _ROUNDINGS * rounding
                rounding /= scale
            differences.append(
                Difference(
                    height, width, output, largest, largest / scale, rounding, expected, equal
                )
            )
    return differences


def _run(model: VisionTransformer, pixels_B3XY: Tensor) -> Tokens:
    outputs = model.forward_features(pixels_B3XY)
    return Tokens(outputs["x_norm_clstoken"], outputs["x_norm_patchtokens"])


def _joined(batches: list[Tokens]) -> Tokens:
    return Tokens(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def _distance(one: Tensor, other: Tensor) -> float:
    return float((one.double() - other.double()).abs().max())

"""What a backbone sees in an image: patch features as colors, attention of the class token.

Colors are the first three principal components of the patch features of all shown images
together, one PCA a model: like colors mean like features within a model, nothing across models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.exports import exported_steps
from dinoforge.images import resize

__all__ = ["PatchMaps", "find_backbones", "map_patches", "principal_colors", "square"]


@dataclass(frozen=True)
class PatchMaps:
    """Maps of one model for the images shown, one square a patch.

    ``colors`` uint8 ``[n, h, w, 3]``; ``attention`` uint8 ``[n, h, w]``, the mean over heads,
    and ``heads`` uint8 ``[n, heads, h, w]``: each map from its least (0) to its most (255);
    ``explained`` is the share of the variance in each of the three components.
    """

    colors: NDArray[np.uint8]
    attention: NDArray[np.uint8]
    heads: NDArray[np.uint8]
    explained: tuple[float, float, float]


def find_backbones(training: Path) -> dict[str, Path]:
    """Find the exported backbones of a run: ``untrained`` (step 0) and ``trained`` (the last)."""
    steps = exported_steps(training)
    named = {}
    if 0 in steps:
        named["untrained"] = steps[0]
    if steps and max(steps) > 0:
        named["trained"] = steps[max(steps)]
    return named


def map_patches(
    backbone: Path, images: Sequence[NDArray[np.uint8]], *, side: int | None = None
) -> PatchMaps:
    """Compute the maps of one backbone.

    Parameters
    ----------
    backbone : Path
        Exported weights.
    images : sequence of ndarray
        RGB uint8 ``[H, W, 3]``, any size; the middle square is shown.
    side : int, optional
        Side of the square in pixels, a multiple of the patch size; by default 16 patches, but not
        more than twice the size the model was trained at.

    Raises
    ------
    UsageError
        If the file is no backbone.
    """
    import torch

    from dinoforge.encoders.network import normalization_of
    from dinoforge.models import load_backbone

    model, config, metadata = load_backbone(backbone)
    mean, std = np.array(normalization_of(metadata), np.float32)
    patch = config.patch_size
    side = side or patch * min(16, 2 * max(1, config.image_size // patch))
    squares = np.stack([square(image, side) for image in images]).astype(np.float32) / 255
    pixels_B3XY = np.ascontiguousarray(((squares - mean) / std).transpose(0, 3, 1, 2))
    batch = torch.from_numpy(pixels_B3XY)
    with torch.inference_mode():
        tokens_BND = model.forward_features(batch)["x_norm_patchtokens"]
        weights_BHNN = model.last_attention(batch)
    grid = side // patch
    attention_BHN = weights_BHNN[:, :, 0, -grid * grid :].double().numpy()
    heads = attention_BHN.reshape(*attention_BHN.shape[:2], grid, grid)
    colors, explained = principal_colors(tokens_BND.double().numpy())
    return PatchMaps(
        colors=colors.reshape(len(images), grid, grid, 3),
        attention=_stretched(heads.mean(axis=1)),
        heads=_stretched(heads),
        explained=explained,
    )


def principal_colors(
    tokens_BND: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
    """Color tokens by their first three principal components, over all images together.

    A component's sign is free: it is set so that its largest entry in magnitude is positive. Each
    component is stretched from its 1st to its 99th percentile.

    Returns
    -------
    colors : ndarray
        uint8 ``[B, N, 3]``.
    explained : tuple
        Share of the variance in each component.
    """
    tokens_TD = tokens_BND.reshape(-1, tokens_BND.shape[-1])
    centered_TD = tokens_TD - tokens_TD.mean(axis=0)
    covariance_DD = centered_TD.T @ centered_TD
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    first_D3 = vectors_DD[:, ::-1][:, :3]
    signs_3 = np.sign(first_D3[np.abs(first_D3).argmax(axis=0), np.arange(first_D3.shape[1])])
    scores_T3 = centered_TD @ (first_D3 * signs_3)
    low_3, high_3 = np.percentile(scores_T3, [1, 99], axis=0)
    spread_3 = np.where(high_3 > low_3, high_3 - low_3, 1.0)
    unit_T3 = np.clip((scores_T3 - low_3) / spread_3, 0, 1)
    total = max(float(values_D.clip(0).sum()), np.finfo(np.float64).tiny)
    shares = [round(max(float(v), 0.0) / total, 6) for v in values_D[::-1][:3]]
    colors = np.round(unit_T3 * 255).astype(np.uint8)
    return colors.reshape(*tokens_BND.shape[:2], 3), (shares[0], shares[1], shares[2])


def square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Cut the middle square out of an image and resize it to ``side`` pixels."""
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return resize(image[top : top + short, left : left + short], side, side, filter="bicubic")


def _stretched(maps: NDArray[np.float64]) -> NDArray[np.uint8]:
    low = maps.min(axis=(-2, -1), keepdims=True)
    high = maps.max(axis=(-2, -1), keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    return np.round((maps - low) / spread * 255).astype(np.uint8)

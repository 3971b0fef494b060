"""What a backbone sees in a few images: patch features as colors, attention of the class token.

Colors are the first three principal components of the patch features of all images together, one
PCA per model: similar colors mean similar features within a model, nothing across models.

Shapes: B images, H heads, N patch tokens, D dimensions, T = B N tokens.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.attention.drawing import stretched
from dinoforge.config import config_of
from dinoforge.errors import UsageError
from dinoforge.evaluation.report.facts import Sources
from dinoforge.evaluation.report.ledger import Ledger
from dinoforge.images import DecodePolicy, Undecodable, resize
from dinoforge.models.pooled.files import is_pooled
from dinoforge.pages.thumbnails import Thumbnail, thumbnail
from dinoforge.remote.urls import join_path
from dinoforge.runs import read_recipe, working_folders
from dinoforge.steps import exported_steps

__all__ = [
    "FeatureMaps",
    "PatchMaps",
    "find_backbones",
    "make_feature_maps",
    "map_patches",
    "principal_colors",
    "square",
]

_log = logging.getLogger(__name__)

_NUM_IMAGES = 6
_SIDE = 104  # pixels of the pictures beside the maps


@dataclass(frozen=True)
class PatchMaps:
    """Maps of one model, one value per patch.

    ``colors`` uint8 ``[B, h, w, 3]``; ``attention`` uint8 ``[B, h, w]``, the mean over heads,
    and ``heads`` uint8 ``[B, H, h, w]``: each map stretched to 0 .. 255;
    ``explained`` is the share of the variance in each of the three components.
    """

    colors: NDArray[np.uint8]
    attention: NDArray[np.uint8]
    heads: NDArray[np.uint8]
    explained: tuple[float, float, float]


@dataclass(frozen=True)
class FeatureMaps:
    """Images with the maps of each model."""

    keys: list[str]
    pictures: list[Thumbnail]
    models: dict[str, PatchMaps]
    origin: str  # what the images are: "test images", ...


def make_feature_maps(sources: Sources, ledger: Ledger | None, cache: Path) -> FeatureMaps | None:
    """Map a few images with the untrained and the trained backbone of a training run.

    Images are those of the first source that has any: test images of the evaluation, kept images
    of the curation, training images. None without an exported backbone or an image.
    """
    backbones = {} if sources.training is None else find_backbones(sources.training)
    if not backbones:
        return None
    newest = next(iter(sources.newest_evaluations()), None)
    origin, (keys, images) = "test images", _from_recipe(newest, "test", "test images", cache)
    if not images:
        origin, (keys, images) = "kept images", _from_ledger(ledger)
    if not images:
        origin = "training images"
        keys, images = _from_recipe(sources.training, "data", origin, cache)
    if not images:
        return None
    pictures = [thumbnail(square(image, _SIDE), side=_SIDE) for image in images]
    models = {name: map_patches(path, images) for name, path in backbones.items()}
    return FeatureMaps(keys, pictures, models, origin)


Chosen = tuple[list[str], list[NDArray[np.uint8]]]


def _from_recipe(run: Path | None, key: str, origin: str, cache: Path) -> Chosen:
    """Images of a run's own recipe, evenly spread."""
    recipe = {} if run is None else read_recipe(run)
    paths = recipe.get(key)
    if isinstance(paths, dict):  # of a training: of all parts of a mixture
        parts = [paths, *paths.get("parts", [])]
        paths = [path for part in parts for path in part.get("paths", [])]
    if not paths or run is None:
        return [], []
    from dinoforge.sources.image_set import open_images

    opened, reason = None, ""
    policy = config_of(DecodePolicy, recipe.get("decode", {}))
    for folder in working_folders(run):
        placed = paths if folder == Path.cwd() else [join_path(str(folder), path) for path in paths]
        try:
            pool = open_images(placed, cache=cache, policy=policy)
            opened = pool, _evenly(len(pool), pool.labels)
            break
        except (UsageError, OSError) as error:
            reason = reason or str(error)
    if opened is None:
        _log.warning("no feature maps of the %s: %s", origin, reason)
        return [], []
    pool, order = opened
    names = pool.table.column("key").to_pylist()
    keys, images = [], []
    for at in order:
        try:
            images.append(pool.decode(at))
        except Undecodable:
            continue
        keys.append(names[at])
    return keys, images


def _from_ledger(ledger: Ledger | None) -> Chosen:
    """Kept images of a curation, evenly spread."""
    keys, images = [], []
    if ledger is not None:
        kept = np.flatnonzero(ledger["decision"] == "kept")
        for at in kept[_evenly(len(kept), ledger["label"][kept])].tolist():
            image = ledger.image(int(ledger["image_id"][at]))
            if image is not None:
                keys.append(str(ledger["key"][at]))
                images.append(image)
    return keys, images


def _evenly(num: int, labels: NDArray[np.integer]) -> list[int]:
    """Positions spread over the classes (where known) and inside the whole order."""
    order = np.lexsort((np.arange(num), labels))
    middle = (np.arange(min(num, _NUM_IMAGES)) + 0.5) * num / max(1, min(num, _NUM_IMAGES))
    return [int(order[int(at)]) for at in middle]


def find_backbones(training: Path) -> dict[str, Path]:
    """Find the exported ViTs of a run: ``untrained`` (step 0) and ``trained`` (the last)."""
    steps = exported_steps(training)
    named = {"untrained": steps.get(0), "trained": steps[max(steps)] if any(steps) else None}
    files = {name: file for name, file in named.items() if file is not None}
    return {name: file for name, file in files.items() if not is_pooled(file)}


def map_patches(
    backbone: Path, images: Sequence[NDArray[np.uint8]], *, side: int | None = None
) -> PatchMaps:
    """Compute the maps of one backbone for the central squares of RGB images ``[H, W, 3]``.

    ``side`` is the side of the squares in pixels, a multiple of the patch size; by default 16
    patches, at most twice the size of the training images.

    Raises
    ------
    UsageError
        If the file is not a backbone.
    """
    import torch

    from dinoforge.encoders.network import normalization_of
    from dinoforge.models.weights import load_backbone

    model, config, metadata = load_backbone(backbone)
    mean, std = np.array(normalization_of(metadata, str(backbone)), np.float32)
    patch = config.patch_size
    side = side or patch * min(16, 2 * max(1, config.image_size // patch))
    squares = np.stack([square(image, side) for image in images]).astype(np.float32) / 255
    pixels_B3XY = ((squares - mean) / std).transpose(0, 3, 1, 2)
    batch = torch.from_numpy(np.ascontiguousarray(pixels_B3XY))
    with torch.inference_mode():
        tokens_BND = model.forward_features(batch)["x_norm_patchtokens"]
        weights_BHNN = model.last_attention(batch)
    grid = side // patch
    attention_BHN = weights_BHNN[:, :, 0, -grid * grid :].double().numpy()
    heads = attention_BHN.reshape(*attention_BHN.shape[:2], grid, grid)
    colors, explained = principal_colors(tokens_BND.double().numpy())
    return PatchMaps(
        colors=colors.reshape(len(images), grid, grid, 3),
        attention=stretched(heads.mean(axis=1)),
        heads=stretched(heads),
        explained=explained,
    )


def principal_colors(
    tokens_BND: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
    """Color tokens by their first three principal components, over all images together.

    A component has no sign of its own: its entry of largest magnitude is made positive. Each
    component is clipped to its 1st and 99th percentile and stretched. Returns colors, uint8
    ``[B, N, 3]``, and the share of the variance in each component.
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
    """Crop the central square of an image and resize it to ``side`` pixels."""
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return resize(image[top : top + short, left : left + short], side, side, filter="bicubic")

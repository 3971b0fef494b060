"""What a backbone sees in a few images: patch features as colors, attention of the class token.

Colors are the first three principal components of the patch features of all images together, one
PCA per model: similar colors mean similar features within a model, nothing across models.

Shapes: B images, X rows and Y columns of patches, N = X Y, H heads, D dimensions.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.attention.drawing import stretched
from dinoforge.config import config_of
from dinoforge.demo.views import color_features, draw_colors
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
    "color_patches",
    "find_backbones",
    "make_feature_maps",
    "map_patches",
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
    features_BND = tokens_BND.double().numpy()
    colors, explained = color_patches(features_BND.reshape(len(images), grid, grid, -1))
    return PatchMaps(
        colors=colors,
        attention=stretched(heads.mean(axis=1)),
        heads=stretched(heads),
        explained=explained,
    )


def color_patches(
    features_BXYD: NDArray[np.float64],
) -> tuple[NDArray[np.uint8], tuple[float, float, float]]:
    """Color patches by their first three principal components, over all images together.

    Returns colors, uint8 ``[B, X, Y, 3]``, and the share of the variance in each component.
    """
    model = color_features(list(features_BXYD), threshold=None)
    one, two, three = np.round(model.explained, 6).tolist()
    return draw_colors(model.color(features_BXYD)), (one, two, three)


def square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Crop the central square of an image and resize it to ``side`` pixels."""
    height, width = image.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    return resize(image[top : top + short, left : left + short], side, side, filter="bicubic")

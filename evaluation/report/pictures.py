"""Pictures of a report: which images the feature maps show, and every thumbnail it needs."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dinoforge.errors import UsageError
from dinoforge.evaluation.report.collect import Sources
from dinoforge.evaluation.report.ledger import Ledger
from dinoforge.evaluation.report.patch_maps import PatchMaps, find_backbones, map_patches, square
from dinoforge.evaluation.report.provenance import read_config
from dinoforge.images import Undecodable
from dinoforge.pages import Thumbnail, pixel_map, thumbnail

__all__ = ["FeatureMaps", "ModelMaps", "make_feature_maps"]

_log = logging.getLogger(__name__)

_NUM_IMAGES = 6
_SIDE = 104  # pixels of the pictures beside the maps


@dataclass(frozen=True)
class ModelMaps:
    """Maps of one model, one entry an image shown."""

    model: str
    colors: list[Thumbnail]
    attention: list[Thumbnail]
    heads: list[list[Thumbnail]]
    explained: tuple[float, float, float]


@dataclass(frozen=True)
class FeatureMaps:
    """Images with the maps of each model."""

    keys: list[str]
    pictures: list[Thumbnail]
    models: list[ModelMaps]
    origin: str  # what the images are: "test images", ...


def make_feature_maps(sources: Sources, ledger: Ledger | None, cache: Path) -> FeatureMaps | None:
    """Show a few images through the untrained and the trained backbone of a training run.

    None when there is no exported backbone or no image.
    """
    backbones = {} if sources.training is None else find_backbones(sources.training)
    if not backbones:
        return None
    for choose in _choosers(sources, ledger, cache):
        keys, images, origin = choose()
        if images:
            break
    else:
        return None
    models = [_maps(name, map_patches(path, images)) for name, path in backbones.items()]
    pictures = [thumbnail(square(image, _SIDE), side=_SIDE) for image in images]
    return FeatureMaps(keys, pictures, models, origin)


Chosen = tuple[list[str], list[NDArray[np.uint8]], str]


def _choosers(
    sources: Sources, ledger: Ledger | None, cache: Path
) -> Sequence[Callable[[], Chosen]]:
    return (
        lambda: _from_recipe(
            next(iter(sources.newest_evaluations()), None), "test", "test images", cache
        ),
        lambda: _from_ledger(ledger),
        lambda: _from_recipe(sources.training, "data", "training images", cache),
    )


def _from_recipe(run: Path | None, key: str, origin: str, cache: Path) -> Chosen:
    """Images of a run's own recipe, evenly spread."""
    recipe = {} if run is None else read_config(run)
    paths = recipe.get(key)
    if isinstance(paths, dict):
        paths = paths.get("paths")
    if not paths:
        return [], [], origin
    from dinoforge.sources import open_images

    try:
        found = open_images(paths, cache=cache)
    except (UsageError, OSError) as error:
        _log.warning("no feature maps of the %s: %s", origin, error)
        return [], [], origin
    names = found.table.column("key").to_pylist()
    keys, images = [], []
    for at in _evenly(len(found), found.labels):
        try:
            images.append(found.decode(at))
        except Undecodable:
            continue
        keys.append(names[at])
    return keys, images, origin


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
    return keys, images, "kept images"


def _evenly(num: int, labels: NDArray[np.integer]) -> list[int]:
    """Positions spread over the classes (where they are known) and inside the whole order."""
    order = np.lexsort((np.arange(num), labels))
    middle = (np.arange(min(num, _NUM_IMAGES)) + 0.5) * num / max(1, min(num, _NUM_IMAGES))
    return [int(order[int(at)]) for at in middle]


def _maps(model: str, maps: PatchMaps) -> ModelMaps:
    return ModelMaps(
        model,
        [pixel_map(image) for image in maps.colors],
        [pixel_map(image) for image in maps.attention],
        [[pixel_map(head) for head in image] for image in maps.heads],
        maps.explained,
    )

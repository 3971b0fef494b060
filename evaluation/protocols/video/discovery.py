"""One box per image without training: LOST and TokenCut, scored by CorLoc."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.metrics.boxes import is_localized
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.protocols.video.pictures import (
    Picture,
    pictures_of,
    pictures_outcome,
    stop_without_objects,
    trivial_boxes,
    units_of,
)
from dinoforge.evaluation.settings import DiscoveryConfig, FeatureKind
from dinoforge.evaluation.stages.protocol import Task, TruthStage, Units
from dinoforge.evaluation.tables import Items
from dinoforge.evaluation.tokens import TokenRequest

if TYPE_CHECKING:
    from dinoforge.evaluation.methods.discovery import Discovery

__all__ = ["DiscoveryStage"]

_NAMES = {"lost": "LOST", "tokencut": "TokenCut"}


class DiscoveryStage(TruthStage):
    """Every method on every kind of features; without a network the whole image, a center box."""

    name = "discovery"
    number = 62
    keys = ("discovery", "device")
    request_keys = ("discovery",)

    def request(
        self,
        config: EvaluationConfig,
        model: Model,
        items: Items,  # noqa: ARG002
    ) -> TokenRequest:
        """Ask for keys or tokens of the last block."""
        settings = config.discovery
        arrays = tuple(dict.fromkeys(_array(kind, model) for kind in settings.features))
        if not settings.side:
            return TokenRequest(arrays=arrays, fit="pad")
        return TokenRequest(arrays=arrays, fit="short", side=max(settings.side, model.patch_size))

    def units(self, task: Task) -> Units:
        """Resample videos, or images."""
        return units_of(task)

    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Compare a box per image with those of its objects."""
        settings = config.discovery
        pictures = pictures_of(task, settings.every)
        truths = [picture.read_boxes() for picture in pictures]
        stop_without_objects(task, [len(boxes) > 0 for boxes, _ in truths])
        outcomes = []
        for kind in settings.features:
            regions: dict[str, list[Discovery]] = {method: [] for method in settings.methods}
            scores: dict[str, list[float]] = {method: [] for method in settings.methods}
            for picture, (boxes, size) in zip(pictures, truths, strict=True):
                region_of = _discover(task, picture, kind, settings) if len(boxes) else {}
                for method in settings.methods:
                    score = np.nan
                    if method in region_of:
                        box = _pixel_box(region_of[method], task.model.patch_size, size, settings)
                        score = float(is_localized(box, boxes))
                        regions[method].append(region_of[method])
                    scores[method].append(score)
            for method in settings.methods:
                facts = _facts(regions[method], settings, method)
                facts |= {"features": f"{_NAMES[method]}, {kind}", "every": settings.every}
                facts |= {"side": settings.side, "patch_size": task.model.patch_size}
                outcomes.append(
                    pictures_outcome(task, self.name, "corloc", pictures, scores[method], **facts)
                )
        return outcomes

    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure the box of the whole image, and a centered one."""
        pictures = pictures_of(task, config.discovery.every)
        scores: dict[str, list[float]] = {}
        for picture in pictures:
            boxes, size = picture.read_boxes()
            for name, box in trivial_boxes(*size).items():
                score = float(is_localized(box, boxes)) if len(boxes) else np.nan
                scores.setdefault(name, []).append(score)
        return [
            pictures_outcome(task.of(name), self.name, "corloc", pictures, some, baseline=True)
            for name, some in scores.items()
        ]


def _array(kind: FeatureKind, model: Model) -> str:
    return f"patches-{model.depth - 1}" if kind == "tokens" else "keys"


def _discover(
    task: Task, picture: Picture, kind: FeatureKind, settings: DiscoveryConfig
) -> "dict[str, Discovery]":
    """Find one region by every method."""
    from dinoforge.evaluation.methods.discovery import choose_features, lost, tokencut

    assert task.tokens is not None, "a network gives tokens"
    array = task.tokens.image(_array(kind, task.model), picture.row).astype(np.float32)
    features = choose_features(kind, array, array)
    return {
        method: lost(features, settings.lost)
        if method == "lost"
        else tokencut(features, settings.tokencut)
        for method in settings.methods
    }


def _pixel_box(
    region: "Discovery", patch: int, size: tuple[int, int], settings: DiscoveryConfig
) -> np.ndarray:
    """Return the box around a region in pixels of the image of a size (height, width)."""
    from dinoforge.evaluation.methods.discovery import pixel_box

    if not settings.side:
        return np.array(pixel_box(region.mask_XY, patch, *size), np.float64)
    height, width = (side * patch for side in region.mask_XY.shape)
    box = np.array(pixel_box(region.mask_XY, patch, height, width), np.float64)
    return box * np.tile([size[1] / width, size[0] / height], 2)


def _facts(
    regions: "Sequence[Discovery]", settings: DiscoveryConfig, method: str
) -> dict[str, Any]:
    """Return settings of a method, and on how many images its graph carries no information."""
    if method == "lost":
        own: dict[str, Any] = {"k_patches": settings.lost.k_patches}
    else:
        own = {"tau": settings.tokencut.tau, "epsilon": settings.tokencut.epsilon}
    return {
        **own,
        "degenerate": sum(region.is_degenerate for region in regions),
        "share_linked": float(np.mean([region.share_linked for region in regions])),
    }

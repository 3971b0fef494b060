"""Attention of the class token against masks of objects, head by head."""

from typing import Any

import numpy as np

from dinoforge.attention.masks import attention_masks
from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.methods.attention_masks import combine_heads, score_heads
from dinoforge.evaluation.metrics.masks import jaccard
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.protocols.video.pictures import (
    pictures_of,
    pictures_outcome,
    stop_without_objects,
    trivial_boxes,
    units_of,
)
from dinoforge.evaluation.stages.protocol import Task, TruthStage, Units
from dinoforge.evaluation.tables import Items
from dinoforge.evaluation.tokens import TokenRequest

__all__ = ["AttentionStage"]


class AttentionStage(TruthStage):
    """The best head of every image, and one head for all; both are chosen by the truth."""

    name = "attention"
    number = 61
    keys = ("attention", "device")
    request_keys = ("attention",)

    def request(
        self,
        config: EvaluationConfig,
        model: Model,
        items: Items,  # noqa: ARG002
    ) -> TokenRequest:
        """Ask for the attention of the class token in the last block."""
        side = max(config.attention.side, model.patch_size)
        return TokenRequest(arrays=("attention",), fit="short", side=side)

    def units(self, task: Task) -> Units:
        """Resample videos, or images."""
        return units_of(task)

    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Compare the masks of all heads with the objects of every image."""
        settings, tokens = config.attention, task.tokens
        assert tokens is not None, "a network gives tokens"
        pictures = pictures_of(task, settings.every)
        rows = []
        for picture in pictures:
            truth, void = picture.read_mask()
            attention_HXY = np.moveaxis(tokens.image("attention", picture.row), -1, 0)
            masks_HXY = attention_masks(attention_HXY.astype(np.float32), mass=settings.mass)
            scores_H = score_heads(masks_HXY, truth, void)
            rows.append(scores_H if truth.any() else np.full(len(scores_H), np.nan))
        scores_nH = np.stack(rows)
        has_object = ~np.isnan(scores_nH[:, 0])
        stop_without_objects(task, has_object.tolist())
        chosen = combine_heads(scores_nH[has_object])
        facts: dict[str, Any] = {
            "every": settings.every,
            "mass": settings.mass,
            "side": settings.side,
        }
        facts |= {"patch_size": task.model.patch_size, "heads": scores_nH.shape[1]}
        outcomes = []
        for name, of_chosen, more in (
            ("best head per image", chosen.best, {}),
            ("one head for all", chosen.one_head, {"head": chosen.head}),
        ):
            scores = np.full(len(pictures), np.nan)
            scores[has_object] = of_chosen
            facts |= {"features": name, "selection": "test-peek", **more}
            outcomes.append(pictures_outcome(task, self.name, "jaccard", pictures, scores, **facts))
        return outcomes

    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure the whole image and a centered box as masks."""
        pictures = pictures_of(task, config.attention.every)
        scores: dict[str, list[float]] = {}
        for picture in pictures:
            truth, void = picture.read_mask()
            for name, (left, top, right, bottom) in trivial_boxes(*truth.shape).items():
                filled = np.zeros(truth.shape, np.bool_)
                filled[top:bottom, left:right] = True
                score = float(jaccard(truth, filled, void)) if truth.any() else np.nan
                scores.setdefault(name, []).append(score)
        return [
            pictures_outcome(task.of(name), self.name, "jaccard", pictures, some, baseline=True)
            for name, some in scores.items()
        ]

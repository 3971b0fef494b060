"""Linear heads: DINOv2's grid in one optimization, one head chosen; DINO v1's single head."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import Rows, VectorRequest
from dinoforge.evaluation.metrics.classification import most_likely
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.protocols.classification import can_train, grade, test_rows
from dinoforge.evaluation.settings import LinearConfig
from dinoforge.evaluation.stages.protocol import VectorStage
from dinoforge.evaluation.tables import Items

if TYPE_CHECKING:
    from torch import Tensor

    from dinoforge.evaluation.methods.linear_choice import Choice, Images
    from dinoforge.evaluation.methods.linear_grid import Views

__all__ = ["LinearStage", "LinearV1Stage"]


class LinearStage(VectorStage):
    """Linear heads on class tokens and patch means, or on the only vector of other encoders."""

    name = "linear"
    number = 33
    keys = ("linear", "linear_choice", "device")
    request_keys = ("linear",)

    def settings(self, config: EvaluationConfig) -> LinearConfig:
        """Return the section of this protocol."""
        return config.linear

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the model is a network and the images have classes."""
        return super().suits(model, items) and not model.is_pixels

    def request(self, config: EvaluationConfig, model: Model, items: Items) -> VectorRequest:
        """Ask for the class tokens of the last blocks of a ViT."""
        blocks = max(self.settings(config).blocks) if model.is_vit else 1
        views = self.settings(config).views
        return VectorRequest(blocks, boxes=items.has_boxes, views=views)

    def num_views(self, config: EvaluationConfig) -> int:
        """Return how many augmented views the heads are trained on."""
        return self.settings(config).views

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Train the heads with every seed, choose one of each, and measure it."""
        import torch

        if not can_train(measured, "linear probe"):
            return []
        bank, test = measured.labeled().bank, measured.test
        classes = np.unique(bank.labels)
        choices = self._choose(measured, bank, classes, config)
        slots = torch.from_numpy(_slots(test))
        own = measured.gradings[0].rows
        outcomes = []
        for grading in measured.gradings:
            asked = slots[test_rows(test, grading)].to(measured.device)
            scores = [choice.probe.scores(asked).cpu().numpy() for choice in choices]
            facts = _facts(choices, len(measured.views))
            selection = choices[0].selection
            if selection == "test-peek" and not np.isin(grading.rows, own).any():
                # These images were not looked at.
                selection, facts["chosen_on"] = "val", f"the test images of {measured.data}"
            outcomes.append(
                grade(
                    measured,
                    self.name,
                    grading,
                    np.stack([most_likely(one, classes, grading.kept) for one in scores]),
                    runs="seeds" if len(choices) > 1 else "",
                    selection=selection,
                    bank=len(bank),
                    **facts,
                )
            )
        return outcomes

    def _choose(
        self, measured: Measured, bank: Rows, classes: NDArray[np.int64], config: EvaluationConfig
    ) -> "list[Choice]":
        import torch

        from dinoforge.evaluation.methods.linear_choice import Images, choose_probe

        # In mode `paper` the first test images, the set's own, choose the head.
        own = test_rows(measured.test, measured.gradings[0])
        labels = measured.test.labels[own]
        # A class that the bank lacks is never predicted.
        test_labels = np.where(np.isin(labels, classes), np.searchsorted(classes, labels), -1)
        train, test = (
            Images(torch.from_numpy(slots).to(measured.device), of_rows, num_val=num_val)
            for slots, of_rows, num_val in (
                (_slots(bank), np.searchsorted(classes, bank.labels), measured.num_val),
                (_slots(measured.test)[own], test_labels, 0),
            )
        )
        if measured.views:
            views = np.stack([_slots(view.labeled()) for view in measured.views])
            train = replace(train, views=_in_turn(views, measured.device))
        has_mean = bank.slots is not None
        blocks = train.slots.shape[1] - has_mean
        settings = self.settings(config)
        grid = replace(
            settings,
            blocks=sorted({min(count, blocks) for count in settings.blocks}),
            average_patches=settings.average_patches if measured.model.is_vit else [False],
        )
        if settings.weights:
            return [_published(settings.weights, train, blocks, grid, len(classes))]
        return [
            choose_probe(
                train,
                test,
                blocks=blocks,
                num_classes=len(classes),
                config=grid,
                choice=config.linear_choice,
                seed=seed,
            )
            for seed in settings.seeds
        ]


class LinearV1Stage(LinearStage):
    """The linear protocol of DINO v1: one head, of the best epoch."""

    name = "linear_v1"
    number = 34
    keys = ("linear_v1", "linear_choice", "device")
    request_keys = ("linear_v1",)

    def settings(self, config: EvaluationConfig) -> LinearConfig:
        """Return the section of this protocol."""
        return config.linear_v1


def _published(
    file: str, train: "Images", blocks: int, grid: LinearConfig, num_classes: int
) -> "Choice":
    """Take a head from a file; nothing is trained or chosen."""
    from dinoforge.evaluation.methods.linear_choice import Choice
    from dinoforge.evaluation.methods.linear_files import read_dino_head
    from dinoforge.evaluation.methods.linear_grid import Slots

    slots = Slots(blocks, train.slots.shape[1] > blocks, train.slots.shape[2])
    ((count, with_mean),) = grid.inputs
    probe = read_dino_head(
        Path(file), slots, blocks=count, average_patches=with_mean, num_classes=num_classes
    )
    device = train.slots.device
    probe = replace(probe, weights=probe.weights.to(device), bias=probe.bias.to(device))
    name = f"the head {Path(file).name}"
    return Choice(probe, 0, "none", "", name, [probe.head], np.zeros((0, 1)))


def _slots(rows: Rows) -> NDArray[np.float32]:
    """Return what heads read, ``[n, S, D]``, of norm about sqrt(D), for which the rates are.

    That is the norm after a LayerNorm; other encoders give rows of norm 1.
    """
    if rows.slots is not None:
        return rows.slots
    (vectors,) = rows.features.values()
    return vectors[:, None] * np.float32(vectors.shape[1] ** 0.5)


def _in_turn(views_VnSD: NDArray[np.float32], device: str) -> "Views":
    """Return the views of images, another one in each pass over them."""
    import torch

    num_views, num = views_VnSD.shape[:2]

    def views(rows: NDArray[np.int64], step: int) -> "Tensor":
        of_pass = (step * len(rows) // num) % num_views
        return torch.from_numpy(views_VnSD[of_pass, rows]).to(device)

    return views


def _facts(choices: "Sequence[Choice]", views: int) -> dict[str, Any]:
    heads = [choice.probe.head for choice in choices]
    names = [f"{h.blocks} cls" + (" + patch_mean" if h.average_patches else "") for h in heads]
    rates, epochs = [head.rate for head in heads], [choice.epoch for choice in choices]
    first = choices[0]
    return {
        "features": ", ".join(dict.fromkeys(names)),
        "rate": rates if len(rates) > 1 else rates[0],
        "epoch": epochs if len(epochs) > 1 else epochs[0],
        "heads": len(first.heads),
        "chosen_on": first.chosen_on,
        "training": f"{views} {first.training}" if views else first.training,
    }

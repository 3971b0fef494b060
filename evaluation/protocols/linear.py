"""The linear grid: all heads in one optimization, one of them chosen."""

import logging
from dataclasses import replace

import numpy as np

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.features import VectorRequest
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Measured, Outcome
from dinoforge.evaluation.stages.protocol import VectorStage
from dinoforge.evaluation.tables import Items

__all__ = ["LinearStage"]

_log = logging.getLogger(__name__)


class LinearStage(VectorStage):
    """Linear heads on class tokens and patch means, or on the only vector of other encoders."""

    name = "linear"
    number = 33
    keys = ("linear", "linear_choice", "seed", "device")
    request_keys = ("linear",)

    def suits(self, model: Model, items: Items) -> bool:
        """Whether the model is a network and the images have classes."""
        return super().suits(model, items) and not model.is_pixels

    def request(
        self,
        config: EvaluationConfig,
        model: Model,
        items: Items,  # noqa: ARG002
    ) -> VectorRequest:
        """Ask for the class tokens of the last blocks of a ViT."""
        return VectorRequest(max(config.linear.blocks) if model.file else 1)

    def measure(self, measured: Measured, config: EvaluationConfig) -> list[Outcome]:
        """Train the grid, choose a head, and measure it."""
        import torch

        from dinoforge.evaluation.methods.linear_choice import Images, choose_probe

        labeled = measured.labeled()
        bank, test = labeled.bank, labeled.test
        classes = np.unique(bank.labels)
        if labeled.leave_one_out or not len(test) or len(classes) < 2:
            name = labeled.model.name
            _log.warning("%s: linear probe skipped: needs test images and two classes", name)
            return []
        slots = [
            part.slots if part.slots is not None else next(iter(part.features.values()))[:, None]
            for part in (bank, test)
        ]
        has_mean = bank.slots is not None
        blocks = slots[0].shape[1] - has_mean
        grid = replace(
            config.linear,
            blocks=sorted({min(count, blocks) for count in config.linear.blocks}),
            average_patches=config.linear.average_patches if has_mean else [False],
        )
        # A class that the bank lacks is never predicted.
        labels = [np.searchsorted(classes, part.labels) for part in (bank, test)]
        labels[1] = np.where(np.isin(test.labels, classes), labels[1], -1)
        train, held = (
            Images(torch.from_numpy(rows).to(labeled.device), of_rows.astype(np.int64))
            for rows, of_rows in zip(slots, labels, strict=True)
        )
        choice = choose_probe(
            train,
            held,
            blocks=blocks,
            num_classes=len(classes),
            config=grid,
            choice=config.linear_choice,
            seed=config.seed,
        )
        head = choice.probe.head
        predicted = choice.probe.scores(held.slots).argmax(dim=1).cpu().numpy()
        return [
            labeled.accuracy(
                "linear",
                predicted == held.labels,
                selection=choice.selection,
                features=f"{head.blocks} cls" + (" + patch_mean" if head.average_patches else ""),
                rate=head.rate,
                epoch=choice.epoch,
                heads=len(choice.heads),
                chosen_on=choice.chosen_on,
                training=choice.training,
                bank=len(bank),
            )
        ]

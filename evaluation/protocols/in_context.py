"""In-context segmentation: the classes of the nearest labeled patches, without training."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dinoforge.evaluation.config import EvaluationConfig
from dinoforge.evaluation.layouts.dense import DenseSet
from dinoforge.evaluation.models import Model
from dinoforge.evaluation.outcomes import Outcome
from dinoforge.evaluation.protocols.dense import (
    areas_per_unit,
    last_blocks,
    name_blocks,
    segmentation_outcome,
    units_of,
    whole_patches,
)
from dinoforge.evaluation.protocols.dense_baselines import (
    baseline_grid,
    class_constants,
    color_and_position,
    some_of,
)
from dinoforge.evaluation.settings import InContextConfig
from dinoforge.evaluation.stages.protocol import Task, TruthStage, Units
from dinoforge.evaluation.tables import Items
from dinoforge.evaluation.tokens import TokenRequest

if TYPE_CHECKING:
    from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

__all__ = ["InContextStage"]

_LABELS_PER_SIDE = 5  # of a cell, in the baselines by position


class InContextStage(TruthStage):
    """The nearest patches by the last block; without a network constants, color and position."""

    name = "in_context"
    number = 41
    keys = ("in_context", "device")
    request_keys = ("in_context",)

    def request(
        self,
        config: EvaluationConfig,
        model: Model,
        items: Items,  # noqa: ARG002
    ) -> TokenRequest:
        """Ask for the last block, with the final LayerNorm."""
        (block,) = last_blocks(model, 1)
        size = whole_patches(config.in_context.size, model.patch_size)
        return TokenRequest(arrays=(f"patches-{block}",), size=size)

    def units(self, task: Task) -> Units:
        """Resample images, or blocks of neighboring frames."""
        return units_of(task)

    def measure(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure the test images with every choice of patches."""
        from dinoforge.evaluation.methods.dense.linear_head import PatchFeatures

        train, test = task.truth
        assert task.tokens is not None, "a network gives tokens"
        (block,) = last_blocks(task.model, 1)
        known, asked = (
            PatchFeatures([task.tokens.stacked(f"patches-{block}", rows)])
            for rows in (task.items.bank, task.items.test)
        )
        settings = config.in_context
        runs = [
            _areas(known, train, asked, test, settings, seed, task.device)
            for seed in settings.seeds
        ]
        facts = _facts(settings) | {"features": name_blocks(1)}
        return [segmentation_outcome(task, self.name, runs, test, **facts)]

    def measure_baselines(self, task: Task, config: EvaluationConfig) -> list[Outcome]:
        """Measure constants, and the nearest patches by color and position."""
        settings = config.in_context
        few, test = some_of(task.truth[0]), task.truth[1]
        grid = baseline_grid(settings.size)
        known, asked = color_and_position(few, test, grid, config.decode)
        runs = [
            _areas(known, few, asked, test, settings, seed, task.device) for seed in settings.seeds
        ]
        name, facts = "color and position", _facts(settings) | {"baseline": True}
        return [
            *class_constants(task, self.name, grid, _LABELS_PER_SIDE),
            segmentation_outcome(task.of(name), self.name, runs, test, **facts),
        ]


def _areas(
    known: "PatchFeatures",
    train: DenseSet,
    asked: "PatchFeatures",
    test: DenseSet,
    settings: InContextConfig,
    seed: int,
    device: str,
) -> NDArray[Any]:
    """Return the areas of every unit with the patches that a seed chooses."""
    import torch

    from dinoforge.evaluation.methods.dense.in_context import (
        InContext,
        label_shares,
        patch_distributions,
        remember_patches,
    )
    from dinoforge.evaluation.methods.dense.segmentation_head import predict_labels

    chosen = InContext(
        memory=settings.memory,
        min_labeled=settings.min_labeled,
        k=settings.k,
        temperature=settings.temperature,
        seed=seed,
    )

    def labeled() -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        for number, item in enumerate(train.items):
            labels = train.read_labels(item)
            shares = label_shares(labels, known.grid, num_classes=len(test.classes))
            yield known.rows(np.array([number]))[0].numpy(), shares

    memory = remember_patches(labeled(), chosen)

    def predict(image: int, size: tuple[int, int]) -> NDArray[np.int64]:
        features = asked.rows(np.array([image])).numpy()
        shares = patch_distributions(memory, features, chosen, device=device)
        return predict_labels(torch.from_numpy(shares), size)[0]

    return areas_per_unit(predict, test)


def _facts(settings: InContextConfig) -> dict[str, Any]:
    return {
        "neighbors": settings.k,
        "temperature": settings.temperature,
        "memory": settings.memory,
        "size": list(settings.size),
    }
